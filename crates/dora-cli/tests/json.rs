//! With `--json` all else that is to be said goes to stderr, and the record of a run has the same keys whatever was
//! trained; the objects of plain commands are in `json_output.rs`.

mod support;

use serde_json::{Value, json};
use support::*;

/// The one object of a command, with `--json` before it and behind its options.
#[track_caller]
fn object(line: &[&str]) -> Value {
    let before = dora(["--json"].iter().chain(line)).good().object();
    let room = Room::new();
    // A second output folder, where there is one, so that the second run is not one over the first's files.
    let other = room.path("other");
    let mut again = line.to_vec();
    if let Some(at) = line.iter().position(|word| *word == "--output") {
        again[at + 1] = shown(&other);
    }
    let behind = dora(again.iter().chain(&["--json"])).good().object();
    assert_eq!(keys(&before), keys(&behind));
    before
}

#[test]
fn all_linear_layers_of_a_llama_3_8b() {
    let room = Room::new();
    let config = json!({
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192, "tie_word_embeddings": false,
    });
    let config = room.write("llama/config.json", config.to_string());
    let dir = config.parent().unwrap();
    // The default is DoRA of rank 16 on all linear layers, and 4 bits change no count.
    for (options, trainable) in [
        (&[][..], 43_319_296u64),
        (&["--method=qdora", "--target-modules=all-linear"], 43_319_296),
        (&["--method=lora"], 41_943_040),
        (&["--method=lora", "--rank=8", "--target-modules=q_proj,v_proj"], 3_407_872),
        (&["--method=dora", "--rank=8", "--target-modules=.*self_attn\\.[qv]_proj"], 3_571_712),
    ] {
        let line: Vec<&str> = ["params", "--model", shown(dir)].iter().chain(options).copied().collect();
        let counts = object(&line);
        assert_eq!(counts["trainable"], trainable, "{options:?}");
        assert_eq!(counts["all"], 8_030_261_248 + trainable, "{options:?}");
    }
    let line = "trainable params: 43,319,296 || all params: 8,073,580,544 || trainable%: 0.5366\n";
    assert_eq!(dora(["params", "--model", shown(dir)]).good().out, line);
}

#[test]
fn a_record_has_the_same_keys_for_every_method() {
    let room = Room::new();
    let (data, model) = (room.rows("rows.jsonl", &token_rows(4)), plain());
    let results = [
        "ending",
        "eval_loss_after",
        "eval_loss_before",
        "final_loss",
        "not_finite",
        "peak_rss_mb",
        "profile",
        "start_s",
        "steps",
        "tokens",
        "tokens_per_s",
        "wall_s",
    ];
    let mut settings: Option<Vec<String>> = None;
    for method in ["lora", "dora", "qlora", "qdora", "full"] {
        let out = room.path(method);
        let line = ["train", "--model", shown(&model), "--data", shown(&data), "--output", shown(&out)];
        let run = object(&line.iter().chain(&["--method", method, "--max-steps=1"]).copied().collect::<Vec<_>>());
        assert_eq!(run, read_json(&out.join("run.json")), "{method}");
        assert_eq!(run["settings"]["method"], method);
        assert_eq!(keys(&run["results"]), results);
        let found: Vec<String> = keys(&run["settings"]).into_iter().map(str::to_owned).collect();
        assert_eq!(settings.get_or_insert_with(|| found.clone()), &found, "{method}");
        let nf4 = if method.starts_with('q') { json!({ "block_size": 64, "double_quant": true }) } else { Value::Null };
        assert_eq!(run["settings"]["nf4"], nf4, "{method}");
        assert_eq!(run["adapter_config"].is_null(), method == "full");
        assert!(run["results"]["profile"].is_null());
        let seconds = |key: &str| run["results"][key].as_f64().unwrap();
        assert!(0.0 < seconds("start_s") && seconds("start_s") < seconds("wall_s"));
    }
    let out = room.path("profile");
    let line = ["train", "--model", shown(&model), "--data", shown(&data), "--output", shown(&out)];
    let run = object(&line.iter().chain(&["--method=dora", "--max-steps=2", "--profile"]).copied().collect::<Vec<_>>());
    let operations = run["results"]["profile"]["operations"].as_array().unwrap();
    let dora = operations.iter().find(|o| o["operation"] == "dora backward").unwrap();
    assert!(dora["calls"].as_u64() >= Some(2) && dora["flops"].as_u64() > Some(0) && dora["bytes"].as_u64() > Some(0));
}

#[test]
fn notes_and_progress_go_to_stderr() {
    let room = Room::new();
    let model = room.copy(&plain(), "model");
    let mut config = read_json(&model.join("config.json"));
    config["a_field_of_tomorrow"] = json!(1);
    room.write("model/config.json", config.to_string());
    let long = json!({ "input_ids": vec![5; 20], "labels": vec![5; 20] });
    let data = room.rows("rows.jsonl", &[token_rows(1), vec![long]].concat());
    let drop = ["--max-seq-len=16", "--long-rows=drop"];
    let ran = dora(["eval", "--json", "--model", shown(&model), "--data", shown(&data)].iter().chain(&drop)).good();
    let found = ran.object();
    assert_eq!((&found["rows"], &found["dropped_long"]), (&json!(1), &json!(1)));
    let notes = [
        "note: config.json has fields that nobody here knows: a_field_of_tomorrow",
        "note: 1 of 2 rows left out: longer than --max-seq-len",
    ];
    assert_eq!(ran.err.lines().collect::<Vec<_>>(), notes);
    let ran = train(&model, &data, &room.path("out"), &[&["--json", "--max-steps=1"], &drop[..]].concat()).good();
    ran.object();
    assert!(ran.err.lines().any(|line| line.starts_with("step 1/1  loss ")), "{}", ran.err);
    assert!(notes.iter().all(|note| ran.err.contains(note)), "{}", ran.err);
}

#[test]
fn with_an_adapter_and_held_out_rows() {
    let room = Room::new();
    let (data, model) = (room.rows("rows.jsonl", &token_rows(4)), plain());
    let (adapter, merged) = (golden("lora_rslora/adapter"), room.path("merged"));
    let eval = object(&["eval", "--model", shown(&model), "--adapter", shown(&adapter), "--data", shown(&data)]);
    let line = ["merge", "--model", shown(&model), "--adapter", shown(&adapter), "--output", shown(&merged)];
    let merge = object(&line.iter().chain(&["--eval-data", shown(&data)]).copied().collect::<Vec<_>>());
    assert_eq!(merge["output"], json!(merged));
    let [by_adapter, by_merge] = [&eval["loss"], &merge["eval_loss"]].map(|loss| loss.as_f64().unwrap());
    assert!((by_adapter - by_merge).abs() <= 1e-5 * by_adapter, "{by_adapter} {by_merge}");
    let base = eval_loss(&model, None, &data);
    assert!((base - by_adapter).abs() > 1e-4, "{base} {by_adapter}");
    // An empty text is a text: a prompt with nothing to add still gives the object.
    let nothing = object(&["generate", "--model", shown(&embedded()), "--prompt=a", "--max-new-tokens=0"]);
    assert_eq!((&nothing["new_tokens"], &nothing["text"]), (&json!(0), &json!("")));
    assert_eq!(nothing["stop"], "length");
}
