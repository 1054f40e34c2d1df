//! `dora compare`: what cannot be compared, and files that are no results.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::compare::*;
use support::*;

#[track_caller]
fn refuses<P: AsRef<Path>>(paths: &[P], message: &str) {
    let ran = dora(["compare"].into_iter().chain(paths.iter().map(|path| shown(path.as_ref()))));
    refused(&ran, 2, message);
}

#[track_caller]
fn not_alike(a: &Path, b: &Path, why: &str) {
    refuses(&[a, b], &format!("{} and {} cannot be compared: {why}", shown(a), shown(b)));
}

#[test]
fn unlike_things() {
    let room = Room::new();
    let right = [true, false, true, true, false];
    let a = answers(&room, "a", &right, json!({}));
    let of = |name: &str, changed: Value| answers(&room, name, &right, changed);
    let base = of("base", json!({ "base_blake3": "another" }));
    not_alike(&a, &base, "their base models differ (found base and another as base_blake3)");
    let data = of("data", json!({ "data_sha256": "0123456789abcdef" }));
    not_alike(&a, &data, "they were measured on different data (found data and 0123456789ab as SHA-256)");
    let by = of("by", json!({ "by": "generation" }));
    not_alike(&a, &by, "found answers by likelihood and by generation, expected the same way");
    let fewer = answers(&room, "fewer", &right[..4], json!({}));
    not_alike(&a, &fewer, "found 5 and 4 items, expected the same");
    let text = std::fs::read_to_string(&a).unwrap().replace("\"q2\"", "\"q7\"");
    let item = of("item", json!({}));
    room.write("item.jsonl", text);
    not_alike(&a, &item, "line 3 is another item in each, expected the same");
    not_alike(&a, &room.path("./a.jsonl"), "both are the same");
    let losses = rows(&room, "losses", |_| 1.0, json!({}));
    not_alike(&a, &losses, "found answers to questions and losses of rows, expected two of a kind");
    let mut record = training("lora", 1);
    record["results"]["eval_loss_after"] = json!(1.0);
    let folder = run(&room, "run", &record);
    not_alike(&folder, &a, "found a run and answers to questions, expected two of a kind");
    record["data"]["sha256"] = json!("other");
    let other = run(&room, "other", &record);
    not_alike(&folder, &other, "they were trained on different data, expected the same for two runs");
}

#[test]
fn pairs_that_are_no_seeds() {
    let room = Room::new();
    let (a, b) = seeds(&room, 4, 2);
    let [a1, a2, b1, b2] = [&a[0], &a[1], &b[0], &b[1]];
    let message = format!("{} has seed 1 and {} seed 2, expected pairs of the same seed", shown(a1), shown(b2));
    refuses(&[a1, a2, b2, b1], &message);
    refuses(&[a1, a1, b1, b2], &format!("{} is on one side twice, expected each result once", shown(a1)));
    let again = ["lora", "dora"].map(|method| {
        answers(&room, &format!("{method}-again"), &[true; 100], json!({ "training": training(method, 1) }))
    });
    let message =
        format!("{} and {} are of the same seed on the same data, expected each once", shown(a1), shown(&again[0]));
    refuses(&[a1, &again[0], b1, &again[1]], &message);
    let mut other = training("lora", 2);
    other["settings"]["lr"] = json!(1e-4);
    let changed = answers(&room, "changed", &[true; 100], json!({ "training": other }));
    let found =
        format!("{} and {} are on the same side but differ in lr (0.0002 and 0.0001)", shown(a1), shown(&changed));
    refuses(&[a1, &changed, b1, b2], &format!("{found}, expected results of one method"));
    refuses(&[a1, a2, b1], "found 3 results to compare, expected as many of A as of B");
    assert_eq!(dora(["compare", shown(a1)]).code, 2);
    assert_eq!(dora(["compare"]).code, 2);
}

