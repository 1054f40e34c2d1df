//! Runs whose figures stop being finite: exit code 1, the step named, and neither metrics nor a saved file with anything in
//! them that is not finite.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use support::*;

/// A copy of the tiny model whose first element of a tensor is infinite.
fn poisoned(room: &Room, tensor: &str) -> PathBuf {
    let model = room.copy(&plain(), "model");
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let start = 8 + length + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[start..start + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(path, bytes).unwrap();
    model
}

/// Every figure of the metrics is there and finite: JSON has no NaN, and serde writes null for it.
#[track_caller]
fn finite_metrics(out: &Path) -> usize {
    let lines = metrics(out);
    for line in &lines {
        assert!(line.as_object().unwrap().values().all(|v| v.as_f64().is_some_and(f64::is_finite)), "{line}");
    }
    lines.len()
}

#[track_caller]
fn finite_tensors(path: &Path) {
    for (name, _, elements) in tensors(path) {
        assert!(elements.iter().all(|x| x.is_finite()), "{name}");
    }
}

#[test]
fn an_infinite_weight_stops_the_first_step() {
    for tensor in ["model.layers.0.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight"] {
        for method in ["lora", "dora", "full"] {
            let room = Room::new();
            let (model, out) = (poisoned(&room, tensor), room.path("out"));
            let data = room.rows("rows.jsonl", &token_rows(2));
            let ran = train(&model, &data, &out, &["--method", method]);
            let start = "error: training stopped before step 1, which changed nothing: the loss is ";
            let last = ran.err.lines().last().unwrap();
            assert!(last.starts_with(start) && last.contains(", expected a finite number"), "{method}: {}", ran.err);
            assert_eq!((ran.code, ran.out.as_str()), (1, ""));
            no_result(&out);
            assert_eq!(finite_metrics(&out), 0);
            let run = read_json(&out.join("run.json"));
            assert_eq!((&run["results"]["ending"], &run["results"]["steps"]), (&"failed".into(), &0.into()));
        }
        let room = Room::new();
        let (model, data) = (poisoned(&room, tensor), room.rows("rows.jsonl", &token_rows(2)));
        let ran = dora(["eval", "--model", shown(&model), "--data", shown(&data)]);
        assert!(ran.err.starts_with("error: the loss on held-out rows is "), "{}", ran.err);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    }
}

#[test]
fn an_absurd_learning_rate_keeps_the_last_good_step() {
    let room = Room::new();
    let data = room.rows("rows.jsonl", &token_rows(2));
    for method in ["lora", "dora"] {
        let out = room.path(method);
        let ran = train(&plain(), &data, &out, &["--method", method, "--lr=1e25", "--schedule=constant", "--epochs=9"]);
        assert!(
            ran.err.contains("\nerror: training stopped before step 2, which changed nothing: the loss is "),
            "{}",
            ran.err
        );
        assert!(ran.err.contains(&format!("\nsaved the steps before it in {}\n", shown(&out))), "{}", ran.err);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        assert_eq!(finite_metrics(&out), 1);
        finite_tensors(&out.join("adapter_model.safetensors"));
    }
}

#[test]
fn gradients_that_overflow_under_a_finite_loss() {
    let room = Room::new();
    let (data, out) = (room.rows("rows.jsonl", &token_rows(12)), room.path("out"));
    let line = ["--method=full", "--lr=1e5", "--batch-size=4", "--no-shuffle", "--schedule=constant"];
    let ran = train(&plain(), &data, &out, &line);
    let message = "training stopped before step 3, which changed nothing: the gradients' norm is NaN, expected a finite \
                   number (a lower learning rate may help)";
    refused(&ran, 1, message);
    assert_eq!(finite_metrics(&out), 2);
    finite_tensors(&out.join("model.safetensors"));
}

#[test]
fn parameters_that_overflow_are_not_saved() {
    let room = Room::new();
    let data = room.rows("rows.jsonl", &[json!({ "input_ids": [3, 4, 5, 6], "labels": [3, 4, 5, 6] })]);
    // One step, after which no loss is computed that would show it.
    for (method, model) in [("lora", "llama_plain"), ("dora", "llama_plain"), ("full", "llama_f16")] {
        let (out, lr) = (room.path(method), if method == "full" { "--lr=1e6" } else { "--lr=1e39" });
        let ran = train(&golden(model).join("model"), &data, &out, &["--method", method, lr, "--max-steps=1"]);
        let last = ran.err.lines().last().unwrap();
        assert!(last.contains(" has elements that are not finite in "), "{method}: {}", ran.err);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{method}");
        no_result(&out);
    }
}
