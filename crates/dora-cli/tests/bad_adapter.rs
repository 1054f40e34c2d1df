//! Adapters, on file or asked for, that do not fit: exit code 2, the file, setting or tensor named.

mod support;

use std::fs;
use std::path::Path;

use serde_json::json;
use support::*;

/// The golden LoRA adapter (r 3 on `llama_plain`) or DoRA adapter (r 5 on `llama_tied_bias`), to be damaged.
fn adapter(room: &Room, case: &str) -> std::path::PathBuf {
    room.copy(&golden(case).join("adapter"), "adapter")
}

fn set(dir: &Path, key: &str, value: serde_json::Value) {
    let path = dir.join("adapter_config.json");
    let mut config = read_json(&path);
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

/// Evaluates, merges and continues, expecting a refusal of the adapter; `ADAPTER` in the message stands for its folder.
#[track_caller]
fn refuses(room: &Room, model: &Path, adapter: &Path, message: &str) {
    let data = room.rows("rows.jsonl", &token_rows(2));
    let message = message.replace("ADAPTER", shown(adapter));
    let line = ["--model", shown(model), "--adapter", shown(adapter)];
    let eval = dora(["eval", "--data", shown(&data)].iter().chain(&line));
    refused(&eval, 2, &message);
    let merged = room.path("merged");
    refused(&dora(["merge", "--output", shown(&merged)].iter().chain(&line)), 2, &message);
    no_result(&merged);
    let out = room.path("out");
    let config = fs::read_to_string(adapter.join("adapter_config.json")).unwrap_or_default();
    let method = if config.contains("\"use_dora\": true") { "--method=dora" } else { "--method=lora" };
    refused(&train(model, &data, &out, &["--init-adapter", shown(adapter), method]), 2, &message);
    no_result(&out);
}

#[test]
fn of_another_base() {
    let room = Room::new();
    let dir = adapter(&room, "dora_seven");
    let ran = dora(["merge", "--model", shown(&plain()), "--adapter", shown(&dir), "--output", shown(&room.path("m"))]);
    let start =
        format!("error: {}: tensor base_model.model.model.layers.", shown(&dir.join("adapter_model.safetensors")));
    assert!(ran.err.starts_with(&start) && ran.err.contains("found shape ["), "{}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    no_result(&room.path("m"));
    // A base with one block less: every layer of its own is there, and more.
    let model = room.copy(&plain(), "model");
    let mut config = read_json(&model.join("config.json"));
    config["num_hidden_layers"] = json!(1);
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let dir = room.copy(&golden("lora_rslora/adapter"), "lora");
    let ran = dora(["merge", "--model", shown(&model), "--adapter", shown(&dir), "--output", shown(&room.path("m"))]);
    assert!(ran.err.contains("(is this adapter for another base model?)"), "{}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    no_result(&room.path("m"));
}

#[test]
fn magnitude_without_use_dora() {
    let room = Room::new();
    let dir = adapter(&room, "dora_seven");
    set(&dir, "use_dora", json!(false));
    let message = "ADAPTER/adapter_model.safetensors: tensor \
                   base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector: found it, expected none, as \
                   `use_dora` is false in adapter_config.json";
    refuses(&room, &golden("llama_tied_bias/model"), &dir, message);
}

#[test]
fn use_dora_without_magnitude() {
    let room = Room::new();
    let dir = adapter(&room, "lora_rslora");
    set(&dir, "use_dora", json!(true));
    let data = room.rows("rows.jsonl", &token_rows(2));
    let ran = dora(["eval", "--model", shown(&plain()), "--adapter", shown(&dir), "--data", shown(&data)]);
    let end = ".lora_magnitude_vector: found nothing, expected it, as `use_dora` is true in adapter_config.json\n";
    assert!(ran.err.ends_with(end) && ran.err.contains("adapter_model.safetensors: tensor "), "{}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
}

#[test]
fn files_that_are_missing_or_damaged() {
    let room = Room::new();
    let dir = adapter(&room, "lora_rslora");
    let tensors = dir.join("adapter_model.safetensors");
    let bytes = fs::read(&tensors).unwrap();
    fs::write(&tensors, &bytes[..bytes.len() - 4]).unwrap();
    let (found, expected) = (bytes.len() - 4, bytes.len());
    let message =
        format!("ADAPTER/adapter_model.safetensors: truncated: found {found} bytes, expected {expected} by its header");
    refuses(&room, &plain(), &dir, &message);
    fs::remove_file(&tensors).unwrap();
    let message = "cannot open ADAPTER/adapter_model.safetensors: No such file or directory (os error 2)";
    refuses(&room, &plain(), &dir, message);
    fs::write(dir.join("adapter_config.json"), "{\"r\": 3").unwrap();
    let message = "ADAPTER/adapter_config.json:1:7: EOF while parsing an object";
    refuses(&room, &plain(), &dir, message);
    fs::remove_file(dir.join("adapter_config.json")).unwrap();
    let message = "ADAPTER/adapter_config.json: cannot be read: No such file or directory (os error 2)";
    refuses(&room, &plain(), &dir, message);
}

#[test]
fn fields_that_change_the_result() {
    for (key, value) in [
        ("r", json!(0)),
        ("bias", json!("all")),
        ("fan_in_fan_out", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("layer_replication", json!([[0, 1]])),
        ("peft_type", json!("LOHA")),
        ("a_field_of_tomorrow", json!(1)),
    ] {
        let room = Room::new();
        let dir = adapter(&room, "lora_rslora");
        set(&dir, key, value);
        let merged = room.path("m");
        let ran = dora(["merge", "--model", shown(&plain()), "--adapter", shown(&dir), "--output", shown(&merged)]);
        let start = format!("error: {}: `{key}` ", shown(&dir.join("adapter_config.json")));
        assert!(ran.err.starts_with(&start), "{}", ran.err);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
        no_result(&merged);
    }
}

#[test]
fn targets_and_ranks_that_cannot_be() {
    let room = Room::new();
    let (data, out) = (room.rows("rows.jsonl", &token_rows(2)), room.path("out"));
    for (option, message) in [
        ("--target-modules=q_porj", "target module `q_porj` matches no linear layer; nearest: "),
        ("--target-modules=q_proj,nothing", "target module `nothing` matches no linear layer; nearest: "),
        (r"--target-modules=.*\.wq", r#"`target_modules` ".*\\.wq" matches no linear layer; the model has "#),
        ("--target-modules=(", "`target_modules` holds the pattern \"(\", which is not a regular expression here: "),
        ("--target-modules=lm_head", "`target_modules` matches `lm_head`, "),
        ("--rank=0", "`r` is 0, expected "),
        ("--dropout=1", "`lora_dropout` is 1"),
        ("--alpha=0", "`lora_alpha` is 0"),
        ("--alpha=nan", "`lora_alpha` is "),
        ("--rank-pattern=q_proj", "--rank-pattern is \"q_proj\", expected PATTERN=VALUE with a rank"),
        ("--rank-pattern=nothing=4", "`rank_pattern` holds \"nothing\", which matches no "),
        ("--exclude-modules=nothing", "`exclude_modules` holds \"nothing\", which matches no "),
        ("--layers-to-transform=0", "`layers_to_transform` is set, expected nothing unless `target_modules` is a list"),
    ] {
        let trained = train(&plain(), &data, &out, &[option]);
        let counted = dora(["params", "--model", shown(&plain()), option]);
        for ran in [trained, counted] {
            assert!(ran.err.starts_with(&format!("error: {message}")), "{option}: {}", ran.err);
            assert_eq!((ran.code, ran.out.as_str(), ran.err.lines().count()), (2, "", 1), "{option}");
        }
        no_result(&out);
    }
    let blocks = ["--target-modules=q_proj", "--layers-to-transform=0,2"];
    let message = "`layers_to_transform` holds 2, which matches no targeted layer";
    refused(&train(&plain(), &data, &out, &blocks), 2, message);
    no_result(&out);
    let misspelled = dora(["params", "--model", shown(&plain()), "--target-modules=q_porj"]);
    assert!(misspelled.err.contains("nearest: q_proj, "), "{}", misspelled.err);
}

#[test]
fn names_that_are_nearest_and_ranks_of_zero() {
    let room = Room::new();
    let (data, out) = (room.rows("rows.jsonl", &token_rows(2)), room.path("out"));
    for (option, message) in [
        ("--target-modules=q_porj", "target module `q_porj` matches no linear layer; nearest: q_proj, k_proj, v_proj"),
        ("--rank=0", "`r` is 0, expected a rank of at least 1"),
    ] {
        refused(&train(&plain(), &data, &out, &[option]), 2, message);
        refused(&dora(["params", "--model", shown(&plain()), option]), 2, message);
        no_result(&out);
    }
}

#[test]
fn merging_over_4_bits_must_say_into_what() {
    for method in ["qlora", "qdora"] {
        let room = Room::new();
        let (data, out, merged) = (room.rows("rows.jsonl", &token_rows(2)), room.path("out"), room.path("merged"));
        train(&plain(), &data, &out, &["--method", method, "--max-steps=1"]).good();
        let merge = |model: &Path, more: &[&str]| {
            let line = ["merge", "--model", shown(model), "--adapter", shown(&out), "--output", shown(&merged)];
            dora(line.iter().chain(more))
        };
        let message = "this adapter belongs to 4-bit weights, expected --merge-base dequantized (exactly what was \
                       trained) or --merge-base original (the 16-bit weights)";
        refused(&merge(&plain(), &[]), 2, message);
        // A base that is itself in 4 bits has no original.
        let quantized = room.path("quantized");
        dora(["quantize", "--model", shown(&plain()), "--output", shown(&quantized)]).good();
        refused(&merge(&quantized, &[]), 2, message);
        let path = shown(&quantized);
        let message = format!("{path} is in 4 bits, expected the original model in --model for --merge-base original");
        refused(&merge(&quantized, &["--merge-base=original"]), 2, &message);
        assert!(!merged.exists());
        for base in ["dequantized", "original"] {
            merge(&plain(), &["--merge-base", base]).good();
        }
    }
}

#[test]
fn dequantized_is_for_adapters_over_4_bits() {
    let room = Room::new();
    let (data, out, merged) = (room.rows("rows.jsonl", &token_rows(2)), room.path("out"), room.path("merged"));
    let model = plain();
    train(&model, &data, &out, &["--method=lora", "--max-steps=1"]).good();
    // One with a record that says otherwise, and one without a record.
    for adapter in [out, golden("lora_rslora/adapter")] {
        let line = ["merge", "--model", shown(&model), "--adapter", shown(&adapter), "--output", shown(&merged)];
        let message = format!(
            "{}/run.json does not say that the adapter was trained over 4-bit weights, expected the 4-bit model",
            shown(&adapter)
        );
        refused(&dora(line.iter().chain(&["--merge-base=dequantized"])), 2, &message);
        assert!(!merged.exists());
    }
}
