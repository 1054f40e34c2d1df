//! `dora analyze`: an adapter's changes are those of the model that it is merged into, over 32 and over 4 bits; and refusals.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::*;

fn analyze(model: &Path, more: &[&str]) -> Ran {
    dora(["--json", "analyze", "--model", shown(model)].iter().chain(more))
}

fn layers(object: &Value) -> Vec<(String, f64, f64)> {
    let number = |value: &Value| value.as_f64().unwrap();
    let layer = |l: &Value| (l["path"].as_str().unwrap().to_owned(), number(&l["delta_m"]), number(&l["delta_d"]));
    object["layers"].as_array().unwrap().iter().map(layer).collect()
}

/// The changes by an adapter are those of all weights; layers that it is not on have none.
#[track_caller]
fn same_changes(adapter: &Value, merged: &Value, tolerance: f64) {
    let (some, all) = (layers(adapter), layers(merged));
    assert!(!some.is_empty() && all.len().is_multiple_of(7) && all.len() >= some.len());
    for (path, m, d) in &all {
        let (want_m, want_d) = some.iter().find(|l| l.0 == *path).map_or((0.0, 0.0), |l| (l.1, l.2));
        assert!((m - want_m).abs() <= tolerance * want_m, "{path}: ΔM {m}, expected {want_m}");
        assert!((d - want_d).abs() <= tolerance * want_d, "{path}: ΔD {d}, expected {want_d}");
    }
    assert!(some.iter().all(|(_, m, d)| *m > 0.0 && *d > 0.0), "{some:?}");
}

#[test]
fn an_adapter_changes_what_its_merged_model_changed() {
    let room = Room::new();
    for (case, model, what) in
        [("lora_rslora", plain(), "LoRA, rank "), ("dora_seven", golden("llama_tied_bias/model"), "DoRA, rank ")]
    {
        let (adapter, merged) = (golden(&format!("{case}/adapter")), room.path(case));
        dora(["merge", "--model", shown(&model), "--adapter", shown(&adapter), "--output", shown(&merged)]).good();
        let by_adapter = analyze(&model, &["--adapter", shown(&adapter)]).good().object();
        let by_weights = analyze(&model, &["--tuned", shown(&merged)]).good().object();
        same_changes(&by_adapter, &by_weights, 1e-4);
        assert!(by_adapter["tuned"].as_str().unwrap().starts_with(what), "{by_adapter}");
        assert_eq!((&by_weights["tuned"], &by_weights["axis"]), (&json!("full fine-tune"), &json!("output rows")));
        assert_eq!(keys(&by_adapter), ["axis", "layers", "overall", "projections", "svg", "tuned"]);
    }
}

#[test]
fn over_4_bits_the_base_is_what_was_trained_over() {
    let room = Room::new();
    let (model, data) = (plain(), room.rows("rows.jsonl", &token_rows(6)));
    let (adapter, merged, quantized) = (room.path("qdora"), room.path("merged"), room.path("nf4"));
    train(&model, &data, &adapter, &["--method=qdora", "--max-steps=4", "--lr=1e-2", "--rank=3"]).good();
    let line =
        ["merge", "--merge-base=dequantized", "--model", shown(&model), "--adapter", shown(&adapter), "--output"];
    dora(line.into_iter().chain([shown(&merged)])).good();
    dora(["quantize", "--model", shown(&model), "--output", shown(&quantized)]).good();
    let ran = analyze(&model, &["--adapter", shown(&adapter)]).good();
    assert!(ran.err.starts_with("note: this adapter was trained over 4-bit weights"), "{}", ran.err);
    // Merging rounds to f32, and the change of DoRA's norms is small.
    same_changes(&ran.object(), &analyze(&quantized, &["--tuned", shown(&merged)]).good().object(), 1e-3);
    // A folder in 4 bits says the same as weights quantised for the purpose.
    let folder = analyze(&quantized, &["--adapter", shown(&adapter)]).good().object();
    assert_eq!(layers(&folder), layers(&ran.object()));
    // Against the 16-bit weights, quantisation itself is a far larger change.
    let original = analyze(&model, &["--tuned", shown(&merged)]).good().object();
    let sum = |object: &Value| layers(object).iter().map(|layer| layer.2).sum::<f64>();
    assert!(sum(&original) > 2.0 * sum(&folder), "{} {}", sum(&original), sum(&folder));
}

