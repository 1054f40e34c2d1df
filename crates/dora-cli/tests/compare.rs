//! `dora compare`: verdicts on made-up results whose figures are known, and on real runs.

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};
use support::compare::*;
use support::*;

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
        next.starts_with(
            "if a difference of 1.8 points of accuracy would matter to you, evaluate both on about 4,000 questions like these in all, "
        ),
        "{next}"
    );
    assert!(
        next.contains(
            "4 times out of 5 (these 500 find only 5.1 points of accuracy or more); if not, choose by cost. To judge the methods"
        ),
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
        text(&object["next"]).starts_with(
            "if a difference of 1.0 points of accuracy would matter to you, evaluate both on about 16,000 questions"
        ),
        "{object}"
    );
    let (a, b) = both(&room, [20, 0, 0, 20]);
    let object = compare(&[&a, &b]);
    assert_eq!(
        object["verdict"],
        "Within noise: A and B are right and wrong on the same 40 questions, which does not show that they are equal."
    );
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
    assert!(text(&object["next"]).contains(" seeds an arm in all, enough to find it "), "{object}");
    // Three are not enough: items are tested, each its mean over the seeds.
    let (a, b) = seeds(&room, 3, 4);
    let object = compare(&[&a[..], &b].concat());
    let task = &object["tasks"][0];
    assert_eq!((&task["unit"], &task["n"]), (&json!("questions"), &json!(100)));
    assert!((number(&task["difference"]) - 0.05).abs() < 1e-9, "{task}");
    assert!(
        text(&object["next"]).contains("at least 4 seeds, of which these runs are 3, and compare all."),
        "{object}"
    );
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

/// Rows of one token each, with these losses.
fn tokens(room: &Room, name: &str, losses: &[f64]) -> PathBuf {
    let line = |(i, loss): (usize, &f64)| json!({ "index": i, "item": format!("r{i}"), "loss": loss, "tokens": 1 });
    let lines: Vec<_> = losses.iter().enumerate().map(line).collect();
    results(room, name, &lines, json!({ "rows": losses.len() }))
}

/// With few items the bootstrap leaves out the 0 that the test keeps; what is printed must not.
#[test]
fn the_interval_agrees_with_the_verdict() {
    let room = Room::new();
    let a = tokens(&room, "a", &[1.0; 8]);
    // Five of five lower: 2 of 32 patterns of signs are as far out.
    let five = [tokens(&room, "five-a", &[1.0; 5]), tokens(&room, "five-b", &[0.9, 0.8, 0.95, 0.7, 0.85])];
    let object = compare(&five);
    let task = &object["tasks"][0];
    assert_eq!((number(&task["p"]), &object["better"]), (0.0625, &json!(null)));
    assert_eq!(number(&task["high"]), 0.0);
    assert!(number(&task["low"]) < -0.1, "{task}");
    let out = dora(["compare", shown(&five[0]), shown(&five[1])]).good().out;
    assert!(out.starts_with("Within noise: ") && out.contains(" to 0.0000), p = 0.062"), "{out}");
    // And of eight, all lower: decided, with an interval below 0.
    let b = tokens(&room, "b", &[0.9, 0.8, 0.95, 0.7, 0.85, 0.6, 0.9, 0.99]);
    let object = compare(&[&a, &b]);
    assert_eq!(object["better"], "b");
    assert!(number(&object["tasks"][0]["high"]) < 0.0, "{object}");
    // Whatever the losses are, 0 is in the interval where the verdict is "within noise", and nowhere else.
    let seven = tokens(&room, "seven", &[1.0; 7]);
    let mut found = [0; 2];
    for i in 0..40 {
        let losses: Vec<f64> = (0..7).map(|j| 0.88 + 0.02 * ((i * 31 + j * 17 + i * j) % 11) as f64).collect();
        let object = compare(&[&seven, &tokens(&room, &format!("other-{i}"), &losses)]);
        let task = &object["tasks"][0];
        let holds = number(&task["low"]) <= 0.0 && 0.0 <= number(&task["high"]);
        assert_eq!(holds, object["better"].is_null(), "{object}");
        found[usize::from(holds)] += 1;
    }
    assert!(found.iter().all(|n| *n > 0), "{found:?}");
}
