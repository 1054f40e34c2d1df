//! `dora sweep`: what it refuses, and runs that spoil.

mod support;

use std::fs;

use support::sweep::*;
use support::*;

#[test]
fn arms_that_train_the_same() {
    let case = Case::of_rows();
    for (first, second) in [
        ("lora", "lora+dropout=0"),
        ("lora+weight-decay=0", "lora"),
        ("qlora", "qlora+init-lora-weights=true"),
        ("dora", "dora+init-magnitude=weight-norm"),
        ("dora+init-magnitude=1", "dora+init-magnitude=updated-weight-norm"),
        ("dora", "dora+parameter-groups=peft"),
        ("dora", "dora+lr-magnitude=2e-4"),
    ] {
        let methods = format!("--methods={first},{second}");
        let message = format!("--methods {first} and {second} train the same, expected each method once");
        refused(&case.sweep(&small(&[&methods])), 2, &message);
        assert!(!case.out("runs").exists());
    }
    // Alike at one rank, at one rate or without weight decay only.
    let methods = "--methods=lora,lora+alpha=4,dora,dora+lr-magnitude=1e-3";
    case.sweep(&small(&[methods, "--learning-rates=dora=1e-3", "--learning-rates=2e-4"])).good();
    let more = ["--methods=dora,dora+parameter-groups=peft", "--weight-decay=0.1", "--learning-rates=3e-4"];
    case.sweep(&small(&more)).good();
}

#[test]
fn another_runs_folder_is_refused() {
    let case = Case::of_rows();
    case.sweep(&small(&["--methods=dora"])).good();
    let path = case.out("runs/dora-r2-lr2e-4-s0/run.json");
    let message = |what: &str| {
        format!("{} is of a run with {what} (give the sweep another --output, or remove that folder)", shown(&path))
    };
    let ran = case.sweep(&["--ranks=2,3", "--max-steps=3", "--batch-size=4"]);
    // LoRA comes first in the sweep, but nothing is run before all folders are looked at.
    refused(&ran, 2, &message("max_steps 2, expected 3"));
    assert_eq!(folders(&case.out("runs")), ["dora-r2-lr2e-4-s0", "dora-r3-lr2e-4-s0"]);
    refused(&case.sweep(&small(&["--alpha=3"])), 2, &message("lora_alpha 4, expected 3"));
    case.room.rows("train.jsonl", &token_rows(13));
    let ran = case.sweep(&small(&[]));
    assert!(ran.code == 2 && ran.err.contains("is of a run with data.sha256 \""), "{}", ran.err);
}

#[test]
fn options_that_do_not_fit() {
    let case = Case::of_rows();
    let train = case.room.path("train.jsonl");
    refused(&case.sweep(&["--ranks=4,4"]), 2, "--ranks has 4 twice, expected each once");
    refused(&case.sweep(&["--methods=lora,lora"]), 2, "--methods has lora twice, expected each once");
    let text = "--learning-rates names qlora, expected one of --methods: lora, dora";
    refused(&case.sweep(&["--learning-rates=qlora=1e-3"]), 2, text);
    let text = "--learning-rates are given twice for dora, expected once";
    refused(&case.sweep(&["--learning-rates=dora=1e-3", "--learning-rates=dora=1e-2"]), 2, text);
    let text = "--learning-rates for all methods where each has its own, expected either";
    refused(&case.sweep(&["--methods=dora", "--learning-rates=dora=1e-3", "--learning-rates=1e-2"]), 2, text);
    let several = "--learning-rates=1e-3,1e-2";
    refused(&case.sweep(&[several, "--tune-seed=0"]), 2, "--tune-seed 0 is one of --seeds, expected another");
    let (held_out, text) =
        (case.room.path("held.jsonl"), "--tune-data names the files of --eval-data, expected others");
    refused(&case.sweep(&[several, "--tune-data", shown(&held_out)]), 2, text);
    let ran = case.sweep(&["--methods=lora+dropout=0.1+dropout=0.2"]);
    assert!(ran.code == 2 && ran.err.contains("it has dropout twice, expected each option once"), "{}", ran.err);
    let text = "--tune-data, --tune-rank and --tune-seed are for several --learning-rates, expected these";
    refused(&case.sweep(&["--tune-seed=3"]), 2, text);
    refused(
        &case.sweep(&["--methods=lora+dropout=x"]),
        2,
        "lora+dropout=x-r4-lr2e-4-s0: invalid value 'x' for '--dropout <DROPOUT>': invalid float literal",
    );
    let ran = case.sweep(&["--ranks=0"]);
    refused(&ran, 2, "lora-r0-lr2e-4-s0: `r` is 0, expected a rank of at least 1");
    for (option, says) in [
        ("--methods=full", "expected lora, dora, qlora or qdora, which have a rank"),
        ("--methods=dora+max-steps=3", "`max-steps=3` is no option of a method"),
        ("--learning-rates=0", "\"0\" is no learning rate, expected a number above 0"),
        ("--rank=3", "unexpected argument '--rank'"),
        ("--lr=3", "unexpected argument '--lr'"),
        ("--method=lora", "unexpected argument '--method'"),
        ("--task=loss", "invalid value 'loss'"),
        ("--by=generation", "--task <TASK>"),
    ] {
        let ran = case.sweep(&[option]);
        assert!(ran.code == 2 && ran.err.contains(says) && ran.out.is_empty(), "{option}: {}", ran.err);
    }
    // Rows that are no questions show before the first run.
    let ran = case.sweep(&small(&["--task=answers", "--methods=lora"]));
    assert!(ran.code == 2 && !case.out("runs").exists(), "{}", ran.err);
    // Nothing that is read is written over.
    let inside = case.room.rows("out/sweep.json", &token_rows(3));
    let text = format!("--output {} is also read, expected a file of its own", shown(&inside));
    let line =
        ["sweep", "--model", shown(&case.model), "--data", shown(&train), "--eval-data", shown(&inside), "--output"];
    refused(&dora(line.iter().chain(&[shown(&case.room.path("out"))])), 2, &text);
    assert_eq!(fs::read_to_string(&inside).unwrap().lines().count(), 3);
    assert!(!case.out("runs").exists());
}

#[test]
fn a_run_that_spoils_counts_nowhere() {
    let case = Case::of_rows();
    let ran = case.sweep(&small(&["--methods=lora", "--learning-rates=1e38", "--max-grad-norm=0"]));
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{}", ran.err);
    assert!(ran.err.lines().last().unwrap().starts_with("error: lora-r2-lr1e38-s0: "), "{}", ran.err);
    let ran = case.sweep(&small(&["--methods=lora", "--learning-rates=1e38,2e38", "--max-grad-norm=0"]));
    let spoilt = small(&["--methods=lora,dora", "--learning-rates=dora=1e38", "--max-grad-norm=0"]);
    for _ in 0..2 {
        let ran = case.sweep(&spoilt);
        assert!(ran.code == 1 && ran.err.contains("dora-r2-lr1e38-s0 failed and counts nowhere: "), "{}", ran.err);
        let object = read_json(&case.out("sweep.json"));
        assert_eq!((object["failed"].as_array().unwrap().len(), object["points"].as_array().unwrap().len()), (2, 2));
        assert_eq!(object["failed"][0]["run"], "dora-r2-lr1e38-s0");
    }
    let text = "lora did not train at any of its learning rates, expected a finite loss at one (try lower ones)";
    refused(&ran, 1, text);
}
