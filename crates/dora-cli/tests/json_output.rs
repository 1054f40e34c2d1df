//! With `--json` each command writes one object of known keys to stdout, and nothing else there.

mod support;

use std::path::PathBuf;

use serde_json::json;
use support::*;

const LLAMA_3_8B: &str = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0, "tie_word_embeddings": false}"#;

/// Rows of text for the embedded model.
fn texts(room: &Room) -> PathBuf {
    let row =
        |i: u32| json!({ "prompt": format!("User: Buy {i} apples.\nAssistant:"), "completion": " Aye, captain!" });
    room.rows("texts.jsonl", &(0..4).map(row).collect::<Vec<_>>())
}

#[test]
fn params_prints_pefts_line() {
    let room = Room::new();
    room.write("config.json", LLAMA_3_8B);
    let config = room.path("config.json");
    let model = shown(config.parent().unwrap());
    let seven = "--target-modules=q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj";
    let two = "--target-modules=q_proj,v_proj";
    for (method, rank, targets, line) in [
        ("dora", 16, seven, "trainable params: 43,319,296 || all params: 8,073,580,544 || trainable%: 0.5366"),
        ("lora", 16, seven, "trainable params: 41,943,040 || all params: 8,072,204,288 || trainable%: 0.5196"),
        ("lora", 8, two, "trainable params: 3,407,872 || all params: 8,033,669,120 || trainable%: 0.0424"),
        ("dora", 8, two, "trainable params: 3,571,712 || all params: 8,033,832,960 || trainable%: 0.0445"),
    ] {
        let rank = format!("--rank={rank}");
        let command = ["params", "--model", model, "--method", method, &rank, targets];
        assert_eq!(dora(command).good().out, format!("{line}\n"));
        let object = dora(command.into_iter().chain(["--json"])).good().object();
        assert_eq!(keys(&object), ["all", "trainable", "trainable_percent"]);
        let number = |text: &str| text.replace(',', "").parse::<u64>().unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!((&object["trainable"], &object["all"]), (&json!(number(words[2])), &json!(number(words[6]))));
    }
}

#[test]
fn train_gives_its_record() {
    let room = Room::new();
    let out = room.path("out");
    let ran = train(&embedded(), &texts(&room), &out, &["--json", "--max-steps=2"]).good();
    assert_eq!(ran.object(), read_json(&out.join("run.json")));
    let plainly = train(&embedded(), &texts(&room), &out, &["--max-steps=2"]).good();
    assert!(plainly.out.starts_with("trained 2 steps, last loss ") && plainly.out.lines().count() == 1, "{plainly:?}");
    assert!(plainly.err.contains("trainable params: "), "{plainly:?}");
}

#[test]
fn eval_and_generate() {
    let room = Room::new();
    let object = eval(&embedded(), None, &texts(&room));
    let expected = [
        "data_sha256",
        "dropped_long",
        "dropped_unlabelled",
        "labelled_tokens",
        "loss",
        "perplexity",
        "rows",
        "seconds",
        "truncated",
    ];
    assert_eq!(keys(&object), expected);
    assert_eq!(object["rows"], 4);
    let (model, prompt) = (embedded(), "User: I am done with this: water the roses.\nAssistant:");
    let line = ["generate", "--model", shown(&model), "--prompt", prompt, "--max-new-tokens=40"];
    let object = dora(line.into_iter().chain(["--json"])).good().object();
    assert_eq!(keys(&object), ["new_tokens", "prompt", "prompt_tokens", "stop", "text"]);
    assert_eq!(object["stop"], "eos");
    // The text as it streams is the text as a whole.
    assert_eq!(dora(line).good().out, format!("{}\n", object["text"].as_str().unwrap()));
    let drawn = |seed| {
        let more = ["--json", "--temperature=5", "--top-k=200", "--seed", seed];
        dora(line.into_iter().chain(more)).good().object()["text"].clone()
    };
    assert_eq!(drawn("1"), drawn("1"));
    assert!(drawn("1") != drawn("2"));
}

#[test]
fn merge_and_quantize() {
    let room = Room::new();
    let (merged, quantized, model) = (room.path("merged"), room.path("quantized"), plain());
    let adapter = golden("lora_rslora/adapter");
    let line = ["--json", "merge", "--model", shown(&model), "--adapter", shown(&adapter), "--output", shown(&merged)];
    let object = dora(line).good().object();
    assert_eq!(keys(&object), ["eval_loss", "merged_layers", "output"]);
    assert_eq!(object["output"], json!(merged));
    assert!(object["merged_layers"].as_u64().unwrap() > 0);
    let line = ["--json", "quantize", "--model", shown(&model), "--output", shown(&quantized)];
    let object = dora(line).good().object();
    assert_eq!(object, json!({ "output": quantized, "quantized_layers": 14 }));
}

#[test]
fn quickstart() {
    let room = Room::new();
    let out = room.path("quick start");
    let ran = dora(["quickstart", "--json", "--threads=2", "--output", shown(&out)]).good();
    let object = ran.object();
    let expected = [
        "adapter",
        "all_params",
        "eval_loss_after",
        "eval_loss_before",
        "merged",
        "merged_answers_agree",
        "samples",
        "seconds",
        "trainable_params",
    ];
    assert_eq!(keys(&object), expected);
    let number = |key: &str| object[key].as_f64().unwrap();
    assert!(number("eval_loss_after") < 0.5 * number("eval_loss_before"), "{object}");
    assert_eq!(object["merged_answers_agree"], true);
    let samples = object["samples"].as_array().unwrap();
    assert!(!samples.is_empty());
    for sample in samples {
        assert_eq!(keys(sample), ["after", "before", "prompt"]);
        assert!(sample["before"] != sample["after"], "{sample}");
    }
    assert_eq!((&object["adapter"], &object["merged"]), (&json!(out.join("adapter")), &json!(out.join("merged"))));
    let held_out = out.join("persona-heldout.jsonl");
    assert!(held_out.exists() && out.join("adapter/adapter_model.safetensors").exists());
    let loss = eval_loss(&out.join("merged"), None, &held_out);
    assert!((loss - number("eval_loss_after")).abs() < 2e-2, "{loss} {object}");
}
