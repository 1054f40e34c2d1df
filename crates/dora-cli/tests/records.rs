//! What a run leaves: metrics, its record, an adapter or a model that evaluates to what training reported, and the same run
//! again from a file of options.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::*;

/// Rows of ids that every golden model has in its embedding.
fn small_rows(n: u32) -> Vec<Value> {
    let row = |i: u32| {
        let ids: Vec<u32> = (0..5 + i % 4).map(|t| 3 + (7 * i + 5 * t * t) % 45).collect();
        json!({ "input_ids": ids, "labels": ids })
    };
    (0..n).map(row).collect()
}

/// Trains a model with held-out rows; gives the output folder, and the held-out rows' file.
fn trained(room: &Room, model: &Path, options: &[&str]) -> (PathBuf, PathBuf) {
    let (data, held_out, out) =
        (room.rows("rows.jsonl", &small_rows(8)), room.rows("held-out.jsonl", &small_rows(11)[8..]), room.path("out"));
    let mut line = vec!["--eval-data", shown(&held_out)];
    line.extend(options);
    train(model, &data, &out, &line).good();
    (out, held_out)
}

#[track_caller]
fn close(found: &Value, expected: f64, within: f64) {
    let found = found.as_f64().unwrap();
    assert!((found - expected).abs() <= within * expected, "{found} {expected}");
}

#[test]
fn metrics_have_the_documented_keys() {
    let room = Room::new();
    let (out, _) = trained(&room, &plain(), &["--batch-size=4", "--epochs=2", "--eval-every=2", "--warmup-steps=2"]);
    let lines = metrics(&out);
    let (steps, evaluations): (Vec<&Value>, Vec<&Value>) = lines.iter().partition(|line| line.get("loss").is_some());
    for (step, at) in steps.iter().zip(1..) {
        assert_eq!(keys(step), ["epoch", "grad_norm", "loss", "lr", "peak_rss_mb", "step", "tokens", "tokens_per_s"]);
        assert_eq!((&step["step"], &step["epoch"]), (&json!(at), &json!(f64::from(at) / 2.0)));
        assert!(step.as_object().unwrap().values().all(|v| v.as_f64().is_some_and(|x| x >= 0.0)), "{step}");
    }
    for evaluation in &evaluations {
        assert_eq!(keys(evaluation), ["eval_loss", "eval_perplexity", "eval_s", "eval_tokens", "step"]);
        close(&evaluation["eval_perplexity"], evaluation["eval_loss"].as_f64().unwrap().exp(), 1e-9);
    }
    let at = |lines: &[&Value]| lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!((at(&steps), at(&evaluations)), (vec![1, 2, 3, 4], vec![0, 2, 4]));
    let rates: Vec<f64> = steps.iter().map(|step| step["lr"].as_f64().unwrap() / 2e-4).collect();
    assert!(rates[0] < rates[1] && rates[2] > rates[3], "{rates:?}");
}