#[test]
fn correlations_table_and_scatter() {
    let room = Room::new();
    let (model, adapter) = (embedded(), room.path("dora"));
    let data = room.rows("rows.jsonl", &token_rows(6));
    train(&model, &data, &adapter, &["--method=dora", "--max-steps=3", "--lr=1e-2", "--rank=2"]).good();
    let svg = room.path("new folder/scatter.svg");
    let object = analyze(&model, &["--adapter", shown(&adapter), "--svg", shown(&svg)]).good().object();
    let all = layers(&object);
    assert_eq!((all.len(), &object["overall"]["n"], &object["svg"]), (28, &json!(28), &json!(svg)));
    for group in object["projections"].as_array().unwrap() {
        let name = group["projection"].as_str().unwrap();
        let of: Vec<_> = all.iter().filter(|layer| layer.0.ends_with(name)).collect();
        assert_eq!((of.len(), &group["n"]), (4, &json!(4)));
        let mean = of.iter().map(|layer| layer.1).sum::<f64>() / 4.0;
        assert!((group["delta_m"].as_f64().unwrap() - mean).abs() < 1e-12);
        // Over four layers r is uniform where there is no correlation.
        let (r, p) = (group["r"].as_f64().unwrap(), group["p"].as_f64().unwrap());
        assert!((-1.0..=1.0).contains(&r) && (p - (1.0 - r.abs())).abs() < 1e-6, "{group}");
    }
    let text = fs::read_to_string(&svg).unwrap();
    assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
    // A point a layer, and a key for each projection.
    assert_eq!(text.matches("<circle").count(), 28 + 7);
    assert!(
        ["DoRA, rank 2", "ΔD: mean of 1 − cos", "ΔM: mean change", "gate_proj (r = "].iter().all(|w| text.contains(w))
    );
    assert!(!text.contains("NaN") && !text.contains("inf"));
    let table = dora(["analyze", "--model", shown(&model), "--adapter", shown(&adapter)]).good().out;
    assert!(
        table.starts_with("DoRA, rank 2: mean change of magnitude ΔM and direction ΔD over output rows"),
        "{table}"
    );
    assert_eq!(table.lines().filter(|line| line.starts_with("model.layers.")).count(), 28);
    assert_eq!(table.lines().filter(|line| line.contains(" layers)")).count(), 8);
}

#[test]
fn what_did_not_change_has_no_correlation() {
    let room = Room::new();
    let model = plain();
    let svg = room.path("none.svg");
    let copy = room.copy(&model, "copy");
    let object = analyze(&model, &["--tuned", shown(&copy), "--svg", shown(&svg)]).good().object();
    assert!(layers(&object).iter().all(|layer| layer.1 == 0.0 && layer.2 == 0.0));
    assert!(object["overall"]["r"].is_null() && object["projections"][0]["p"].is_null());
    let table = dora(["analyze", "--model", shown(&model), "--tuned", shown(&copy)]).good().out;
    assert!(table.contains("none (14 layers, too few or alike)"), "{table}");
    assert!(!fs::read_to_string(&svg).unwrap().contains("NaN"));
}

#[test]
fn rows_that_are_zero_have_no_direction() {
    let (model, adapter) = (golden("dora_zero_rows/model"), golden("dora_zero_rows/adapter"));
    let ran = analyze(&model, &["--adapter", shown(&adapter)]).good();
    let object = ran.object();
    let zero: u64 = object["layers"].as_array().unwrap().iter().map(|layer| layer["zero_rows"].as_u64().unwrap()).sum();
    assert!(zero > 0 && ran.err.contains("are zero and have no direction; they are left out of ΔD"), "{}", ran.err);
    assert!(layers(&object).iter().all(|layer| layer.1.is_finite() && layer.2.is_finite()));
}

#[test]
fn refusals() {
    let room = Room::new();
    let (model, adapter) = (plain(), golden("lora_rslora/adapter"));
    let of = |more: &[&str]| dora(["analyze", "--model", shown(&model)].iter().chain(more));
    assert_eq!(of(&[]).code, 2);
    assert_eq!(of(&["--adapter", shown(&adapter), "--tuned", shown(&model)]).code, 2);
    let spelled = model.join("..").join("model");
    let message = format!("--tuned {} is the base model, expected another", shown(&spelled));
    refused(&of(&["--tuned", shown(&spelled)]), 2, &message);
    let folder = room.path("");
    let message = format!("--svg {} is a folder, expected a file", shown(&folder));
    refused(&of(&["--adapter", shown(&adapter), "--svg", shown(&folder)]), 2, &message);
    // Another model's weights, weights in 4 bits, and weights that are no numbers.
    let ran = of(&["--tuned", shown(&embedded())]);
    assert!(ran.code == 2 && ran.err.contains("tensor model.layers.0.self_attn.q_proj.weight: found "), "{}", ran.err);
    let quantized = room.path("nf4");
    dora(["quantize", "--model", shown(&model), "--output", shown(&quantized)]).good();
    let ran = of(&["--tuned", shown(&quantized)]);
    assert!(
        ran.code == 2 && ran.err.ends_with("in 4 bits, expected 16-bit or 32-bit weights that were trained\n"),
        "{}",
        ran.err
    );
    let damaged = room.copy(&model, "damaged");
    let path = damaged.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let start = 8 + length + header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let message =
        format!("{}: tensor {name}: found elements that are not finite, expected finite numbers", shown(&path));
    refused(&of(&["--tuned", shown(&damaged)]), 2, &message);
    // An adapter of another base.
    let ran = dora(["analyze", "--model", shown(&embedded()), "--adapter", shown(&adapter)]);
    assert!(ran.code == 2 && ran.err.contains("adapter_model.safetensors"), "{}", ran.err);
}
