//! Folders and files for `dora report`, made up so that they hold everything that a page can show, with names and texts that
//! are HTML.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Room;

/// A name of a folder that is markup.
pub const HOSTILE: &str = "<img src=x onerror=alert(1)> & \"quotes\" 'n'";
/// A text that would end a style and begin a script.
pub const SCRIPT: &str = "</style></p><script>alert(2)</script>";
/// A word that no line breaks by itself.
pub const LONG: &str =
    "a_name_of_a_projection_or_a_file_that_is_far_longer_than_any_phone_is_wide_0123456789_0123456789";

/// The record of a run.
pub fn record(method: &str, seed: u64) -> Value {
    json!({
        "dora_version": "0.1.0",
        "settings": {
            "model": format!("models/{LONG}"), "data": [SCRIPT, "b.jsonl"], "output": method, "method": method, "seed": seed,
            "lr": 2e-4, "packing": false, "eval_every": null,
        },
        "adapter_config": { "r": 16, "lora_alpha": 32, "target_modules": ["q_proj", LONG], "rank_pattern": { "up": 4 } },
        "trainable_params": 4_884_480, "all_params": 139_399_488, "base_blake3": "base",
        "data": { "sha256": "train", "rows": 4957 }, "eval_data": { "sha256": "held-out", "rows": 500 },
        "predicted_peak_mb": 1200.0, "predicted_terms_mb": { "weights": 300.0, "activations": 900.0, "adapter": 0.0 },
        "results": {
            "ending": "finished", "steps": 120, "final_loss": 0.4321, "eval_loss_before": 3.25, "eval_loss_after": 0.5,
            "tokens": 9999, "tokens_per_s": 187.6, "wall_s": 172.8, "peak_rss_mb": 1260.0,
            "profile": { "seconds": 100.0, "operations": [
                { "operation": "lora forward", "calls": 3, "seconds": 62.5, "flops": 1e12, "bytes": 1e11 },
                { "operation": LONG, "calls": 0, "seconds": 37.5, "flops": 0, "bytes": 0 },
            ] },
        },
    })
}

/// Lines of `metrics.jsonl` for so many steps, with an evaluation after every 40.
pub fn steps(last: u32) -> String {
    let mut text = String::new();
    for step in 0..=last {
        let loss = 3.0 / (1.0 + 0.1 * f64::from(step)) + 0.1 * f64::from(step % 3);
        if step > 0 {
            let line = json!({ "step": step, "epoch": 0.1, "loss": loss, "lr": 2e-4, "grad_norm": 1.5, "tokens": 80,
                "tokens_per_s": 180.0 + f64::from(step % 7), "peak_rss_mb": null });
            writeln!(text, "{line}").unwrap();
        }
        if step % 40 == 0 {
            writeln!(text, "{}", json!({ "step": step, "eval_loss": loss + 0.1, "eval_tokens": 9 })).unwrap();
        }
    }
    text
}

/// A run's folder.
pub fn run(room: &Room, name: &str, record: &Value, metrics: &str) -> PathBuf {
    room.write(&format!("{name}/run.json"), record.to_string());
    room.write(&format!("{name}/metrics.jsonl"), metrics);
    room.path(name)
}

/// A result of `dora eval --task answers --output`, of which question i is right where `right(i)`.
pub fn evaluation(room: &Room, name: &str, training: &Value, right: impl Fn(usize) -> bool) -> PathBuf {
    let line = |i: usize| {
        let answer = if right(i) { "true" } else { "false" };
        json!({ "index": i, "item": format!("q{i}"), "gold": "true", "predicted": answer, "right": right(i), "parsed": true,
            "loss": 0.5 + (i % 5) as f64 / 10.0, "losses": null, "text": null })
    };
    let summary = json!({
        "task": "answers", "by": "likelihood", "questions": 100, "accuracy": (0..100).filter(|i| right(*i)).count() as f64 / 100.0,
        "accuracy_low": 0.2, "accuracy_high": 0.4, "guessing": 0.25, "unparsed_share": 0.0, "loss": 0.7,
        "base_blake3": "base", "data_sha256": "questions", "training": training,
    });
    room.write(&format!("{name}.summary.json"), summary.to_string());
    room.rows(name, &(0..100).map(line).collect::<Vec<_>>())
}

