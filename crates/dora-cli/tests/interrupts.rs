//! A run that is asked to stop saves what it has, says so in its record, and exits with 128 plus the signal.

#![cfg(unix)]

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::*;

/// Starts a run of many steps, sends a signal once three are made, and checks what is left.
fn stops(signal: &str, code: i32, method: &str) {
    let room = Room::new();
    let (data, out, model) = (room.rows("rows.jsonl", &token_rows(12)), room.path("out"), plain());
    let line = ["train", "--json", "--model", shown(&model), "--data", shown(&data), "--output", shown(&out)];
    let child = Command::new(env!("CARGO_BIN_EXE_dora"))
        .args(line)
        .args(["--threads=1", "--max-steps=100000000", "--lr=1e-3", "--schedule=constant", "--method", method])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (start, file) = (Instant::now(), out.join("metrics.jsonl"));
    while fs::read_to_string(&file).unwrap_or_default().lines().count() < 3 {
        assert!(start.elapsed() < Duration::from_secs(20), "no step was made");
        sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, code, "{ran:?}");
    let run = read_json(&out.join("run.json"));
    assert_eq!(ran.object(), run);
    assert_eq!(run["results"]["ending"], "interrupted");
    let steps = run["results"]["steps"].as_u64().unwrap();
    assert_eq!(steps, losses(&out).len() as u64);
    assert!((3..100_000_000).contains(&steps));
    // What is saved loads, and is what the last step left.
    let (base, trained) = match method {
        "full" => (eval_loss(&model, None, &data), eval_loss(&out, None, &data)),
        _ => (eval_loss(&model, None, &data), eval_loss(&model, Some(&out), &data)),
    };
    assert!(trained < base, "{base} {trained}");
}

#[test]
fn ctrl_c() {
    stops("-INT", 130, "dora");
}

#[test]
fn termination() {
    stops("-TERM", 143, "lora");
}

#[test]
fn a_full_run_saves_its_model() {
    stops("-INT", 130, "full");
}
