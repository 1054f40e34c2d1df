//! `dora sweep`: what it writes, that it goes on where it stopped.

#![cfg(unix)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use support::sweep::*;
use support::*;

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn every_run_is_one_of_train_and_eval() {
    let case = Case::of_questions();
    let object = case.sweep(&small(&["--task=answers", "--seeds=1"])).good().object();
    assert_eq!(object, read_json(&case.out("sweep.json")));
    let top =
        ["ending", "failed", "learning_rates", "left_out", "output", "points", "runs", "seconds", "shared_options"];
    assert_eq!(keys(&object), [&top[..], &["svg"]].concat());
    let names = ["dora-r2-lr2e-4-s1", "dora-r3-lr2e-4-s1", "lora-r2-lr2e-4-s1", "lora-r3-lr2e-4-s1"];
    assert_eq!(folders(&case.out("runs")), names);
    assert!(!case.out("tuning").exists());
    // By hand: the same adapter, the same answers.
    let (run, alone) = (case.out("runs/dora-r3-lr2e-4-s1"), case.room.path("alone"));
    let (held, options) = (case.room.path("held.jsonl"), ["--method=dora", "--rank=3", "--lr=2e-4", "--seed=1"]);
    let budget = ["--max-steps=2", "--batch-size=4", "--eval-data", shown(&held)];
    train(&case.model, &case.room.path("train.jsonl"), &alone, &[&options[..], &budget].concat()).good();
    let bytes = |dir: &Path| fs::read(dir.join("adapter_model.safetensors")).unwrap();
    assert!(bytes(&run) == bytes(&alone));
    let (swept, single) = (read_json(&run.join("run.json")), read_json(&alone.join("run.json")));
    assert_eq!(keys(&swept), keys(&single));
    assert_eq!(swept["results"]["eval_loss_after"], single["results"]["eval_loss_after"]);
    let answers = case.room.path("alone.jsonl");
    let line = ["eval", "--model", shown(&case.model), "--adapter", shown(&alone), "--data", shown(&held)];
    dora(line.iter().chain(&["--task=answers", "--output", shown(&answers)])).good();
    assert_eq!(fs::read(&answers).unwrap(), fs::read(run.join("answers.jsonl")).unwrap());
    let summary = read_json(&run.join("answers.jsonl.summary.json"));
    // What it says of it.
    let point = object["points"].as_array().unwrap().iter().find(|p| p["method"] == "dora" && p["rank"] == 3).unwrap();
    assert_eq!(point["accuracy"]["mean"], summary["accuracy"]);
    assert_eq!(point["accuracy"]["low"], summary["accuracy_low"]);
    assert_eq!(point["guessing"], 0.5);
    assert_eq!(point["accuracy"]["interval"], "exact binomial over questions");
    assert_eq!(
        point["eval_loss"],
        json!({ "mean": single["results"]["eval_loss_after"], "low": null, "high": null, "interval": null })
    );
    assert_eq!(point["trainable_params"], single["trainable_params"]);
    assert_eq!(
        keys(point),
        [
            "accuracy",
            "eval_loss",
            "guessing",
            "learning_rate",
            "method",
            "peak_rss_mb",
            "rank",
            "seeds",
            "trainable_params",
            "unparsed_share",
            "wall_s"
        ]
    );
    let svg = fs::read_to_string(case.out("sweep.svg")).unwrap();
    assert!(svg.contains("accuracy, % against rank") && svg.contains("held-out loss against rank"));
    // compare takes two of them.
    let other = case.out("runs/lora-r3-lr2e-4-s1");
    let results = [&other, &run].map(|dir| dir.join("answers.jsonl"));
    let compared = dora(["compare", "--json", shown(&results[0]), shown(&results[1])]).good().object();
    assert_eq!(compared["settings_that_differ"], json!({ "method": ["lora", "dora"] }));
    dora(["compare", shown(&other), shown(&run)]).good();
}

