//! Variants of training: how magnitudes begin, the exact gradient of the norm, LoRA+ and the optimizer's groups. Whatever they
//! are, the merged model is the trained one.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::sweep::Case;
use support::*;

const ADAPTER: &str = "adapter_model.safetensors";

/// Trains the tiny model with these options, and gives the folder and what was said.
fn trained(room: &Room, name: &str, options: &[&str]) -> (PathBuf, Ran) {
    let (data, out) = (room.rows("rows.jsonl", &token_rows(12)), room.path(name));
    let budget = ["--batch-size=6", "--lr=1e-2", "--max-steps=6", "--schedule=constant", "--eval-data", shown(&data)];
    let ran = train(&plain(), &data, &out, &[&budget, options].concat()).good();
    (out, ran)
}

fn settings(out: &Path) -> Value {
    read_json(&out.join("run.json"))["settings"].clone()
}

/// Held-out loss before the first step and after the last.
fn held_out(out: &Path) -> (f64, f64) {
    let results = read_json(&out.join("run.json"))["results"].clone();
    (results["eval_loss_before"].as_f64().unwrap(), results["eval_loss_after"].as_f64().unwrap())
}

/// Elements of one kind of tensor, by name.
fn elements(out: &Path, end: &str) -> Vec<f32> {
    tensors(&out.join(ADAPTER)).into_iter().filter(|(name, ..)| name.ends_with(end)).flat_map(|(.., e)| e).collect()
}

#[test]
fn merged_is_trained() {
    let room = Room::new();
    let data = room.rows("rows.jsonl", &token_rows(12));
    for (i, options) in [
        vec!["--init-magnitude=ones"],
        vec!["--init-magnitude=0.8", "--exact-norm-gradient"],
        vec!["--exact-norm-gradient", "--dropout=0.3"],
        vec!["--method=qdora", "--init-magnitude=ones", "--exact-norm-gradient"],
        vec!["--method=lora", "--loraplus-lr-ratio=4"],
        vec!["--loraplus-lr-ratio=4", "--parameter-groups=peft", "--weight-decay=0.1"],
    ]
    .into_iter()
    .enumerate()
    {
        let (out, _) = trained(&room, &format!("run{i}"), &options);
        let (_, after) = held_out(&out);
        let merged = room.path(&format!("merged{i}"));
        let mut line = vec!["merge", "--json", "--model"];
        let model = plain();
        line.extend([shown(&model), "--adapter", shown(&out), "--output", shown(&merged), "--eval-data", shown(&data)]);
        if options.contains(&"--method=qdora") {
            line.push("--merge-base=dequantized");
        }
        let loss = dora(line).good().object()["eval_loss"].as_f64().unwrap();
        assert!((loss - after).abs() <= 2e-5 * after, "{options:?}: merged {loss}, trained {after}");
        if !options.contains(&"--method=qdora") {
            let alone = eval_loss(&model, Some(&out), &data);
            assert!((alone - after).abs() <= 1e-6 * after, "{options:?}: loaded {alone}, trained {after}");
        }
    }
}

#[test]
fn how_magnitudes_begin() {
    let room = Room::new();
    let still = ["--max-steps=1", "--lr=1e-30"];
    let of = |name: &str, option: &str| {
        let (out, ran) = trained(&room, name, &[&still[..], &[option]].concat());
        (elements(&out, ".lora_magnitude_vector"), held_out(&out).0, settings(&out), ran.err)
    };
    let base = eval_loss(&plain(), None, &room.rows("rows.jsonl", &token_rows(12)));
    let (norms, before, record, said) = of("default", "--method=dora");
    assert!((before - base).abs() <= 1e-6 * base && !said.contains("magnitudes begin"), "{said}");
    assert!(record["init_magnitude"].is_null());
    for option in ["weight-norm", "updated-weight-norm", "1"] {
        let (m, before, record, said) = of(option, &format!("--init-magnitude={option}"));
        assert!(norms.iter().zip(&m).all(|(n, m)| (n - m).abs() <= 1e-6 * n), "{option}");
        assert!((before - base).abs() <= 1e-5 * base && !said.contains("magnitudes begin"), "{option}: {said}");
        assert!(record["init_magnitude"] == option || record["init_magnitude"] == 1.0);
    }
    let (m, before, record, said) = of("ones", "--init-magnitude=ones");
    assert!(m.iter().all(|m| *m == 1.0) && (before - base).abs() > 1e-3 * base, "{before} {base}");
    assert_eq!(record["init_magnitude"], "ones");
    let note = "note: magnitudes begin at 1, so the model before the first step is not the base model";
    assert!(said.contains(note), "{said}");
    let (m, before, record, said) = of("half", "--init-magnitude=0.5");
    assert!(norms.iter().zip(&m).all(|(n, m)| (n - 2.0 * m).abs() <= 1e-6 * n) && (before - base).abs() > 1e-3 * base);
    assert_eq!(record["init_magnitude"], 0.5);
    assert!(said.contains("note: magnitudes begin at 0.5 times ‖W‖, so the model"), "{said}");
    let notes = read_json(&room.path("half/run.json"))["notes"].clone();
    assert_eq!(notes[1], "note: PEFT loads these magnitudes, but begins an adapter with ‖W + sBA‖ only");
}