/// A plot of a size in pixels, with a script in it.
pub fn svg(width: u32) -> String {
    format!(
        "<svg width=\"{width}\" height=\"300\" viewBox=\"0 0 {width} 300\" xmlns=\"http://www.w3.org/2000/svg\">\
         <script>alert(3)</script><text x=\"9\" y=\"99\">a plot</text></svg>"
    )
}

/// A sweep's folder: two methods at two ranks, with results of two seeds each.
pub fn sweep(room: &Room, name: &str) -> PathBuf {
    let (mut points, mut runs) = (Vec::new(), Vec::new());
    for (method, gain) in [("lora", 0), ("dora", 20)] {
        for rank in [4, 8] {
            for seed in [1, 2] {
                let cell = format!("{method}-r{rank}-s{seed}");
                let mut training = record(method, seed);
                training["adapter_config"]["r"] = json!(rank);
                let file = format!("{name}/runs/{cell}/answers.jsonl");
                evaluation(room, &file, &training, |i| i * 7 % 100 < 40 + gain + seed as usize);
                runs.push(json!({ "method": method, "rank": rank, "seed": seed, "dir": format!("elsewhere/{cell}"),
                    "results": format!("elsewhere/{cell}/answers.jsonl") }));
            }
            points.push(json!({
                "method": method, "rank": rank, "learning_rate": 3e-4, "seeds": 2, "guessing": 0.25,
                "accuracy": { "mean": 0.4 + gain as f64 / 100.0, "low": 0.3, "high": 0.7, "interval": "t over seeds" },
                "unparsed_share": 0.125,
                "eval_loss": { "mean": 0.625, "low": null, "high": null, "interval": null },
                "trainable_params": 1_234_567, "wall_s": 61.4, "peak_rss_mb": 1234.5,
            }));
        }
    }
    let rates = json!([{ "method": "dora", "learning_rate": 3e-4, "tuned": true, "rows": "--tune-data", "rank": 4, "seed": 1,
        "tried": [{ "learning_rate": 3e-4, "eval_loss": 0.5 }, { "learning_rate": 1e-2, "eval_loss": null }] }]);
    let object = json!({ "ending": "finished", "output": name, "shared_options": ["--model", LONG],
        "learning_rates": rates, "points": points, "runs": runs, "left_out": ["dora-r16-s1"], "svg": "sweep.svg", "seconds": 9.0 });
    room.write(&format!("{name}/sweep.svg"), svg(1040));
    room.write(&format!("{name}/sweep.json"), object.to_string());
    room.path(name)
}

/// Everything together: what `dora report` is given.
pub fn everything(room: &Room) -> Vec<PathBuf> {
    let hostile = run(room, HOSTILE, &record("lora", 0), &steps(120));
    let sample = json!({ "prompt": format!("Say {SCRIPT}"), "before": null, "text": format!("{SCRIPT} {LONG}") });
    room.write(&format!("{HOSTILE}/samples.jsonl"), format!("{sample}\n"));
    room.write(&format!("{HOSTILE}/analysis.svg"), svg(560));
    let long = run(room, LONG, &record("dora", 0), &steps(7));
    evaluation(room, &format!("{LONG}/answers.jsonl"), &record("dora", 0), |i| i < 60);
    let answers = evaluation(room, "lora.jsonl", &record("lora", 0), |i| i % 10 < 3);
    let plot = room.write("plot.svg", svg(960));
    vec![hostile, long, answers, plot, sweep(room, "sweep")]
}
