//! What a training run must not depend on (how rows are laid into passes, checkpointing of activations, threads) and what it
//! must (seed, dropout, order of rows), on a tiny model.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::*;

const ADAPTER: &str = "adapter_model.safetensors";

/// Trains the tiny model on these twelve rows with these options, and gives the output folder.
fn trained(room: &Room, name: &str, options: &str) -> PathBuf {
    let (data, out) = (room.rows("rows.jsonl", &token_rows(12)), room.path(name));
    train(&plain(), &data, &out, &options.split(' ').collect::<Vec<_>>()).good();
    out
}

/// Two runs' losses and adapters within 1e-5, after steps that did change something.
#[track_caller]
fn same(a: &Path, b: &Path) {
    let (left, right) = (losses(a), losses(b));
    assert_eq!(left.len(), right.len());
    assert!((left[0] - left[left.len() - 1]).abs() > 1e-2, "{left:?}");
    for (l, r) in left.iter().zip(&right) {
        assert!((l - r).abs() <= 1e-5 * l, "{left:?} {right:?}");
    }
    let apart = difference(&a.join(ADAPTER), &b.join(ADAPTER));
    assert!(apart <= 1e-5, "{apart}");
}

fn bytes(out: &Path) -> Vec<u8> {
    fs::read(out.join(ADAPTER)).unwrap()
}

#[test]
fn accumulation_equals_the_large_batch() {
    let room = Room::new();
    let large = trained(&room, "large", "--batch-size=6 --lr=1e-3 --epochs=3");
    let parts = trained(&room, "parts", "--batch-size=2 --grad-accum=3 --lr=1e-3 --epochs=3");
    same(&large, &parts);
    let labelled: Vec<usize> = token_rows(12).iter().map(labels).collect();
    let of_parts: Vec<usize> = labelled.chunks(2).map(|part| part.iter().sum()).collect();
    assert!(of_parts.iter().any(|n| *n != of_parts[0]), "the mean of means would be the mean: {of_parts:?}");
}

/// Labelled tokens of a row.
fn labels(row: &serde_json::Value) -> usize {
    row["labels"].as_array().unwrap().iter().skip(1).filter(|label| label.as_i64() != Some(-100)).count()
}

#[test]
fn packing_equals_separate_rows() {
    let room = Room::new();
    let alone = trained(&room, "alone", "--batch-size=1 --grad-accum=12 --lr=5e-3 --epochs=4");
    let batch = trained(&room, "batch", "--batch-size=12 --lr=5e-3 --epochs=4");
    let packed = trained(&room, "packed", "--batch-size=12 --packing --max-seq-len=32 --lr=5e-3 --epochs=4");
    same(&alone, &batch);
    same(&alone, &packed);
    let ordered = "--batch-size=12 --packing --max-seq-len=32 --lr=5e-3 --epochs=4 --no-shuffle";
    same(&alone, &trained(&room, "ordered", ordered));
    // With one pack a step there are as many steps as packs: the rows were laid together at all.
    let one = trained(&room, "one", "--batch-size=1 --packing --max-seq-len=32 --epochs=1");
    assert!((2..8).contains(&losses(&one).len()), "{:?}", losses(&one));
}

#[test]
fn checkpointing_changes_nothing() {
    let room = Room::new();
    for method in ["lora", "dora"] {
        let options = format!("--method={method} --batch-size=4 --lr=5e-3 --dropout=0.1");
        let kept = trained(&room, "kept", &options);
        let again = trained(&room, "again", &format!("{options} --gradient-checkpointing"));
        assert_eq!(losses(&kept), losses(&again));
        assert!(bytes(&kept) == bytes(&again));
    }
}

#[test]
fn a_seed_settles_everything() {
    let room = Room::new();
    let first = trained(&room, "first", "--batch-size=4 --dropout=0.1 --seed=3");
    let again = trained(&room, "again", "--batch-size=4 --dropout=0.1 --seed=3");
    assert!(bytes(&first) == bytes(&again));
    assert_eq!(losses(&first), losses(&again));
    let other = trained(&room, "other", "--batch-size=4 --dropout=0.1 --seed=4");
    assert!(bytes(&first) != bytes(&other));
}