/// DoRA that goes on from LoRA: with the norm of the updated weight nothing changes; with that of the weight it does.
#[test]
fn dora_from_lora() {
    let room = Room::new();
    let (lora, _) = trained(&room, "lora", &["--method=lora", "--rank=3"]);
    let loss = held_out(&lora).1;
    let init = format!("--init-adapter={}", shown(&lora));
    let still = ["--max-steps=1", "--lr=1e-30", &init];
    let (updated, ran) = trained(&room, "updated", &[&still[..], &["--init-magnitude=updated-weight-norm"]].concat());
    assert!((held_out(&updated).0 - loss).abs() <= 1e-5 * loss, "{:?} {loss}", held_out(&updated));
    assert!(ran.err.contains("note: magnitudes begin at ‖W + sBA‖: what a LoRA adapter makes stays"), "{}", ran.err);
    let (weight, ran) = trained(&room, "weight", &[&still[..], &["--init-magnitude=weight-norm"]].concat());
    assert!((held_out(&weight).0 - loss).abs() > 1e-4 * loss, "{:?} {loss}", held_out(&weight));
    assert!(ran.err.contains("is not what --init-adapter makes"), "{}", ran.err);
    let config = read_json(&updated.join("adapter_config.json"));
    assert_eq!((&config["use_dora"], &config["r"]), (&json!(true), &json!(3)));
    // And a DoRA adapter keeps its own magnitudes where nothing else is said.
    let (dora, _) = trained(&room, "dora", &["--rank=3"]);
    let init = format!("--init-adapter={}", shown(&dora));
    let (kept, _) = trained(&room, "kept", &["--max-steps=1", "--lr=1e-30", &init]);
    assert_eq!(difference(&dora.join(ADAPTER), &kept.join(ADAPTER)), 0.0);
    assert!(settings(&kept)["init_magnitude"].is_null());
}

/// At the first step B is 0 and with it the norm's part of dA; that of dB is not.
#[test]
fn the_exact_gradient_trains_otherwise() {
    let room = Room::new();
    let (detached, _) = trained(&room, "detached", &["--max-grad-norm=0"]);
    let (exact, ran) = trained(&room, "exact", &["--max-grad-norm=0", "--exact-norm-gradient"]);
    assert!(
        ran.err.contains("note: PEFT loads this adapter and computes alike, but trains on with the norm held constant")
    );
    let (left, right) = (losses(&detached), losses(&exact));
    assert_eq!(left[0], right[0]);
    assert!(left[5] != right[5] && difference(&detached.join(ADAPTER), &exact.join(ADAPTER)) > 1e-4);
    assert!(held_out(&exact).1 < held_out(&exact).0 - 0.05, "{:?}", held_out(&exact));
    assert_eq!(
        (settings(&exact)["exact_norm_gradient"].clone(), settings(&detached)["exact_norm_gradient"].clone()),
        (json!(true), json!(false))
    );
    // Recomputation of blocks changes nothing.
    let (again, _) =
        trained(&room, "again", &["--max-grad-norm=0", "--exact-norm-gradient", "--gradient-checkpointing"]);
    assert_eq!(difference(&exact.join(ADAPTER), &again.join(ADAPTER)), 0.0);
}

