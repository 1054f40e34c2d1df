//! `dora eval --task answers`, and results item by item.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::sweep::questions;
use support::*;

fn score(data: &Path, more: &[&str]) -> Ran {
    let model = embedded();
    dora(["eval", "--model", shown(&model), "--data", shown(data), "--task=answers", "--json"].iter().chain(more))
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// An adapter that has learned to say that all is true.
fn trained(room: &Room, method: &str) -> PathBuf {
    let out = room.path(method);
    let truths: Vec<Value> = questions(0, 40).into_iter().step_by(2).collect();
    let data = room.rows("train.jsonl", &truths);
    let options = ["--method", method, "--lr=1e-2", "--max-steps=20", "--rank=8", "--schedule=constant"];
    train(&embedded(), &data, &out, &options).good();
    out
}

const FIGURES: [&str; 14] = [
    "accuracy",
    "accuracy_high",
    "accuracy_low",
    "by",
    "data_sha256",
    "dropped_long",
    "guessing",
    "loss",
    "questions",
    "right",
    "seconds",
    "task",
    "unparsed",
    "unparsed_share",
];

#[test]
fn by_likelihood() {
    let room = Room::new();
    let (data, out) = (room.rows("q.jsonl", &questions(0, 23)), room.path("new folder/base.jsonl"));
    let plain = score(&data, &[]).good().object();
    assert_eq!(keys(&plain), FIGURES);
    let object = score(&data, &["--output", shown(&out)]).good().object();
    let identity = [
        "adapter_blake3",
        "base_blake3",
        "dora_version",
        "dtype",
        "model_blake3",
        "nf4",
        "output",
        "peak_rss_mb",
        "training",
    ];
    let mut both = [&FIGURES[..], &identity].concat();
    both.sort_unstable();
    assert_eq!(keys(&object), both);
    assert_eq!(read_json(&room.path("new folder/base.jsonl.summary.json")), object);
    let lines = lines(&out);
    let mut right = 0;
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(
            (&line["index"], &line["gold"], &line["parsed"]),
            (&json!(i), &questions(0, 23)[i]["answer"], &json!(true))
        );
        let loss = |word: &str| line["losses"][word].as_f64().unwrap();
        let predicted = if loss("false") < loss("true") { "false" } else { "true" };
        assert_eq!((&line["predicted"], &line["right"]), (&json!(predicted), &json!(line["gold"] == predicted)));
        assert_eq!(line["loss"], line["losses"][line["gold"].as_str().unwrap()]);
        right += usize::from(line["right"] == true);
    }
    assert_eq!((&object["right"], &object["questions"], &object["unparsed"]), (&json!(right), &json!(23), &json!(0)));
    let number = |key: &str| object[key].as_f64().unwrap();
    assert!((number("accuracy") - right as f64 / 23.0).abs() < 1e-12 && number("guessing") == 0.5);
    assert!(number("accuracy_low") < number("accuracy") && number("accuracy") < number("accuracy_high"));
    let mean = lines.iter().map(|line| line["loss"].as_f64().unwrap()).sum::<f64>() / 23.0;
    assert!((number("loss") - mean).abs() < 1e-12);
    let hashes: std::collections::HashSet<&Value> = lines.iter().map(|line| &line["item"]).collect();
    assert_eq!(hashes.len(), 23);
    assert_eq!(object["base_blake3"], object["model_blake3"]);
    assert!(object["adapter_blake3"].is_null() && object["training"].is_null() && object["nf4"].is_null());
}

