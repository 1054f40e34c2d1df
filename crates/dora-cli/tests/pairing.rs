//! A record and what lies beside it belong together: no run leaves its record beside another's results.

#![cfg(unix)]

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::*;

const RESULT: &str = "adapter_model.safetensors";

#[test]
fn a_killed_run_leaves_nothing_of_an_earlier_one() {
    let room = Room::new();
    let (model, data, out) = (plain(), room.rows("rows.jsonl", &token_rows(8)), room.path("out"));
    train(&model, &data, &out, &["--max-steps=2"]).good();
    let own = room.write("out/notes.txt", "mine");
    let line =
        ["train", "--model", shown(&model), "--data", shown(&data), "--output", shown(&out), "--max-steps=9999999"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_dora"))
        .args(line)
        .args(["--threads=1", "--method=lora"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (start, steps) = (Instant::now(), || fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default());
    while read_json(&out.join("run.json"))["settings"]["method"] != "lora" || !steps().contains('\n') {
        assert!(start.elapsed() < Duration::from_secs(60), "no step was made");
        sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(read_json(&out.join("run.json"))["results"].is_null());
    no_result(&out);
    assert!(own.exists());
    let ran = dora(["eval", "--model", shown(&model), "--adapter", shown(&out), "--data", shown(&data)]);
    assert!(ran.code == 2 && ran.err.contains("adapter_config.json"), "{}", ran.err);
    // What cannot begin removes nothing.
    train(&model, &data, &out, &["--max-steps=2"]).good();
    let before = fs::read(out.join(RESULT)).unwrap();
    for options in [&["--rank=0"][..], &["--method=qlora", "--block-size=63"], &["--eval-data", "/nowhere"]] {
        assert_eq!(train(&model, &data, &out, options).code, 2);
        assert!(fs::read(out.join(RESULT)).unwrap() == before);
    }
}

#[test]
fn a_model_beside_an_adapters_record() {
    let room = Room::new();
    let (model, data) = (plain(), room.rows("rows.jsonl", &token_rows(8)));
    let out = room.path("out");
    train(&model, &data, &out, &["--method=full", "--max-steps=1"]).good();
    let ran = train(&model, &data, &out, &["--max-steps=1"]).good();
    assert!(ran.err.contains(&format!("note: this run replaces what an earlier one left in {}\n", shown(&out))));
    assert!(!out.join("model.safetensors").exists() && out.join(RESULT).exists());
    let other = room.copy(&model, "other");
    let weights = other.join("model.safetensors");
    let message = format!(
        "--output {} holds {}, which no run made, expected a folder of its own",
        shown(&other),
        shown(&weights)
    );
    for method in ["--method=lora", "--method=full"] {
        refused(&train(&model, &data, &other, &[method]), 2, &message);
    }
    assert!(fs::read(weights).unwrap() == fs::read(model.join("model.safetensors")).unwrap());
}
