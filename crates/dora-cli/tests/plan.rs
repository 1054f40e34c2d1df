//! `dora plan`: the course's four cases, run files that train, what fits where nothing does, and what is refused.

mod support;

use serde_json::Value;
use support::*;

fn plan(options: &[&str]) -> Ran {
    dora(["plan"].iter().chain(options))
}

fn planned(options: &[&str]) -> Value {
    plan(&[options, &["--json"]].concat()).good().object()
}

/// A method's part of a plan.
fn of<'a>(plan: &'a Value, method: &str) -> &'a Value {
    plan["methods"].as_array().unwrap().iter().find(|m| m["method"] == method).unwrap()
}

fn sentences(list: &Value) -> String {
    list.as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

/// The course's tree for a 7B, and that the run file of each answer trains (on the embedded model).
#[test]
fn the_courses_cases() {
    let room = Room::new();
    let row = |i: u32| serde_json::json!({ "prompt": format!("Buy {i} apples."), "completion": " Aye, captain!" });
    let data = room.rows("rows.jsonl", &(0..9).map(row).collect::<Vec<_>>());
    for (i, (memory, priority, expected)) in [
        ("16GB", "quality", "dora"),
        ("16GB", "compatibility", "lora"),
        ("10GB", "quality", "qdora"),
        ("8GB", "quality", "qdora"),
        ("16GB", "memory", "qlora"),
        ("8GB", "memory", "qlora"),
    ]
    .into_iter()
    .enumerate()
    {
        let (file, out) = (room.path(&format!("run{i}.json")), room.path(&format!("out{i}")));
        let memory_option = format!("--memory={memory}");
        let priority = format!("--priority={priority}");
        let options = ["--model=llama-2-7b", &memory_option, &priority, "--seq-len=128", "--rank=4"];
        let plan = planned(&[&options[..], &["--output", shown(&file)]].concat());
        assert_eq!(plan["recommended"], expected, "{memory} {priority}");
        let chosen = of(&plan, expected);
        let given = memory.trim_end_matches("GB").parse::<f64>().unwrap() * 1000.0;
        assert!(chosen["predicted_peak_mb"].as_f64().unwrap() <= given && chosen["fits"] == true, "{chosen}");
        assert_eq!(read_json(&file), plan["run_file"]);
        let number = |key: &str| plan["run_file"][key].as_u64().unwrap();
        assert_eq!(number("batch_size") * number("grad_accum"), 8);
        let config = format!("--config={}", shown(&file));
        train(&embedded(), &data, &out, &[&config, "--max-steps=3"]).good();
        let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
        assert!(last["lr"].as_f64().unwrap() > 0.0 && last["grad_norm"].as_f64().unwrap() > 0.0, "{last}");
        let settings = &read_json(&out.join("run.json"))["settings"];
        for key in ["method", "batch_size", "grad_accum", "gradient_checkpointing", "max_seq_len", "lr", "warmup_steps"]
        {
            assert_eq!(settings[key], plan["run_file"][key], "{key}");
        }
        assert_eq!(read_json(&out.join("adapter_config.json"))["r"], 4);
    }
    for (priority, expected) in [("quality", "dora"), ("compatibility", "lora"), ("memory", "qlora"), ("speed", "lora")]
    {
        let priority = format!("--priority={priority}");
        assert_eq!(planned(&["--model=llama-2-7b", &priority])["recommended"], expected);
    }
    // Where LoRA does not fit, its 4-bit form takes its place; a small model needs no 4 bits for the same memory.
    let small = ["--model=llama-2-7b", "--memory=8GB", "--priority=compatibility"];
    assert_eq!(planned(&small)["recommended"], "qlora");
    assert_eq!(planned(&["--model=llama-3.2-1b", "--memory=8GB"])["recommended"], "dora");
}

#[test]
fn terms_are_those_of_the_shape() {
    let plan = planned(&["--model=llama-3-8b", "--memory=24GiB"]);
    let methods = plan["methods"].as_array().unwrap();
    assert_eq!(methods.iter().map(|m| m["method"].as_str().unwrap()).collect::<Vec<_>>(), METHODS);
    let terms = |method| of(&plan, method)["predicted_terms_mb"].as_object().unwrap();
    for method in METHODS {
        let sum: f64 = terms(method).values().map(|mb| mb.as_f64().unwrap()).sum();
        assert!((sum - of(&plan, method)["predicted_peak_mb"].as_f64().unwrap()).abs() < 1e-3);
    }
    let term = |method, name: &str| terms(method)[name].as_f64().unwrap();
    assert!((term("full", "optimizer") - 8.0 * 8030.261248).abs() < 1e-3);
    assert!((term("lora", "weights") - 2.0 * 8030.261248).abs() < 2.0);
    // NF4 with double quantisation takes 4.127 bits a parameter; embeddings stay in 16.
    let (tables, linears) = (2.0 * 128.256 * 4.096, 8030.261248 - 2.0 * 128.256 * 4.096);
    let bits = (term("qdora", "weights") - 2.0 * tables + term("qdora", "quantisation_constants")) * 8.0 / linears;
    assert!((bits - 4.127).abs() < 2e-3, "{bits}");
    assert_eq!(
        (&of(&plan, "dora")["trainable"], &of(&plan, "lora")["trainable"]),
        (&43_319_296.into(), &41_943_040.into())
    );
    let time = |method| of(&plan, method)["relative_time"].as_f64().unwrap();
    assert!(time("lora") == time("qlora") || of(&plan, "lora")["gradient_checkpointing"] == true);
    assert!(time("full") > 1.3 && time("qdora") > time("qlora"));
}

const METHODS: [&str; 5] = ["full", "lora", "dora", "qlora", "qdora"];

#[test]
fn memory_is_saved_step_by_step() {
    let setting = |memory: &str| {
        let plan = planned(&["--model=smollm2-135m", "--seq-len=512", "--batch-size=4", "--memory", memory]);
        let dora = of(&plan, "dora");
        (
            dora["batch_size"].as_u64().unwrap(),
            dora["grad_accum"].as_u64().unwrap(),
            dora["gradient_checkpointing"] == true,
        )
    };
    assert_eq!(setting("100GB"), (4, 1, false));
    assert_eq!(setting("1500MB"), (2, 2, false));
    assert_eq!(setting("1GB"), (1, 4, false));
    assert_eq!(setting("700MB"), (4, 1, true));
    assert_eq!(setting("550MB"), (2, 2, true));
    assert_eq!(setting("1MB"), (1, 4, true));
}

#[test]
fn what_fits_where_nothing_does() {
    let shorter = planned(&["--model=llama-2-7b", "--memory=5GB", "--seq-len=4096"]);
    assert_eq!(shorter["recommended"], "qdora");
    let tokens = shorter["run_file"]["max_seq_len"].as_u64().unwrap();
    assert!((64..4096).contains(&tokens) && tokens.is_multiple_of(64), "{tokens}");
    let reasons = sentences(&shorter["reasons"]);
    assert!(reasons.contains(&format!("QDoRA fits with rows of at most {tokens} tokens: ")), "{reasons}");
    assert!(reasons.starts_with("QDoRA does not fit: "), "{reasons}");
    // One step longer would not fit.
    let longer = format!("--seq-len={}", tokens + 64);
    assert_eq!(of(&planned(&["--model=llama-2-7b", "--memory=5GB", &longer]), "qdora")["fits"], false);

    let room = Room::new();
    let options = ["--model=llama-2-7b", "--memory=2GB"];
    let none = planned(&options);
    assert_eq!((&none["recommended"], &none["run_file"]), (&Value::Null, &Value::Null));
    let reasons = sentences(&none["reasons"]);
    assert!(reasons.contains("fits at 1024 tokens with QLoRA: "), "{reasons}");
    let file = room.path("run.json");
    let ran = plan(&[&options[..], &["--output", shown(&file)]].concat());
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("nothing fits, so there is no run file") && !file.exists(), "{}", ran.err);
    let nothing = sentences(&planned(&["--model=smollm2-135m", "--memory=20MB"])["reasons"]);
    assert!(nothing.ends_with("Neither shorter rows nor a smaller built-in shape fits."), "{nothing}");
}