#[test]
fn what_was_learned_is_said_in_both_ways() {
    let room = Room::new();
    let (data, adapter) = (room.rows("q.jsonl", &questions(0, 20)), trained(&room, "qdora"));
    let by = |way: &str, more: &[&str]| {
        let out = room.path(&format!("{way}.jsonl"));
        let adapter = ["--adapter", shown(&adapter), "--nf4", "--by", way, "--output", shown(&out)];
        let object = score(&data, &[&adapter, more].concat()).good().object();
        (object, lines(&out))
    };
    let (likelihood, said) = by("likelihood", &[]);
    assert_eq!((&likelihood["right"], &likelihood["questions"]), (&10.into(), &20.into()), "{likelihood}");
    assert!(said.iter().all(|line| line["predicted"] == "true"));
    assert_eq!(likelihood["nf4"], json!({ "block_size": 64, "double_quant": true }));
    assert_eq!(likelihood["training"], read_json(&adapter.join("run.json")));
    assert_eq!(likelihood["adapter_blake3"].as_str().unwrap().len(), 64);
    let (generation, said) = by("generation", &[]);
    assert_eq!(
        (&generation["right"], &generation["unparsed"], &generation["by"]),
        (&10.into(), &0.into(), &"generation".into())
    );
    assert!(generation["loss"].is_null());
    for line in &said {
        let (text, answer) = (line["text"].as_str().unwrap(), line["predicted"].as_str().unwrap());
        // Generation stops at the answer.
        assert_eq!((text, answer), ("the correct answer is true", "true"), "{line}");
        assert!(line["losses"].is_null() && line["loss"].is_null());
    }
    // Without the adapter the model talks of other things; what has no answer is wrong.
    let out = room.path("base.jsonl");
    let base = score(&data, &["--by=generation", "--output", shown(&out)]).good().object();
    let silent = lines(&out).iter().filter(|line| line["predicted"].is_null()).count();
    assert!(silent > 10, "{base}");
    assert_eq!((&base["unparsed"], base["unparsed_share"].as_f64().unwrap()), (&json!(silent), silent as f64 / 20.0));
    assert!(lines(&out).iter().all(|line| line["parsed"] == line["predicted"].is_string()));
    assert!(base["right"].as_u64().unwrap() as usize + silent <= 20);
}

#[test]
fn a_full_fine_tune_keeps_the_name_of_its_base() {
    let room = Room::new();
    let (data, full) = (room.rows("q.jsonl", &questions(0, 10)), room.path("full"));
    let rows = room.rows("train.jsonl", &questions(0, 10));
    train(&embedded(), &rows, &full, &["--method=full", "--max-steps=1"]).good();
    let of = |model: &Path, name: &str| {
        let (out, data) = (room.path(name), shown(&data));
        let line =
            ["eval", "--json", "--task=answers", "--model", shown(model), "--data", data, "--output", shown(&out)];
        dora(line).good().object()
    };
    let (base, full) = (of(&embedded(), "base.jsonl"), of(&full, "full.jsonl"));
    assert_eq!(base["base_blake3"], full["base_blake3"]);
    assert!(base["model_blake3"] != full["model_blake3"]);
    assert_eq!(full["training"]["settings"]["method"], "full");
}

#[test]
fn rows_item_by_item() {
    let room = Room::new();
    let (data, out) = (room.rows("rows.jsonl", &token_rows(9)), room.path("rows.results.jsonl"));
    let line = ["eval", "--json", "--model", shown(&plain()), "--data", shown(&data)].map(str::to_owned);
    let without = dora(&line).good().object();
    let with = dora(line.iter().map(String::as_str).chain(["--output", shown(&out)])).good().object();
    assert_eq!(with, read_json(&room.path("rows.results.jsonl.summary.json")));
    assert_eq!((&with["loss"], &with["rows"]), (&without["loss"], &without["rows"]));
    let lines = lines(&out);
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
    let tokens: f64 = lines.iter().map(|line| number(line, "tokens")).sum();
    let sum: f64 = lines.iter().map(|line| number(line, "loss") * number(line, "tokens")).sum();
    assert_eq!((lines.len(), tokens), (9, number(&with, "labelled_tokens")));
    assert!((sum / tokens - number(&with, "loss")).abs() < 1e-9);
    // Each row alone has the loss that its line gives.
    let alone = room.rows("alone.jsonl", &token_rows(9)[6..7]);
    assert!((eval_loss(&plain(), None, &alone) - number(&lines[6], "loss")).abs() < 1e-5);
}