#[test]
fn files_that_are_no_results() {
    let room = Room::new();
    let a = answers(&room, "a", &[true, false], json!({}));
    let b = answers(&room, "b", &[true, true], json!({}));
    let read = |path: &Path| format!("cannot read {}: No such file or directory (os error 2)", shown(path));
    let missing = room.path("none.jsonl");
    refuses(&[&a, &missing], &read(&missing));
    std::fs::remove_file(room.path("b.jsonl.summary.json")).unwrap();
    refuses(&[&a, &b], &read(&room.path("b.jsonl.summary.json")));
    let cut = answers(&room, "cut", &[true, true], json!({ "questions": 3 }));
    let beside = room.path("cut.jsonl.summary.json");
    refuses(&[&a, &cut], &format!("{} holds 2 items, expected 3 by {}", shown(&cut), shown(&beside)));
    let line = std::fs::read_to_string(&a).unwrap();
    let line = line.lines().next().unwrap();
    for (name, second, found) in [
        ("json", "{\"index\": 1", "EOF while parsing an object at line 1 column 11"),
        ("fields", "{\"index\": 1}", "missing field `item` at line 1 column 12"),
        ("null", &line.replace("true,\"parsed\"", "null,\"parsed\""), "invalid type: null, expected a boolean"),
    ] {
        let path = answers(&room, name, &[true, true], json!({}));
        room.write(&format!("{name}.jsonl"), format!("{line}\n{second}\n"));
        let ran = dora(["compare", shown(&a), shown(&path)]);
        let start = format!("error: {}:2: {found}", shown(&path));
        assert!(ran.err.starts_with(&start), "{}", ran.err);
        assert!(ran.err.ends_with(", expected a line of `dora eval --output`\n") && ran.code == 2, "{}", ran.err);
    }
    let wrong = line.replace("\"right\":true", "\"right\":false");
    assert_ne!(wrong, line);
    let path = answers(&room, "wrong", &[true, true], json!({}));
    room.write("wrong.jsonl", format!("{wrong}\n{line}\n"));
    let ran = dora(["compare", shown(&a), shown(&path)]);
    assert!(
        ran.code == 2 && ran.err.starts_with(&format!("error: {}:1: found right = false", shown(&path))),
        "{}",
        ran.err
    );
    let losses = rows(&room, "tokens", |_| 1.0, json!({}));
    let none = std::fs::read_to_string(&losses).unwrap().replace("\"tokens\":1}", "\"tokens\":0}");
    room.write("tokens.jsonl", none);
    let ran = dora(["compare", shown(&losses), shown(&a)]);
    assert!(ran.code == 2 && ran.err.contains("tokens.jsonl:1: found 0 labelled tokens, expected"), "{}", ran.err);
    let empty = answers(&room, "empty", &[], json!({}));
    refuses(&[&empty, &a], &format!("{} holds no item, expected at least one", shown(&empty)));
    let folder = room.path("folder");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("run.json");
    let message = format!("{} is missing, expected the folder of a run of `dora train`", shown(&path));
    refuses(&[&folder, &a], &message);
    let mut record = training("lora", 1);
    record["results"]["ending"] = json!("interrupted");
    let stopped = run(&room, "stopped", &record);
    let path = stopped.join("run.json");
    let message = format!("{} holds a run that was interrupted, expected one that finished", shown(&path));
    refuses(&[&stopped, &a], &message);
    record["results"]["ending"] = json!("failed");
    let failed = run(&room, "failed", &record);
    let path = failed.join("run.json");
    refuses(&[&failed, &a], &format!("{} holds a run that failed, expected one that finished", shown(&path)));
    record.as_object_mut().unwrap().remove("results");
    let going = run(&room, "going", &record);
    let path = going.join("run.json");
    refuses(&[&going, &a], &format!("{} holds no results yet, expected one that finished", shown(&path)));
    let (one, two) = (run(&room, "one", &training("lora", 1)), run(&room, "two", &training("dora", 1)));
    let path = one.join("run.json");
    let expected = "expected a run with --eval-data, or results of `dora eval --output`";
    refuses(&[&one, &two], &format!("{} has no held-out loss, {expected}", shown(&path)));
}

#[test]
fn sides_that_mix_methods() {
    let room = Room::new();
    let of = |method: &str, task: &str| {
        let changed = json!({ "data_sha256": task, "training": training(method, 1) });
        answers(&room, &format!("{method}-{task}"), &[true, false, true], changed)
    };
    let [l1, l2, d1, d2] = [of("lora", "t1"), of("lora", "t2"), of("dora", "t1"), of("dora", "t2")];
    let found = format!("{} and {} are on the same side but differ in method (lora and dora)", shown(&l1), shown(&d2));
    refuses(&[&l1, &d2, &d1, &l2], &format!("{found}, expected results of one method"));
    let unknown = ["u1", "u2", "v1", "v2"].map(|name| answers(&room, name, &[true, false, true], json!({})));
    let found = format!("{} is one of 2 on the same data but no seed is on record", shown(&unknown[0]));
    refuses(&unknown, &format!("{found}, expected results of trained models (run.json beside the adapter)"));
    let mut other = training("dora", 1);
    (other["base_blake3"], other["method"]) = (json!("another"), json!("dora"));
    let elsewhere =
        answers(&room, "elsewhere", &[true, false, true], json!({ "data_sha256": "t1", "training": other }));
    let mut here = training("lora", 1);
    here["base_blake3"] = json!("one");
    let here = answers(&room, "here", &[true, false, true], json!({ "data_sha256": "t1", "training": here }));
    not_alike(&here, &elsewhere, "they were trained on different base models (found one and another as base_blake3)");
}
