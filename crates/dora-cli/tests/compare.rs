//! `dora compare`: verdicts on made-up results whose figures are known, and refusals of what cannot be compared.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::*;

/// The record of a training.
fn training(method: &str, seed: u64) -> Value {
    json!({
        "settings": { "method": method, "seed": seed, "lr": 2e-4, "output": format!("{method}-{seed}") },
        "adapter_config": { "r": 16, "use_dora": method == "dora" }, "trainable_params": 1000 + seed,
        "base_sha256": "base", "data": { "sha256": "train" }, "eval_data": { "sha256": "held-out" },
        "results": { "ending": "finished", "steps": 10, "wall_s": 100.0, "tokens_per_s": 50.0, "peak_rss_mb": 1234.5 },
    })
}

/// Results of an evaluation under `NAME.jsonl`, with fields of the summary changed.
fn results(room: &Room, name: &str, lines: &[Value], changed: Value) -> PathBuf {
    let mut summary = json!({ "base_sha256": "base", "data_sha256": "data", "training": null });
    let fields = changed.as_object().unwrap().clone();
    summary.as_object_mut().unwrap().extend(fields);
    room.write(&format!("{name}.jsonl.summary.json"), summary.to_string());
    room.rows(&format!("{name}.jsonl"), lines)
}

/// Answers that are right or wrong.
fn answers(room: &Room, name: &str, right: &[bool], changed: Value) -> PathBuf {
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
fn both(room: &Room, [both, only_a, only_b, neither]: [usize; 4]) -> (PathBuf, PathBuf) {
    let parts = [(both, true, true), (only_a, true, false), (only_b, false, true), (neither, false, false)];
    let pairs: Vec<(bool, bool)> = parts.iter().flat_map(|&(n, a, b)| vec![(a, b); n]).collect();
    let side =
        |name, of: fn(&(bool, bool)) -> bool| answers(room, name, &pairs.iter().map(of).collect::<Vec<_>>(), json!({}));
    (side("a", |p| p.0), side("b", |p| p.1))
}

/// Losses of rows of 1 to 7 tokens.
fn rows(room: &Room, name: &str, loss: impl Fn(usize) -> f64, changed: Value) -> PathBuf {
    let line = |i: usize| json!({ "index": i, "item": format!("r{i}"), "loss": loss(i), "tokens": 1 + i % 7 });
    let mut summary = json!({ "rows": 50 });
    summary.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    results(room, name, &(0..50).map(line).collect::<Vec<_>>(), summary)
}

/// A run's folder.
fn run(room: &Room, name: &str, record: &Value) -> PathBuf {
    room.write(&format!("{name}/run.json"), record.to_string());
    room.path(name)
}

fn compare<P: AsRef<Path>>(paths: &[P]) -> Value {
    let line = ["--json", "compare"].into_iter().chain(paths.iter().map(|path| shown(path.as_ref())));
    dora(line).good().object()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn right_and_wrong_answers() {
    let room = Room::new();
    let (a, b) = both(&room, [240, 30, 60, 170]);
    let object = compare(&[&a, &b]);
    assert_eq!(keys(&object), ["better", "costs", "next", "settings_that_differ", "tasks", "verdict"]);
    let task = &object["tasks"][0];
    // 2·P(X ≤ 30), X binomial of 90 and a half.
    assert!((number(&task["p"]) - 0.00206027).abs() < 1e-7, "{task}");
    assert_eq!(task["p"], task["p_adjusted"]);
    assert_eq!((&object["better"], &task["test"], &task["n"]), (&json!("b"), &json!("exact McNemar"), &json!(500)));
    assert_eq!(task["right_wrong"], json!({ "both": 240, "only_a": 30, "only_b": 60, "neither": 170 }));
    assert!((number(&task["difference"]) - 0.06).abs() < 1e-12);
    assert!((number(&task["smallest_difference"]) - 2.8016 * (0.18f64 / 500.0).sqrt()).abs() < 1e-5);
    assert!(number(&task["low"]) > 0.0 && number(&task["low"]) < 0.03 && number(&task["high"]) < 0.1);
    let verdict = text(&object["verdict"]);
    assert!(verdict.starts_with("B better by 6.0 points of accuracy, likely by 2."), "{verdict}");
    assert!(verdict.ends_with("only in 1 of 490 such tests (p = 0.0021)."), "{verdict}");
    assert!(text(&object["next"]).contains("at least 4 seeds"), "{object}");
    // The other way round everything turns round.
    let turned = compare(&[&b, &a]);
    assert_eq!((&turned["better"], &turned["tasks"][0]["p"]), (&json!("a"), &task["p"]));
    assert_eq!(number(&turned["tasks"][0]["low"]), -number(&task["high"]));
    assert!(text(&turned["verdict"]).starts_with("A better by 6.0 points of accuracy, likely by 2."), "{turned}");
    // The loss of the right answer goes beside.
    assert!(number(&task["loss_of_the_right_answer"]["difference"]) < 0.0);
    assert_eq!(task["loss_of_the_right_answer"]["measure"], "loss");
}

#[test]
fn within_noise() {
    let room = Room::new();
    let (a, b) = both(&room, [240, 37, 46, 177]);
    let object = compare(&[&a, &b]);
    assert!(object["better"].is_null());
    let verdict = "Within noise: B is 1.8 points of accuracy ahead of A, but if both models were equally good, luck alone \
                   would give a difference at least this large in 38 of 100 such tests (p = 0.38). That shows neither that \
                   B is better nor that they are equal.";
    assert_eq!(object["verdict"], verdict);
    // 2.8²·ψ/δ² = 7.85·0.166/0.018².
    assert!((number(&object["tasks"][0]["needed"]) - 4021.0).abs() <= 5.0, "{object}");
    let next = text(&object["next"]);
    assert!(
        next.starts_with("about 4,000 questions like these would show a difference of 1.8 points of accuracy, if that"),
        "{next}"
    );
    assert!(
        next.contains("these 500 are enough only for 5.1 points of accuracy or more (found 4 times out of 5)"),
        "{next}"
    );
    let ran = dora(["compare", shown(&a), shown(&b)]).good();
    assert!(ran.out.starts_with(verdict) && ran.out.contains(&format!("\n\nNext: {next}")), "{}", ran.out);
    let row = ran.out.lines().find(|line| line.starts_with("only this one right")).unwrap();
    assert_eq!(row.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["37", "46"]);
    assert!(ran.err.is_empty());
}

#[test]
fn even_and_the_same() {
    let room = Room::new();
    let (a, b) = both(&room, [20, 5, 5, 20]);
    let object = compare(&[&a, &b]);
    assert_eq!(object["verdict"], "Within noise: A and B are even (p = 1).");
    // A point of accuracy: 7.85·0.2/0.01².
    assert!(
        text(&object["next"]).starts_with("about 16,000 questions like these would show a difference of 1.0 points"),
        "{object}"
    );
    let (a, b) = both(&room, [20, 0, 0, 20]);
    let object = compare(&[&a, &b]);
    assert_eq!(object["verdict"], "Within noise: A and B do the same on every one of the 40 questions.");
    assert!(text(&object["next"]).starts_with("these 40 questions do not tell the two apart at all"), "{object}");
    assert!(object["tasks"][0]["needed"].is_null() && object["better"].is_null());
}

#[test]
fn losses_of_rows() {
    let room = Room::new();
    let noise = |i: usize| ((i * 7919) % 101) as f64 / 101.0 - 0.5;
    let a = rows(&room, "a", |_| 2.0, json!({}));
    let near = rows(&room, "near", |i| 2.0 + 0.1 * noise(i), json!({}));
    let far = rows(&room, "far", |i| 1.9 + 0.1 * noise(i), json!({}));
    let object = compare(&[&a, &far]);
    let task = &object["tasks"][0];
    assert_eq!((&object["better"], &task["unit"], &task["n"]), (&json!("b"), &json!("rows"), &json!(50)));
    // The mean over tokens, not over rows.
    let tokens: f64 = (0..50).map(|i| (1 + i % 7) as f64).sum();
    let mean = (0..50).map(|i| (1.9 + 0.1 * noise(i)) * (1 + i % 7) as f64).sum::<f64>() / tokens;
    assert!((number(&task["b"]) - mean).abs() < 1e-12 && number(&task["a"]) == 2.0, "{task}");
    assert!(number(&task["p"]) < 2e-4 && number(&task["high"]) < 0.0 && number(&task["low"]) > -0.15);
    assert!(text(&object["verdict"]).starts_with("B better by 0."), "{object}");
    let object = compare(&[&near, &far]);
    assert_eq!(object["better"], "b");
    let object = compare(&[&a, &near]);
    assert!(object["better"].is_null() && text(&object["verdict"]).starts_with("Within noise: "), "{object}");
    assert_eq!(compare(&[&a, &near]), object, "what is drawn is drawn from a fixed seed");
}

#[test]
fn several_tasks_are_corrected_for_their_number() {
    let room = Room::new();
    // Each alone has p = 0.031: six questions, all one way.
    let mut sides = [Vec::new(), Vec::new()];
    for task in ["t1", "t2", "t3"] {
        for (side, name) in ["a", "b"].into_iter().enumerate() {
            let right: Vec<bool> = (0..60).map(|i| i < 30 || (name == "b" && i < 36)).collect();
            sides[side].push(answers(&room, &format!("{task}-{name}"), &right, json!({ "data_sha256": task })));
        }
    }
    let alone = compare(&[&sides[0][0], &sides[1][0]]);
    assert_eq!(alone["better"], "b");
    assert!((number(&alone["tasks"][0]["p"]) - 0.03125).abs() < 1e-12);
    let object = compare(&sides.concat());
    assert_eq!((&object["better"], text(&object["verdict"])), (&Value::Null, "Of 3 tasks: within noise on 3."));
    for task in object["tasks"].as_array().unwrap() {
        assert!((number(&task["p_adjusted"]) - 3.0 * 0.03125).abs() < 1e-12, "{task}");
    }
    let ran = dora(["compare"].into_iter().chain(sides.iter().flatten().map(|path| shown(path)))).good();
    assert!(
        ran.out.contains("(p = 0.031; 0.094 after Holm's correction, as 3 comparisons give luck 3 chances)"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("t2-a and t2-b: Within noise: B is 10.0 points of accuracy ahead of A"), "{}", ran.out);
}

/// Pairs of seeds 1 to k whose share of right answers differs by about `gain` questions of 100.
fn seeds(room: &Room, k: u64, gain: usize) -> (Vec<PathBuf>, Vec<PathBuf>) {
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

#[test]
fn four_seeds_or_more_speak_for_the_methods() {
    let room = Room::new();
    let (a, b) = seeds(&room, 5, 4);
    let object = compare(&[&a[..], &b].concat());
    let task = &object["tasks"][0];
    assert_eq!((&task["test"], &task["unit"], &task["n"]), (&json!("paired t"), &json!("seeds"), &json!(5)));
    // Differences of 5, 6, 4, 5, 6 points: 5.2 ± 2.776·0.837/√5.
    assert!((number(&task["low"]) - (0.052 - 0.01039)).abs() < 1e-4, "{task}");
    assert!(number(&task["p"]) < 0.001 && number(&task["p_by_sign_flips"]) == 2.0 / 32.0);
    let verdict = text(&object["verdict"]);
    assert!(
        verdict.starts_with("B better by 5.2 points of accuracy over 5 seeds, likely by 4.2 to 6.2 (95 % interval): "),
        "{verdict}"
    );
    assert!(verdict.contains("if both methods were equally good"), "{verdict}");
    assert!(text(&object["next"]).starts_with("nothing on this data"));
    assert_eq!(object["settings_that_differ"], json!({ "method": ["lora", "dora"] }));
    assert_eq!(
        object["costs"]["a"],
        json!({
            "trainable_params": 1003.0, "steps": 10.0, "wall_s": 100.0, "tokens_per_s": 50.0, "peak_rss_mb": 1234.5,
        })
    );
    let (a, b) = seeds(&room, 4, 0);
    let object = compare(&[&a[..], &b].concat());
    assert!(text(&object["next"]).contains(" seeds an arm would show a difference of "), "{object}");
    // Three are not enough: items are tested, each its mean over the seeds.
    let (a, b) = seeds(&room, 3, 4);
    let object = compare(&[&a[..], &b].concat());
    let task = &object["tasks"][0];
    assert_eq!((&task["unit"], &task["n"]), (&json!("questions"), &json!(100)));
    assert!((number(&task["difference"]) - 0.05).abs() < 1e-9, "{task}");
    assert!(text(&object["next"]).contains("3 runs of each cannot speak for the methods"), "{object}");
}

#[test]
fn runs_without_items() {
    let room = Room::new();
    let folder = |method: &str, seed: u64, loss: f64| {
        let mut record = training(method, seed);
        record["results"]["eval_loss_after"] = json!(loss);
        run(&room, &format!("{method}-{seed}"), &record)
    };
    let (a, b) = (folder("lora", 1, 1.51), folder("dora", 1, 1.5));
    let object = compare(&[&a, &b]);
    let verdict = "Undecided: the loss of B is lower than that of A by 0.0100, but one run of each cannot tell a better method from a lucky run.";
    assert_eq!((&object["better"], text(&object["verdict"])), (&Value::Null, verdict));
    assert!(object["tasks"][0]["p"].is_null() && object["tasks"][0]["needed"].is_null());
    assert!(text(&object["next"]).contains("`dora eval --output`"), "{object}");
    let loss = |seed: u64| 1.5 + 0.01 * (seed % 3) as f64;
    let a: Vec<PathBuf> = (1..=6).map(|seed| folder("lora", seed, loss(seed))).collect();
    let b: Vec<PathBuf> = (1..=6).map(|seed| folder("dora", seed, loss(seed) - 0.02 - 0.001 * seed as f64)).collect();
    let object = compare(&[&a[..], &b].concat());
    assert_eq!((&object["better"], &object["tasks"][0]["unit"]), (&json!("b"), &json!("seeds")));
    assert_eq!(object["tasks"][0]["p_by_sign_flips"], 2.0 / 64.0);
    // No spread, no test.
    let b: Vec<PathBuf> = (1..=6).map(|seed| folder("full", seed, loss(seed))).collect();
    let object = compare(&[&a[..], &b].concat());
    assert!(text(&object["verdict"]).starts_with("Undecided: "), "{object}");
}

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
    let base = of("base", json!({ "base_sha256": "another" }));
    not_alike(&a, &base, "their base models differ (found base and another as base_sha256)");
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
fn real_runs_and_their_evaluations() {
    let room = Room::new();
    let data = room.rows("rows.jsonl", &token_rows(12));
    let held_out = room.rows("held-out.jsonl", &token_rows(30)[12..]);
    let mut folders = Vec::new();
    let mut files = Vec::new();
    for method in ["lora", "dora"] {
        let (out, file) = (room.path(method), room.path(&format!("{method}.jsonl")));
        train(
            &plain(),
            &data,
            &out,
            &["--method", method, "--max-steps=3", "--lr=1e-2", "--eval-data", shown(&held_out)],
        )
        .good();
        let model = plain();
        let line = ["eval", "--model", shown(&model), "--adapter", shown(&out), "--data", shown(&held_out)];
        dora(line.into_iter().chain(["--output", shown(&file)])).good();
        folders.push(out);
        files.push(file);
    }
    let (by_run, by_item) = (compare(&folders), compare(&files));
    let (run, item) = (&by_run["tasks"][0], &by_item["tasks"][0]);
    for side in ["a", "b"] {
        assert!((number(&run[side]) - number(&item[side])).abs() < 1e-6, "{run} {item}");
        assert_eq!(by_run["costs"][side], by_item["costs"][side]);
    }
    assert_eq!((&item["unit"], &item["n"], &run["p"]), (&json!("rows"), &json!(18), &Value::Null));
    assert!(
        number(&item["low"]) <= number(&item["difference"]) && number(&item["difference"]) <= number(&item["high"])
    );
    assert_eq!(by_item["settings_that_differ"], json!({ "method": ["lora", "dora"] }));
}

/// Every item worse by the same: no spread, yet no doubt.
#[test]
fn a_constant_difference_is_one() {
    let room = Room::new();
    let (a, b) = (rows(&room, "a", |_| 1.0, json!({})), rows(&room, "b", |_| 1.5, json!({})));
    let object = compare(&[&a, &b]);
    assert_eq!(object["better"], "a");
    assert!(
        text(&object["verdict"]).starts_with("A better by 0.5000 in loss, likely by 0.5000 to 0.5000 (95 % interval)"),
        "{object}"
    );
}

/// Two results whose names differ behind the last dot keep a summary each.
#[test]
fn summaries_of_their_own() {
    let room = Room::new();
    let data = room.rows("rows.jsonl", &token_rows(3));
    let files = ["r.seed1", "r.seed2"].map(|name| room.path(name));
    for file in &files {
        let model = plain();
        dora(["eval", "--model", shown(&model), "--data", shown(&data), "--output", shown(file)]).good();
    }
    assert!(
        files
            .iter()
            .all(|file| read_json(&room.path(&format!("{}.summary.json", shown(file))))["output"] == shown(file))
    );
}

#[test]
fn too_few_items_promise_nothing() {
    let room = Room::new();
    let (a, b) = (answers(&room, "a", &[true, false, true], json!({})), answers(&room, "b", &[true; 3], json!({})));
    let object = compare(&[&a, &b]);
    assert!(text(&object["next"]).starts_with("3 questions cannot show any difference, however large"), "{object}");
    let (a, b) = (answers(&room, "one", &[true], json!({})), answers(&room, "two", &[false], json!({})));
    let object = compare(&[&a, &b]);
    assert!(object["better"].is_null() && !text(&object["next"]).contains("compare the two files"), "{object}");
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
    (other["base_sha256"], other["method"]) = (json!("another"), json!("dora"));
    let elsewhere =
        answers(&room, "elsewhere", &[true, false, true], json!({ "data_sha256": "t1", "training": other }));
    let mut here = training("lora", 1);
    here["base_sha256"] = json!("one");
    let here = answers(&room, "here", &[true, false, true], json!({ "data_sha256": "t1", "training": here }));
    not_alike(&here, &elsewhere, "they were trained on different base models (found one and another as base_sha256)");
}