#[test]
fn a_folder_is_planned_as_it_is_stored() {
    let room = Room::new();
    let (model, quantized) = (plain(), room.path("quantized"));
    let plan = planned(&["--model", shown(&model)]);
    let weights = |plan: &Value, method| of(plan, method)["predicted_terms_mb"]["weights"].as_f64().unwrap();
    assert!((weights(&plan, "lora") - 4e-6 * plan["parameters"].as_f64().unwrap()).abs() < 1e-9);
    let bf16 = planned(&["--model", shown(&model), "--dtype=bf16"]);
    assert!(weights(&bf16, "lora") < 0.6 * weights(&plan, "lora") && bf16["run_file"]["dtype"] == "bf16");
    dora(["quantize", "--model", shown(&model), "--output", shown(&quantized)]).good();
    let in_4_bits = planned(&["--model", shown(&quantized)]);
    let methods: Vec<_> = in_4_bits["methods"].as_array().unwrap().iter().map(|m| m["method"].clone()).collect();
    assert_eq!((methods, &in_4_bits["recommended"]), (vec!["qlora".into(), "qdora".into()], &"qdora".into()));
    assert_eq!(weights(&in_4_bits, "qdora"), weights(&plan, "qdora"));
    // The configuration alone will do.
    std::fs::remove_file(room.copy(&model, "bare").join("model.safetensors")).unwrap();
    assert_eq!(planned(&["--model", shown(&room.path("bare"))])["parameters"], plan["parameters"]);
}

