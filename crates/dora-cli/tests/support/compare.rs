//! Results for `dora compare`, made up so that their figures are known.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Room, dora, shown};

/// The record of a training.
pub fn training(method: &str, seed: u64) -> Value {
    json!({
        "settings": { "method": method, "seed": seed, "lr": 2e-4, "output": format!("{method}-{seed}") },
        "adapter_config": { "r": 16, "use_dora": method == "dora" }, "trainable_params": 1000 + seed,
        "base_blake3": "base", "data": { "sha256": "train" }, "eval_data": { "sha256": "held-out" },
        "results": { "ending": "finished", "steps": 10, "wall_s": 100.0, "tokens_per_s": 50.0, "peak_rss_mb": 1234.5 },
    })
}

/// Results of an evaluation under `NAME.jsonl`, with fields of the summary changed.
pub fn results(room: &Room, name: &str, lines: &[Value], changed: Value) -> PathBuf {
    let mut summary = json!({ "base_blake3": "base", "data_sha256": "data", "training": null });
    let fields = changed.as_object().unwrap().clone();
    summary.as_object_mut().unwrap().extend(fields);
    room.write(&format!("{name}.jsonl.summary.json"), summary.to_string());
    room.rows(&format!("{name}.jsonl"), lines)
}

/// Answers that are right or wrong.
pub fn answers(room: &Room, name: &str, right: &[bool], changed: Value) -> PathBuf {
    let line = |(i, right): (usize, &bool)| {
        json!({
            "index": i, "item": format!("q{i}"), "gold": "true", "predicted": if *right { "true" } else { "false" },
            "right": right, "parsed": true, "loss": if *right { 0.25 } else { 1.0 + i as f64 / 1000.0 },
            "losses": { "true": 1.0, "false": 1.0 }, "text": null,
        })
    };
    let lines: Vec<Value> = right.iter().enumerate().map(line).collect();
    let mut summary = json!({ "task": "answers", "by": "likelihood", "questions": right.len() });
    summary.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    results(room, name, &lines, summary)
}

/// Answers of two models: so many that both, only A, only B and neither gets right.
pub fn both(room: &Room, [both, only_a, only_b, neither]: [usize; 4]) -> (PathBuf, PathBuf) {
    let parts = [(both, true, true), (only_a, true, false), (only_b, false, true), (neither, false, false)];
    let pairs: Vec<(bool, bool)> = parts.iter().flat_map(|&(n, a, b)| vec![(a, b); n]).collect();
    let side =
        |name, of: fn(&(bool, bool)) -> bool| answers(room, name, &pairs.iter().map(of).collect::<Vec<_>>(), json!({}));
    (side("a", |p| p.0), side("b", |p| p.1))
}

/// Losses of rows of 1 to 7 tokens.
pub fn rows(room: &Room, name: &str, loss: impl Fn(usize) -> f64, changed: Value) -> PathBuf {
    let line = |i: usize| json!({ "index": i, "item": format!("r{i}"), "loss": loss(i), "tokens": 1 + i % 7 });
    let mut summary = json!({ "rows": 50 });
    summary.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    results(room, name, &(0..50).map(line).collect::<Vec<_>>(), summary)
}

/// A run's folder.
pub fn run(room: &Room, name: &str, record: &Value) -> PathBuf {
    room.write(&format!("{name}/run.json"), record.to_string());
    room.path(name)
}

/// The object of `dora compare`.
pub fn compare<P: AsRef<Path>>(paths: &[P]) -> Value {
    let line = ["--json", "compare"].into_iter().chain(paths.iter().map(|path| shown(path.as_ref())));
    dora(line).good().object()
}

/// A number, which it must be.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// A text, which it must be.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Pairs of seeds 1 to k whose share of right answers differs by about `gain` questions of 100.
pub fn seeds(room: &Room, k: u64, gain: usize) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let side = |method: &str, seed: u64, right: usize| {
        let changed = json!({ "training": training(method, seed) });
        answers(room, &format!("{method}-{seed}"), &(0..100).map(|i| i < right).collect::<Vec<_>>(), changed)
    };
    let of = |seed: u64| {
        let base = 50 + (seed as usize * 7) % 5;
        (side("lora", seed, base), side("dora", seed, base + gain + (seed as usize) % 3))
    };
    (1..=k).map(of).unzip()
}