/// AdamW's first step moves every element by its group's learning rate (where its gradient is not tiny), less decay.
#[test]
fn groups_of_the_optimizer() {
    let room = Room::new();
    let one = ["--max-steps=1", "--lr=1e-4", "--max-grad-norm=0"];
    let (still, _) = trained(&room, "still", &["--max-steps=1", "--lr=1e-30"]);
    let begin = elements(&still, ".lora_magnitude_vector");
    let step = |name: &str, options: &[&str]| {
        let (out, _) = trained(&room, name, &[&one, options].concat());
        let b = elements(&out, ".lora_B.weight").into_iter().fold(0f32, |most, b| most.max(b.abs()));
        let moved: Vec<f32> = elements(&out, ".lora_magnitude_vector").iter().zip(&begin).map(|(m, n)| m - n).collect();
        let most = moved.iter().fold(0f32, |most, d| most.max(d.abs()));
        (f64::from(b), f64::from(most), moved, settings(&out))
    };
    let close = |found: f64, want: f64| assert!((found - want).abs() <= 5e-3 * want, "{found}, expected {want}");
    let (b, m, ..) = step("plain", &[]);
    close(b, 1e-4);
    close(m, 1e-4);
    let (b, m, _, record) = step("plus", &["--loraplus-lr-ratio=16"]);
    close(b, 1.6e-3);
    close(m, 1e-4);
    assert_eq!((&record["loraplus_lr_ratio"], &record["parameter_groups"]), (&json!(16.0), &json!("role")));
    let (b, m, ..) = step("dora-plus", &["--loraplus-lr-ratio=16", "--lr-magnitude=5e-4"]);
    close(b, 1.6e-3);
    close(m, 5e-4);
    let (b, m, without, record) = step("peft", &["--loraplus-lr-ratio=16", "--parameter-groups=peft"]);
    close(b, 1.6e-3);
    close(m, 1.6e-3);
    let lr_magnitude = record["lr_magnitude"].as_f64().unwrap();
    assert!((lr_magnitude - 1.6e-3).abs() < 1e-12 && record["parameter_groups"] == "peft");
    // PEFT's groups let magnitudes decay by lr · weight_decay; ours do not.
    let (.., with, _) = step("decay", &["--loraplus-lr-ratio=16", "--parameter-groups=peft", "--weight-decay=10"]);
    for ((with, without), n) in with.iter().zip(&without).zip(&begin) {
        let (decay, want) = (without - with, 1.6e-3 * 10.0 * n);
        assert!((decay - want).abs() <= 1e-3 * want + 1e-6, "{decay}, expected {want}");
    }
    let (.., role, _) = step("no decay", &["--weight-decay=10"]);
    assert!(role.iter().all(|d| d.abs() <= 1.01e-4));
}

#[test]
fn in_a_sweep() {
    let case = Case::of_rows();
    let methods = "--methods=dora,dora+init-magnitude=ones,dora+exact-norm-gradient,lora+loraplus-lr-ratio=16";
    let object = case.sweep(&["--json", methods, "--ranks=2", "--max-steps=2"]).good().object();
    let losses: Vec<&Value> = object["points"].as_array().unwrap().iter().map(|p| &p["eval_loss"]["mean"]).collect();
    assert_eq!(losses.len(), 4);
    assert!((0..4).all(|i| (0..i).all(|j| losses[i] != losses[j])), "{losses:?}");
    let run = read_json(&case.out("runs/dora+init-magnitude=ones-r2-lr2e-4-s0/run.json"));
    assert_eq!(run["settings"]["init_magnitude"], "ones");
    let text = "lora+exact-norm-gradient-r2-lr2e-4-s0: --exact-norm-gradient is for --method dora or qdora, which alone have a norm";
    refused(&case.sweep(&["--json", "--methods=lora+exact-norm-gradient", "--ranks=2"]), 2, text);
}

#[test]
fn what_does_not_go_together() {
    let room = Room::new();
    let (data, out) = (room.rows("rows.jsonl", &token_rows(12)), room.path("out"));
    for (options, text) in [
        (
            vec!["--method=lora", "--init-magnitude=ones"],
            "--init-magnitude is for --method dora or qdora, which alone have magnitudes",
        ),
        (
            vec!["--method=full", "--exact-norm-gradient"],
            "--exact-norm-gradient is for --method dora or qdora, which alone have a norm",
        ),
        (
            vec!["--method=full", "--loraplus-lr-ratio=2"],
            "--loraplus-lr-ratio is for adapters, which alone have a B, expected none with --method full",
        ),
        (
            vec!["--method=qlora", "--parameter-groups=peft"],
            "--parameter-groups peft is for --method dora or qdora, whose magnitudes it puts with B",
        ),
        (
            vec!["--parameter-groups=peft", "--lr-magnitude=1e-3"],
            "--lr-magnitude is for --parameter-groups role, expected none with peft, which has B's rate",
        ),
        (vec!["--loraplus-lr-ratio=0"], "--loraplus-lr-ratio is 0, expected a number above 0"),
    ] {
        refused(&train(&plain(), &data, &out, &options), 2, text);
    }
    for value in ["0", "-1", "norm", "inf"] {
        let ran = train(&plain(), &data, &out, &[&format!("--init-magnitude={value}")]);
        let text = "expected weight-norm, updated-weight-norm, ones or a number above 0";
        assert!(ran.code == 2 && ran.err.contains(text), "{}", ran.err);
    }
    no_result(&out);
}