#[test]
fn text_fits_a_terminal() {
    for options in [
        ["--model=llama-3.1-70b", "--memory=80GB", "--deploy=adapter"],
        ["--model=smollm2-135m", "--rank=64", "--priority=speed"],
        ["--model=llama-2-13b", "--memory=3GB", "--priority=memory"],
    ] {
        let ran = plan(&options).good();
        let widest = ran.out.lines().max_by_key(|line| line.chars().count()).unwrap();
        assert!(widest.chars().count() <= 100, "{}: {widest}", widest.chars().count());
        assert!(ran.err.is_empty(), "{}", ran.err);
    }
    let out = plan(&["--model=llama-3-8b", "--memory=24GB", "--deploy=adapter"]).good().out;
    for part in ["recommended: DoRA", "vLLM issues 6983", "85.2, +4.4 points over LoRA", "\"method\": \"dora\""] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[test]
fn only_a_run_file_is_replaced() {
    let room = Room::new();
    let to = |file: &std::path::Path| plan(&["--model=llama-2-7b", "--output", shown(file)]);
    let new = room.path("new.json");
    for _ in 0..2 {
        to(&new).good();
    }
    assert_eq!(read_json(&new)["model"], "llama-2-7b");
    to(&room.write("empty.json", "")).good();
    for (name, kept) in [
        ("run.json", "{\"settings\": {\"model\": \"m\"}, \"notes\": []}"),
        ("config.json", "{\"model_type\": \"llama\", \"vocab_size\": 9}"),
        ("rows.json", "[{\"prompt\": \"a\", \"completion\": \"b\"}]"),
        ("other.json", "{\"rank\": 3}"),
        ("mine.txt", "words"),
    ] {
        let file = room.write(name, kept);
        let message = format!(
            "--output {} is there and no run file of `dora plan`, expected a new file or a run file",
            shown(&file)
        );
        refused(&to(&file), 2, &message);
        assert_eq!(std::fs::read_to_string(file).unwrap(), kept);
    }
}

#[test]
fn bad_input() {
    let room = Room::new();
    let empty = room.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let shapes = "smollm2-135m, smollm2-360m, tinyllama-1.1b, llama-3.2-1b, smollm2-1.7b, llama-3.2-3b, llama-2-7b, llama-3-8b, \
                  llama-3.1-8b, llama-2-13b, llama-2-70b, llama-3-70b, llama-3.1-70b";
    let unknown = format!("--model llama-9 is neither a folder nor a built-in shape, expected a folder or {shapes}");
    refused(&plan(&["--model=llama-9"]), 2, &unknown);
    for memory in ["12", "12G", "0GB", "-1GB", "nanGB", "infGiB", "", "GB"] {
        let message = format!("--memory is {memory:?}, expected a size such as 12GiB, 16GB or 900MB");
        refused(&plan(&["--model=llama-2-7b", &format!("--memory={memory}")]), 2, &message);
    }
    for seq_len in ["1", "4097"] {
        let message = format!("--seq-len is {seq_len}, expected 2 to the model's context of 4096");
        refused(&plan(&["--model=llama-2-7b", &format!("--seq-len={seq_len}")]), 2, &message);
    }
    refused(&plan(&["--model=llama-2-7b", "--rank=0"]), 2, "`r` is 0, expected a rank of at least 1");
    let missing = plan(&["--model", shown(&empty)]);
    assert!(missing.code == 2 && missing.err.contains("config.json"), "{}", missing.err);
    for option in ["--priority=fame", "--deploy=moon", "--batch-size=0"] {
        let ran = plan(&["--model=llama-2-7b", option]);
        assert!(ran.code == 2 && ran.err.starts_with("error: invalid value"), "{}", ran.err);
    }
}