#[test]
fn questions_that_are_none() {
    let room = Room::new();
    let mut bad = questions(0, 3);
    bad[2]["instruction"] = json!("Is it?");
    let data = room.rows("q.jsonl", &bad);
    let out = room.path("out.jsonl");
    let expected = "expected it to end in a line like `Answer format: true/false`";
    let message = format!("{}:3: found no `Answer format:` in the instruction, {expected}", shown(&data));
    refused(&score(&data, &["--output", shown(&out)]), 2, &message);
    assert!(!out.exists());
    let rows = room.rows("rows.jsonl", &[json!({ "prompt": "a", "completion": "b" })]);
    let message = "found key `prompt`, expected `instruction`, `input`, `output` and `answer` only";
    refused(&score(&rows, &[]), 2, &format!("{}:1: {message}", shown(&rows)));
    let good = room.rows("good.jsonl", &questions(0, 3));
    let long = room.rows(
        "long.jsonl",
        &[
            questions(0, 1),
            vec![json!({
                "instruction": format!("{}\nAnswer format: true/false", "Is it? ".repeat(200)),
                "output": "the correct answer is true", "answer": "true",
            })],
        ]
        .concat(),
    );
    let ran = score(&long, &[]);
    assert!(ran.code == 2 && ran.err.contains("long.jsonl:2: found a question of "), "{}", ran.err);
    let dropped = score(&long, &["--long-rows=drop"]).good();
    assert!(dropped.err.contains("note: 1 of 2 questions left out: longer than --max-seq-len"), "{}", dropped.err);
    assert_eq!((&dropped.object()["questions"], &dropped.object()["dropped_long"]), (&json!(1), &json!(1)));
    let message =
        "--long-rows truncate would cut a question before its answer, expected refuse or drop with --task answers";
    refused(&score(&good, &["--long-rows=truncate"]), 2, message);
}

#[test]
fn options_that_do_not_fit() {
    let room = Room::new();
    let data = room.rows("q.jsonl", &questions(0, 3));
    let (model, plain) = (embedded(), plain());
    let ran = dora(["eval", "--model", shown(&model), "--data", shown(&data), "--by=generation"]);
    assert!(ran.code == 2 && ran.err.contains("--task <TASK>"), "{}", ran.err);
    for option in ["--task=loss", "--task"] {
        assert_eq!(dora(["eval", "--model", shown(&model), "--data", shown(&data), option]).code, 2);
    }
    assert_eq!(score(&data, &["--by=beam"]).code, 2);
    let ran = dora(["eval", "--model", shown(&plain), "--data", shown(&data), "--task=answers"]);
    refused(&ran, 2, &format!("{} has no tokenizer.json, expected one to read questions", shown(&plain)));
    let same = format!("--output {} is also read, expected a file of its own", shown(&data));
    refused(&score(&data, &["--output", shown(&data)]), 2, &same);
    let beside = room.write("results.jsonl.summary.json", "[]");
    let results = room.path("results.jsonl");
    let same = format!("--output {} is also read, expected a file of its own", shown(&beside));
    refused(&score(&beside, &["--output", shown(&results)]), 2, &same);
    let folder = room.path("");
    let message = format!("--output {} is a folder, expected a file", shown(&folder));
    refused(&score(&data, &["--output", shown(&folder)]), 2, &message);
    let model = room.copy(&embedded(), "model");
    let config = fs::read(model.join("config.json")).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        let file = model.join(name);
        let line =
            ["eval", "--model", shown(&model), "--data", shown(&data), "--task=answers", "--output", shown(&file)];
        let message =
            format!("--output {} is a file of {}, which is read; expected a new file", shown(&file), shown(&model));
        refused(&dora(line), 2, &message);
    }
    assert_eq!(fs::read(model.join("config.json")).unwrap(), config);
    let message = "--output /dev/null is a device or the like, expected a file";
    refused(&score(&data, &["--output", "/dev/null"]), 2, message);
    let below = data.join("out.jsonl");
    let message = format!("--output: {}: found a file, expected a folder to write to", shown(&data));
    refused(&score(&data, &["--output", shown(&below)]), 2, &message);
    assert!(!results.exists());
    assert_eq!(fs::read_to_string(&data).unwrap().lines().count(), 3);
}
