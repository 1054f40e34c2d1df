//! A record and what lies beside it belong together: no run leaves its record beside another's results, and an adapter that is
//! put on another base than its own is told.

#![cfg(unix)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
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

/// A copy of a model that computes the same but is another folder by its hash.
fn another(room: &Room, model: &Path, name: &str) -> PathBuf {
    let copy = room.copy(model, name);
    let config = fs::read_to_string(copy.join("config.json")).unwrap();
    fs::write(copy.join("config.json"), format!("{config}\n")).unwrap();
    copy
}

#[test]
fn an_adapter_of_another_base() {
    let room = Room::new();
    let model = embedded();
    let (other, out) = (another(&room, &model, "other"), room.path("out"));
    let row = |i: u32| serde_json::json!({ "prompt": format!("Buy {i} apples."), "completion": " Aye, captain!" });
    let data = room.rows("rows.jsonl", &(0..4).map(row).collect::<Vec<_>>());
    train(&model, &data, &out, &["--method=lora", "--max-steps=1"]).good();
    let hash = |text: &str, key: &str| text.split(key).nth(1).unwrap()[..12].to_owned();
    let line = |command: &str, base: &Path, more: &[&str]| {
        let line = [command, "--model", shown(base), "--adapter", shown(&out)];
        dora(line.iter().chain(more))
    };
    let says = format!("{} is not the base that {} was trained on: found base_blake3 ", shown(&other), shown(&out));
    let merged = room.path("merged");
    let told = [
        ("eval", vec!["--data", shown(&data)]),
        ("generate", vec!["--prompt=Hello", "--max-new-tokens=1"]),
        ("analyze", vec![]),
    ];
    for (command, more) in &told {
        let (own, ran) = (line(command, &model, more).good(), line(command, &other, more).good());
        assert!(!own.err.contains("base_blake3"), "{}", own.err);
        assert!(ran.err.contains(&format!("note: {says}")), "{}", ran.err);
        let expected = read_json(&out.join("run.json"))["base_blake3"].as_str().unwrap()[..12].to_owned();
        assert_eq!(hash(&ran.err, "expected "), expected);
        assert_ne!(hash(&ran.err, "found base_blake3 "), expected);
    }
    let ran = line("merge", &other, &["--output", shown(&merged)]);
    let last = ran.err.lines().last().unwrap();
    assert!(ran.code == 2 && last.starts_with(&format!("error: {says}")), "{}", ran.err);
    assert!(last.ends_with(" by its run.json (without that file nothing is compared)"), "{last}");
    no_result(&merged);
    line("merge", &model, &["--output", shown(&merged)]).good();
    // An adapter over 4-bit weights may go into the weights that were quantised, which have another hash.
    train(&other, &data, &out, &["--method=qlora", "--max-steps=1"]).good();
    for base in ["original", "dequantized"] {
        let more = ["--merge-base", base, "--output", shown(&merged)];
        assert!(!line("merge", &other, &more).good().err.contains("base_blake3"));
        let ran = line("merge", &model, &more).good();
        assert!(ran.err.contains("; they may be the same weights, of which one is in 4 bits\n"), "{}", ran.err);
    }
    fs::remove_file(out.join("run.json")).unwrap();
    assert!(!line("eval", &model, &["--data", shown(&data)]).good().err.contains("base_blake3"));
}