#[test]
fn threads_do_not_matter() {
    let room = Room::new();
    let one = trained(&room, "one", "--batch-size=12 --lr=5e-3 --epochs=6");
    let two = trained(&room, "two", "--batch-size=12 --lr=5e-3 --epochs=6 --threads=2");
    same(&one, &two);
}

#[test]
fn dropout_is_felt() {
    let room = Room::new();
    for method in ["lora", "dora"] {
        let without = trained(&room, "without", &format!("--method={method} --lr=5e-3"));
        let with = trained(&room, "with", &format!("--method={method} --lr=5e-3 --dropout=0.5"));
        let (without, with) = (losses(&without), losses(&with));
        // B is 0 before the first step, so that there is nothing to drop in it.
        assert!((without[0] - with[0]).abs() <= 1e-5 * without[0], "{without:?} {with:?}");
        assert!((without[5] - with[5]).abs() > 1e-3, "{without:?} {with:?}");
    }
}

#[test]
fn every_step_drops_others() {
    let room = Room::new();
    let first = trained(&room, "first", "--batch-size=12 --lr=5e-3 --epochs=3 --dropout=0.5");
    // All rows in each step, from an adapter that does something, at a rate that moves nothing.
    for (checkpointing, name) in [("", "kept"), (" --gradient-checkpointing", "again")] {
        let still = format!("--batch-size=12 --no-shuffle --epochs=3 --lr=1e-12 --init-adapter={}", shown(&first));
        let losses = losses(&trained(&room, name, &format!("{still}{checkpointing}")));
        let apart = |a: usize, b: usize| (losses[a] - losses[b]).abs();
        assert!(apart(0, 1) > 1e-3 && apart(1, 2) > 1e-3 && apart(0, 2) > 1e-3, "{losses:?}");
    }
}

#[test]
fn order_of_rows() {
    let room = Room::new();
    let tokens = |out: &Path| -> Vec<u64> { metrics(out).iter().map(|m| m["tokens"].as_u64().unwrap()).collect() };
    let rows: Vec<u64> = token_rows(12).iter().map(|row| row["input_ids"].as_array().unwrap().len() as u64).collect();
    let ordered = tokens(&trained(&room, "ordered", "--batch-size=1 --epochs=2 --no-shuffle"));
    assert_eq!(ordered, [rows.clone(), rows.clone()].concat());
    let mut shuffled = tokens(&trained(&room, "shuffled", "--batch-size=1 --epochs=2"));
    assert!(shuffled[..12] != rows[..] && shuffled[..12] != shuffled[12..]);
    let mut rows = rows;
    rows.sort_unstable();
    for epoch in shuffled.chunks_mut(12) {
        epoch.sort_unstable();
        assert_eq!(epoch, rows);
    }
}

#[test]
fn an_adapter_goes_on_from_where_it_was() {
    let room = Room::new();
    let first = trained(&room, "first", "--batch-size=12 --rank=3 --lr=2e-2 --epochs=5");
    let more = format!("--init-adapter={} --batch-size=12 --lr=2e-2 --epochs=1", shown(&first));
    let second = trained(&room, "second", &more);
    let loss = eval_loss(&plain(), Some(&first), &room.path("rows.jsonl"));
    let (before, after) = (losses(&first), losses(&second));
    assert!((after[0] - loss).abs() <= 1e-5 * loss, "{} {loss}", after[0]);
    assert!(after[0] < before[0] - 0.1, "{before:?} {after:?}");
    assert_eq!(read_json(&second.join("adapter_config.json"))["r"], 3);
    assert!(difference(&first.join(ADAPTER), &second.join(ADAPTER)) > 1e-3);
}

#[test]
fn thirty_steps_learn() {
    let room = Room::new();
    for method in ["lora", "dora", "full"] {
        let out = trained(&room, method, &format!("--method={method} --batch-size=12 --lr=1e-2 --epochs=30"));
        let losses = losses(&out);
        assert_eq!(losses.len(), 30);
        // Every third of the run is better than the one before it, and the rows end well below chance.
        let thirds: Vec<f64> = losses.chunks(10).map(|part| part.iter().sum::<f64>() / 10.0).collect();
        assert!(thirds[0] > thirds[1] && thirds[1] > thirds[2], "{method}: {thirds:?}");
        assert!(losses[29] < 0.5 * losses[0], "{method}: {losses:?}");
    }
}