#[test]
fn the_record_of_a_run() {
    let room = Room::new();
    let (out, held_out) = trained(&room, &plain(), &["--batch-size=3", "--lr=1e-2", "--rank=3", "--seed=9"]);
    let run = read_json(&out.join("run.json"));
    let expected = [
        "adapter_config",
        "all_params",
        "base_blake3",
        "data",
        "dora_version",
        "eval_data",
        "notes",
        "predicted_peak_mb",
        "predicted_terms_mb",
        "results",
        "settings",
        "trainable_params",
    ];
    assert_eq!(keys(&run), expected);
    let terms: f64 = run["predicted_terms_mb"].as_object().unwrap().values().map(|term| term.as_f64().unwrap()).sum();
    assert!((terms / run["predicted_peak_mb"].as_f64().unwrap() - 1.0).abs() < 0.01, "{terms}");
    assert_eq!(run["dora_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(run["adapter_config"], read_json(&out.join("adapter_config.json")));
    let sha256 = |path: &Path| format!("{:x}", Sha256::digest(fs::read(path).unwrap()));
    assert_eq!(run["data"]["sha256"], sha256(&room.path("rows.jsonl")));
    assert_eq!(run["eval_data"]["sha256"], sha256(&held_out));
    let files = ["config.json", "model.safetensors"]
        .map(|name| *blake3::hash(&fs::read(plain().join(name)).unwrap()).as_bytes());
    assert_eq!(run["base_blake3"], blake3::hash(&files.concat()).to_string());
    let settings = &run["settings"];
    for (key, value) in [
        ("method", json!("dora")),
        ("lr", json!(1e-2)),
        ("lr_magnitude", json!(1e-2)),
        ("schedule", json!("linear")),
        ("batch_size", json!(3)),
        ("max_steps", json!(9)),
        ("seed", json!(9)),
        ("max_seq_len", json!(512)),
        ("max_grad_norm", json!(1.0)),
        ("packing", json!(false)),
        ("threads", json!(1)),
    ] {
        assert_eq!(settings[key], value, "{key}");
    }
    let results = &run["results"];
    let lines = metrics(&out);
    assert_eq!((&results["ending"], &results["steps"]), (&json!("finished"), &json!(9)));
    assert_eq!(results["final_loss"], *losses(&out).last().unwrap());
    assert_eq!(results["eval_loss_before"], lines[0]["eval_loss"]);
    assert_eq!(results["eval_loss_after"], lines[10]["eval_loss"]);
    assert_eq!(results["tokens"], lines.iter().filter_map(|line| line["tokens"].as_u64()).sum::<u64>());
}

#[test]
fn adapters_and_merged_models_evaluate_to_what_training_reported() {
    for (case, method) in [("llama_plain", "dora"), ("llama_plain", "lora"), ("llama_tied_bias", "dora")] {
        let (room, model) = (Room::new(), golden(case).join("model"));
        let options = ["--method", method, "--lr=1e-2", "--batch-size=4", "--epochs=4"];
        let (out, held_out) = trained(&room, &model, &options);
        let results = read_json(&out.join("run.json"))["results"].clone();
        close(&results["eval_loss_before"], eval_loss(&model, None, &held_out), 1e-6);
        let reported = results["eval_loss_after"].as_f64().unwrap();
        close(&json!(eval_loss(&model, Some(&out), &held_out)), reported, 1e-6);
        let merged = room.path("merged");
        let line = ["merge", "--model", shown(&model), "--adapter", shown(&out), "--output", shown(&merged)];
        dora(line).good();
        close(&json!(eval_loss(&merged, None, &held_out)), reported, 1e-5);
        assert!((reported - results["eval_loss_before"].as_f64().unwrap()).abs() > 1e-2, "{results}");
    }
}

#[test]
fn full_trains_every_weight() {
    for (case, within) in [
        ("llama_plain", 1e-6),
        ("llama_tied_bias", 1e-6),
        ("llama_f16", 1e-3),
        ("llama_linear_rope_sharded_bf16", 1e-2),
    ] {
        let (room, model) = (Room::new(), golden(case).join("model"));
        let options = ["--method=full", "--lr=1e-2", "--batch-size=4", "--epochs=2"];
        let (out, held_out) = trained(&room, &model, &options);
        assert!(!out.join("adapter_config.json").exists());
        assert_eq!(read_json(&out.join("config.json")), read_json(&model.join("config.json")));
        let results = read_json(&out.join("run.json"))["results"].clone();
        let after = results["eval_loss_after"].as_f64().unwrap();
        assert!((after - results["eval_loss_before"].as_f64().unwrap()).abs() > 1e-2, "{results}");
        close(&json!(eval_loss(&out, None, &held_out)), after, within);
        let open = |dir: &Path| dora_models::checkpoint::Checkpoint::open(dir).unwrap();
        let (base, full) = (open(&model), open(&out));
        assert!(base.names().eq(full.names()));
        for name in base.names() {
            let (base, full) = (base.tensor(name).unwrap(), full.tensor(name).unwrap());
            assert_eq!((base.dtype(), base.shape()), (full.dtype(), full.shape()), "{name}");
            assert!(base.to_vec() != full.to_vec(), "{case}: {name}");
        }
    }
}

#[test]
fn a_run_file_is_the_same_run() {
    let room = Room::new();
    let (flags, file) = (room.path("flags"), room.path("file"));
    let data = room.rows("rows.jsonl", &small_rows(8));
    let options =
        ["--method=lora", "--rank=3", "--use-rslora", "--lr=1e-2", "--max-steps=3", "--target-modules=q_proj,v_proj"];
    train(&plain(), &data, &flags, &options).good();
    let settings = json!({
        "model": plain(), "data": [data], "output": "elsewhere", "method": "lora", "rank": 3, "use_rslora": true,
        "lr": 1e-2, "max_steps": 3, "target_modules": "q_proj,v_proj", "packing": false,
    });
    let run = room.write("run-file.json", settings.to_string());
    // What is also on the command line is taken from there.
    dora(["train", "--config", shown(&run), "--output", shown(&file)]).good();
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        assert!(fs::read(flags.join(name)).unwrap() == fs::read(file.join(name)).unwrap(), "{name}");
    }
    assert_eq!(losses(&flags), losses(&file));
    assert_eq!(losses(&flags).len(), 3);
    let [mut by_flags, by_file] = [&flags, &file].map(|out| read_json(&out.join("run.json"))["settings"].clone());
    by_flags["output"] = json!(file);
    assert_eq!(by_flags, by_file);
}