#[test]
fn over_seeds_by_student() {
    let case = Case::of_rows();
    let object = case
        .sweep(&small(&["--seeds=0,1,5", "--methods=dora,dora+dropout=0.5", "--lr-magnitude=1e-3"]))
        .good()
        .object();
    let runs = object["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 12);
    for point in object["points"].as_array().unwrap() {
        let of = |run: &&Value| run["method"] == point["method"] && run["rank"] == point["rank"];
        let losses: Vec<f64> = runs.iter().filter(of).map(|run| run["eval_loss_after"].as_f64().unwrap()).collect();
        let mean = losses.iter().sum::<f64>() / 3.0;
        let deviation = (losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
        let number = |key: &str| point["eval_loss"][key].as_f64().unwrap();
        assert!((number("mean") - mean).abs() < 1e-12 && deviation > 0.0);
        assert!((number("high") - mean - 4.302653 * deviation / 3f64.sqrt()).abs() < 1e-6);
        assert!((number("high") + number("low") - 2.0 * mean).abs() < 1e-9);
        assert_eq!((&point["eval_loss"]["interval"], &point["seeds"]), (&json!("t over seeds"), &json!(3)));
        assert!(point["accuracy"].is_null());
    }
    let config = read_json(&case.out("runs/dora+dropout=0.5-r2-lr2e-4-s5/adapter_config.json"));
    assert_eq!((&config["lora_dropout"], &config["r"]), (&json!(0.5), &json!(2)));
    let text = case
        .sweep(&[
            "--ranks=2,3",
            "--max-steps=2",
            "--batch-size=4",
            "--seeds=0,1,5",
            "--methods=dora",
            "--lr-magnitude=1e-3",
        ])
        .good();
    assert!(
        text.out.contains("3 seeds: loss as a mean over seeds with its 95 % interval (Student's t)."),
        "{}",
        text.out
    );
    assert_eq!(text.err.matches(" is finished: ").count(), 6);
    let svg = fs::read_to_string(case.out("sweep.svg")).unwrap();
    assert!(!svg.contains("accuracy") && svg.contains("held-out loss against rank"));
}

#[test]
fn each_method_gets_the_rate_that_held_out_rows_choose() {
    let case = Case::of_questions();
    let tune = case.room.path("tune.jsonl");
    let rates = ["--learning-rates=1e-7,1e-2", "--learning-rates=dora=1e-6,1e-3,1e30"];
    let more = [&rates[..], &["--tune-data", shown(&tune), "--tune-rank=3", "--max-grad-norm=0"]].concat();
    let ran = case.sweep(&small(&more)).good();
    let choices = ran.object()["learning_rates"].clone();
    assert_eq!((&choices[0]["method"], &choices[0]["learning_rate"]), (&json!("lora"), &json!(1e-2)));
    assert_eq!((&choices[1]["method"], &choices[1]["learning_rate"]), (&json!("dora"), &json!(1e-3)));
    for choice in choices.as_array().unwrap() {
        assert_eq!(keys(choice), ["learning_rate", "method", "rank", "rows", "seed", "tried", "tuned"]);
        assert_eq!((&choice["rows"], &choice["rank"], &choice["seed"]), (&json!("--tune-data"), &json!(3), &json!(1)));
    }
    // Losses are those of the runs, on the rows for it, and a run that did not end has none.
    let tried = |i: usize| choices[1]["tried"][i]["eval_loss"].clone();
    let run = read_json(&case.out("tuning/dora-r3-lr1e-3-s1/run.json"));
    assert_eq!((&tried(1), &tried(2)), (&run["results"]["eval_loss_after"], &Value::Null));
    assert!(tried(0).as_f64() > tried(1).as_f64());
    assert_eq!(run["eval_data"]["rows"], 6);
    assert!(ran.err.contains("note: it is the largest one tried for lora"), "{}", ran.err);
    assert!(!ran.err.contains("note: it is the largest one tried for dora"), "{}", ran.err);
    let names = ["dora-r2-lr1e-3-s0", "dora-r3-lr1e-3-s0", "lora-r2-lr1e-2-s0", "lora-r3-lr1e-2-s0"];
    assert_eq!(folders(&case.out("runs")), names);
    // Again: nothing is run, not even what failed.
    let again = case.sweep(&small(&more)).good();
    assert_eq!(again.object()["learning_rates"], choices);
    assert!(!again.err.contains("trained"), "{}", again.err);
}

#[test]
fn what_is_finished_is_not_run_again() {
    let case = Case::of_questions();
    case.sweep(&small(&["--methods=lora", "--task=answers"])).good();
    let [kept, half, unjudged] = ["2", "3", "2"].map(|rank| case.out(&format!("runs/lora-r{rank}-lr2e-4-s0")));
    let (file, before) = ("adapter_model.safetensors", fs::read(half.join("adapter_model.safetensors")).unwrap());
    let time = modified(&kept.join(file));
    // One run as it is before its results are in, and one without its answers.
    let mut record = read_json(&half.join("run.json"));
    record.as_object_mut().unwrap().remove("results");
    fs::write(half.join("run.json"), record.to_string()).unwrap();
    fs::write(half.join(file), b"half").unwrap();
    let answers = fs::read(unjudged.join("answers.jsonl")).unwrap();
    fs::remove_file(unjudged.join("answers.jsonl")).unwrap();
    // More ranks and methods may come to it, from another folder's view of the same files.
    let ran = case
        .sweep(&["--json", "--ranks=3,2,1", "--max-steps=2", "--batch-size=4", "--task=answers", "--threads=2"])
        .good();
    assert_eq!(modified(&kept.join(file)), time);
    assert_eq!(fs::read(half.join(file)).unwrap(), before);
    assert_eq!(fs::read(unjudged.join("answers.jsonl")).unwrap(), answers);
    let finished: Vec<bool> =
        ran.object()["runs"].as_array().unwrap().iter().map(|run| run["was_finished"] == true).collect();
    assert_eq!(finished, [false, true, false, false, false, false]);
}

#[test]
fn a_run_without_its_adapter_is_made_again() {
    let case = Case::of_rows();
    case.sweep(&small(&["--methods=lora"])).good();
    let run = case.out("runs/lora-r3-lr2e-4-s0");
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        let before = fs::read(run.join(name)).unwrap();
        fs::remove_file(run.join(name)).unwrap();
        let object = case.sweep(&small(&["--methods=lora"])).good().object();
        let finished: Vec<&Value> = object["runs"].as_array().unwrap().iter().map(|r| &r["was_finished"]).collect();
        assert_eq!(finished, [true, false]);
        assert!(fs::read(run.join(name)).unwrap() == before);
    }
}

#[test]
fn runs_that_are_not_named_are_told_of() {
    let case = Case::of_rows();
    let all = case.sweep(&small(&[])).good();
    assert!(all.object()["left_out"].as_array().unwrap().is_empty() && !all.err.contains("does not name"));
    let fewer = case.sweep(&["--json", "--ranks=3", "--max-steps=2", "--batch-size=4"]).good();
    let names = ["dora-r2-lr2e-4-s0", "lora-r2-lr2e-4-s0"];
    assert_eq!(fewer.object()["left_out"], json!(names));
    let runs = case.out("runs");
    let note = "also holds finished runs that this command does not name: dora-r2-lr2e-4-s0, lora-r2-lr2e-4-s0\n";
    assert!(fewer.err.contains(&format!("note: {} {note}", shown(&runs))), "{}", fewer.err);
}

/// Seeds that happen to agree say nothing of other questions.
#[test]
fn seeds_that_agree_promise_nothing() {
    let case = Case::of_questions();
    // Steps so small that no answer changes.
    let more = ["--task=answers", "--methods=lora", "--seeds=0,1,2", "--learning-rates=1e-9"];
    let object = case.sweep(&small(&more)).good().object();
    let runs = object["runs"].as_array().unwrap();
    assert!(runs.iter().all(|run| run["right"] == runs[0]["right"]), "{object}");
    let summary = read_json(&case.out("runs/lora-r2-lr1e-9-s0/answers.jsonl.summary.json"));
    for point in object["points"].as_array().unwrap() {
        let share = &point["accuracy"];
        assert_eq!((&share["mean"], &share["low"]), (&summary["accuracy"], &summary["accuracy_low"]), "{point}");
        assert_eq!(share["high"], summary["accuracy_high"]);
        assert!(share["high"].as_f64().unwrap() - share["low"].as_f64().unwrap() > 0.3, "{point}");
    }
    // Seeds that do not agree may reach further, never less far.
    let more = ["--task=answers", "--methods=lora", "--seeds=3,4", "--learning-rates=1e-2"];
    let object = case.sweep(&small(&more)).good().object();
    let number = |value: &Value| value.as_f64().unwrap();
    for point in object["points"].as_array().unwrap() {
        let of = |run: &&Value| run["rank"] == point["rank"];
        let right: Vec<f64> =
            object["runs"].as_array().unwrap().iter().filter(of).map(|run| number(&run["right"])).collect();
        let (low, high) = (number(&point["accuracy"]["low"]), number(&point["accuracy"]["high"]));
        let least = dora_stats::accuracy_interval(((right[0] + right[1]) / 2.0) as usize, 9);
        assert!(low <= least.low && high >= least.high && (0.0..=1.0).contains(&low) && high <= 1.0, "{point}");
    }
}

#[test]
fn answers_that_could_not_be_read_are_counted() {
    let case = Case::of_questions();
    let more = ["--task=answers", "--by=generation", "--methods=lora"];
    let object = case.sweep(&small(&more)).good().object();
    let summary = read_json(&case.out("runs/lora-r2-lr2e-4-s0/answers.jsonl.summary.json"));
    assert!(summary["unparsed"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!(object["points"][0]["unparsed_share"], summary["unparsed_share"]);
    assert_eq!(object["runs"][0]["unparsed"], summary["unparsed"]);
    let text = case.sweep(&[&more[..], &SMALL[1..]].concat()).good().out;
    let (head, first) = (text.lines().next().unwrap(), text.lines().nth(1).unwrap());
    let share = format!(" {:.1} ", 100.0 * summary["unparsed_share"].as_f64().unwrap());
    assert!(head.contains("no answer %") && first.contains(&share), "{text}");
    let text = case.sweep(&["--task=answers", "--methods=dora", "--ranks=2", "--max-steps=2"]).good().out;
    assert!(!text.contains("no answer %"), "{text}");
}

#[test]
fn goes_on_after_a_kill_and_after_ctrl_c() {
    let case = Case::of_rows();
    let options = ["--methods=lora", "--max-steps=4000", "--ranks=2,3", "--batch-size=4"];
    let start = |case: &Case| {
        let line = case.line(&options);
        Command::new(env!("CARGO_BIN_EXE_dora"))
            .args(["--json", "--threads=1"])
            .args(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let second = case.out("runs/lora-r3-lr2e-4-s0");
    let reached = |steps: usize| {
        let start = Instant::now();
        while fs::read_to_string(second.join("metrics.jsonl")).unwrap_or_default().lines().count() < steps {
            assert!(start.elapsed() < Duration::from_secs(60), "the second run did not begin");
            sleep(Duration::from_millis(5));
        }
    };
    let mut child = start(&case);
    reached(3);
    child.kill().unwrap();
    child.wait().unwrap();
    let first = modified(&case.out("runs/lora-r2-lr2e-4-s0/adapter_model.safetensors"));
    let left = read_json(&case.out("sweep.json"));
    assert_eq!((&left["ending"], left["points"].as_array().unwrap().len()), (&json!("unfinished"), 1));
    let page = case.room.path("page.html");
    dora(["report", shown(&case.room.path("out")), "--output", shown(&page)]).good();
    assert!(fs::read_to_string(page).unwrap().contains("This sweep is not whole (unfinished)"));
    fs::remove_file(second.join("metrics.jsonl")).unwrap();
    let child = start(&case);
    reached(3);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{ran:?}");
    assert_eq!((&ran.object()["ending"], ran.object()["points"].as_array().unwrap().len()), (&json!("interrupted"), 1));
    assert_eq!(read_json(&second.join("run.json"))["results"]["ending"], "interrupted");
    let whole = Ran::of(start(&case).wait_with_output().unwrap()).good().object();
    assert_eq!((&whole["ending"], whole["points"].as_array().unwrap().len()), (&json!("finished"), 2));
    assert_eq!(modified(&case.out("runs/lora-r2-lr2e-4-s0/adapter_model.safetensors")), first);
    // As if nothing had happened.
    let (alone, held) = (case.room.path("alone"), case.room.path("held.jsonl"));
    let options = ["--method=lora", "--max-steps=4000", "--rank=3", "--batch-size=4", "--eval-data", shown(&held)];
    train(&case.model, &case.room.path("train.jsonl"), &alone, &options).good();
    assert_eq!(difference(&second.join("adapter_model.safetensors"), &alone.join("adapter_model.safetensors")), 0.0);
}

#[test]
fn over_4_bits_and_16_bits() {
    let case = Case::of_rows();
    let object = case.sweep(&small(&["--methods=qdora,lora"])).good().object();
    let methods: Vec<&str> =
        object["points"].as_array().unwrap().iter().map(|p| p["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["qdora", "qdora", "lora", "lora"]);
    let nf4 =
        |name: &str| read_json(&case.out(&format!("runs/{name}-r2-lr2e-4-s0/run.json")))["settings"]["nf4"].clone();
    assert_eq!((nf4("lora"), nf4("qdora")["block_size"].clone()), (Value::Null, json!(64)));
    let rows =
        |name: &str| read_json(&case.out(&format!("runs/{name}-r2-lr2e-4-s0/rows.jsonl.summary.json")))["nf4"].clone();
    assert_eq!((rows("lora"), rows("qdora")["block_size"].clone()), (Value::Null, json!(64)));
}
