//! Training over 4-bit weights: as they load or from a folder that holds them, and what its adapter merges into.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use dora_models::checkpoint::{Checkpoint, CheckpointWriter, FileType, MAX_SHARD_BYTES, write_safetensors};
use dora_models::nf4;
use dora_tensor::{DType, Tensor};
use serde_json::{Value, json};
use support::sweep::Case;
use support::*;

const ADAPTER: &str = "adapter_model.safetensors";
const OTHER: [&str; 2] = ["--block-size=128", "--no-double-quant"];

/// The first rows of the embedded model's training and held-out texts.
fn texts(room: &Room) -> (PathBuf, PathBuf) {
    let assets = embedded().parent().unwrap().to_owned();
    let first = |name: &str, n: usize| -> String {
        fs::read_to_string(assets.join(name)).unwrap().lines().take(n).map(|line| format!("{line}\n")).collect()
    };
    let (data, held_out) = (first("persona-train.jsonl", 8), first("persona-heldout.jsonl", 6));
    (room.write("rows.jsonl", data), room.write("held-out.jsonl", held_out))
}

/// A model in 4 bits, in a folder of its own.
fn quantized(room: &Room, model: &Path, name: &str, options: &[&str]) -> PathBuf {
    let out = room.path(name);
    dora(["quantize", "--model", shown(model), "--output", shown(&out)].iter().chain(options)).good();
    out
}

/// The loss of `dora eval` with more options.
fn loss(model: &Path, data: &Path, more: &[&str]) -> f64 {
    let line = ["eval", "--json", "--model", shown(model), "--data", shown(data)];
    dora(line.iter().chain(more)).good().object()["loss"].as_f64().unwrap()
}

/// The loss of a model with an adapter merged in, and its folder.
fn merged(room: &Room, model: &Path, adapter: &Path, base: &str, data: &Path) -> (f64, PathBuf) {
    let out = room.path(&format!("merged-{base}"));
    let line = ["merge", "--json", "--model", shown(model), "--adapter", shown(adapter), "--output", shown(&out)];
    let ran = dora(line.iter().chain(&["--merge-base", base, "--eval-data", shown(data)])).good().object();
    let found = eval_loss(&out, None, data);
    assert_eq!(ran["eval_loss"], found);
    (found, out)
}

#[track_caller]
fn close(found: f64, expected: f64, within: f64) {
    assert!((found - expected).abs() <= within * expected, "{found} {expected}");
}

fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap()
}

#[test]
fn a_fresh_adapter_changes_nothing_and_a_trained_one_learns() {
    let room = Room::new();
    let ((data, held_out), model) = (texts(&room), embedded());
    for method in ["qlora", "qdora"] {
        let out = room.path(method);
        let options = ["--method", method, "--lr=1e-2", "--max-steps=8", "--eval-data", shown(&held_out)];
        train(&model, &data, &out, &options).good();
        let losses = losses(&out);
        close(losses[0], loss(&model, &data, &["--nf4"]), 1e-5);
        assert!(losses[7] < losses[0] - 0.3, "{losses:?}");
        let results = read_json(&out.join("run.json"))["results"].clone();
        let [before, after] = ["eval_loss_before", "eval_loss_after"].map(|key| results[key].as_f64().unwrap());
        close(before, loss(&model, &held_out, &["--nf4"]), 1e-6);
        close(after, loss(&model, &held_out, &["--nf4", "--adapter", shown(&out)]), 1e-6);
        // Over the 16-bit weights both are other figures.
        assert!((before - eval_loss(&model, None, &held_out)).abs() > 1e-4 * before);
        assert!((after - eval_loss(&model, Some(&out), &held_out)).abs() > 1e-4 * after);
    }
}

#[test]
fn a_folder_in_4_bits_is_the_dense_one_quantised_as_it_loads() {
    let room = Room::new();
    let ((texts, _), ids) = (texts(&room), room.rows("ids.jsonl", &token_rows(8)));
    for (i, (model, data)) in [(embedded(), &texts), (plain(), &ids)].into_iter().enumerate() {
        for (j, options) in [&[][..], &OTHER].into_iter().enumerate() {
            let name = |what: &str| format!("{what}-{i}-{j}");
            let folder = quantized(&room, &model, &name("folder"), options);
            let [from_dense, from_folder] = ["dense", "stored"].map(|what| room.path(&name(what)));
            let line: Vec<&str> =
                ["--method=qdora", "--lr=5e-3", "--batch-size=4"].iter().chain(options).copied().collect();
            train(&model, data, &from_dense, &line).good();
            train(&folder, data, &from_folder, &line).good();
            assert_eq!(losses(&from_dense), losses(&from_folder));
            assert_eq!(losses(&from_dense).len(), 6);
            assert!(bytes(&from_dense, ADAPTER) == bytes(&from_folder, ADAPTER));
            let nf4: Vec<&str> = ["--nf4"].iter().chain(options).copied().collect();
            assert_eq!(loss(&folder, data, &[]), loss(&model, data, &nf4));
        }
    }
}

#[test]
fn a_folder_in_4_bits_evaluates_and_generates() {
    let room = Room::new();
    let (model, prompt) = (embedded(), "User: Please add this at 4:30: make dinner.\nAssistant:");
    let folder = quantized(&room, &model, "folder", &[]);
    let generate = |model: &Path, more: &[&str]| {
        let line = ["generate", "--model", shown(model), "--prompt", prompt, "--max-new-tokens=24"];
        dora(line.iter().chain(more)).good().out
    };
    let text = generate(&folder, &[]);
    assert!(text.trim().len() > 8, "{text:?}");
    assert_eq!(text, generate(&model, &["--nf4"]));
    let data = texts(&room).0;
    let (dense, stored) = (eval_loss(&model, None, &data), eval_loss(&folder, None, &data));
    assert!(dense != stored && (dense - stored).abs() < 0.1 * dense, "{dense} {stored}");
    // Half a byte instead of two for linear layers, which are most of the model.
    let size = |dir: &Path| fs::metadata(dir.join("model.safetensors")).unwrap().len() as f64;
    assert!(size(&folder) < 0.55 * size(&model), "{} {}", size(&folder), size(&model));
}

#[test]
fn merging_into_what_was_trained_and_into_the_original() {
    for (model, within) in [(embedded(), 2e-2), (plain(), 1e-4)] {
        let room = Room::new();
        let data = if within > 1e-3 { texts(&room).0 } else { room.rows("ids.jsonl", &token_rows(8)) };
        let (out, folder) = (room.path("out"), quantized(&room, &model, "folder", &[]));
        train(&model, &data, &out, &["--method=qdora", "--lr=1e-2", "--max-steps=6"]).good();
        let trained = loss(&model, &data, &["--nf4", "--adapter", shown(&out)]);
        let (exact, dequantized) = merged(&room, &model, &out, "dequantized", &data);
        close(exact, trained, within);
        let (other, original) = merged(&room, &model, &out, "original", &data);
        close(other, eval_loss(&model, Some(&out), &data), within);
        assert!((other - exact).abs() > 1e-4 * exact, "{other} {exact}");
        assert!((exact - loss(&model, &data, &["--nf4"])).abs() > 0.05 * exact, "{exact}");
        // The folder in 4 bits stands for the same weights.
        let again = room.path("again");
        let line = ["merge", "--model", shown(&folder), "--adapter", shown(&out), "--output", shown(&again)];
        dora(line.iter().chain(&["--merge-base=dequantized"])).good();
        assert!(bytes(&again, "model.safetensors") == bytes(&dequantized, "model.safetensors"));
        let names = |dir: &Path| -> Vec<String> {
            let file = dora_models::checkpoint::read_safetensors(&dir.join("model.safetensors")).unwrap();
            file.names().map(str::to_owned).collect()
        };
        assert!(read_json(&folder.join("config.json"))["quantization_config"].is_object());
        assert!(names(&folder).iter().any(|name| name.contains("quant_state")));
        for plain in [&dequantized, &original, &again] {
            assert_eq!(read_json(&plain.join("config.json")), read_json(&model.join("config.json")));
            assert_eq!(names(plain), names(&model));
        }
    }
}

#[test]
fn settings_of_4_bits_are_felt_and_recorded() {
    let room = Room::new();
    let (data, model) = (room.rows("rows.jsonl", &token_rows(8)), plain());
    let mut found = Vec::new();
    for (i, (options, record)) in [
        (&[][..], json!({ "block_size": 64, "double_quant": true })),
        (&OTHER[1..], json!({ "block_size": 64, "double_quant": false })),
        (&OTHER[..1], json!({ "block_size": 128, "double_quant": true })),
        (&OTHER, json!({ "block_size": 128, "double_quant": false })),
    ]
    .into_iter()
    .enumerate()
    {
        let out = room.path(&i.to_string());
        train(&model, &data, &out, &[&["--method=qlora", "--max-steps=2"], options].concat()).good();
        assert_eq!(read_json(&out.join("run.json"))["settings"]["nf4"], record);
        found.push(losses(&out)[0]);
        assert!(found[..i].iter().all(|other| *other != found[i]), "{found:?}");
    }
}

#[test]
fn the_record_says_how_a_folder_in_4_bits_is_quantised() {
    let room = Room::new();
    let (data, model) = (room.rows("rows.jsonl", &token_rows(8)), plain());
    let folder = quantized(&room, &model, "folder", &OTHER);
    for method in ["qdora", "qlora"] {
        let out = room.path(method);
        train(&folder, &data, &out, &["--method", method, "--lr=1e-2", "--max-steps=6"]).good();
        let expected: Value = json!({ "block_size": 128, "double_quant": false });
        assert_eq!(read_json(&out.join("run.json"))["settings"]["nf4"], expected, "{method}");
        // So that merging into the dense weights, quantised again, is merging into what was trained.
        let (exact, _) = merged(&room, &model, &out, "dequantized", &data);
        close(exact, eval_loss(&folder, Some(&out), &data), 1e-5);
    }
}

#[test]
fn a_folder_in_4_bits_is_not_quantised_otherwise() {
    let room = Room::new();
    let (data, out) = (room.rows("rows.jsonl", &token_rows(2)), room.path("out"));
    let folder = quantized(&room, &plain(), "folder", &[]);
    for option in OTHER {
        let message = format!(
            "{} is in 4 bits of --block-size 64 with double quantisation, expected no other setting",
            shown(&folder)
        );
        refused(&train(&folder, &data, &out, &["--method=qdora", option]), 2, &message);
        no_result(&out);
        let line = ["eval", "--model", shown(&folder), "--data", shown(&data), "--nf4", option];
        refused(&dora(line), 2, &message);
    }
}

#[test]
fn methods_over_16_bits_need_16_bits() {
    let room = Room::new();
    let (data, out) = (room.rows("rows.jsonl", &token_rows(4)), room.path("out"));
    let folder = quantized(&room, &plain(), "folder", &[]);
    let message = |method: &str| {
        format!("{} holds 4-bit weights, expected --method qlora or qdora, not {method}", shown(&folder))
    };
    for method in ["lora", "dora", "full"] {
        let ran = train(&folder, &data, &out, &["--method", method]);
        assert_eq!(ran.code, 2);
        if method != "full" {
            refused(&ran, 2, &message(method));
        }
        no_result(&out);
    }
    let case = Case { model: folder.clone(), ..Case::of_rows() };
    let ran = case.sweep(&["--methods=qlora,dora", "--ranks=2", "--max-steps=1"]);
    refused(&ran, 2, &message("dora"));
    assert!(!case.out("runs").exists());
    case.sweep(&["--methods=qlora,qdora", "--ranks=2", "--max-steps=1"]).good();
}

/// A folder in 4 bits with layer `dense` as another folder holds it, in bf16.
fn with_dense(room: &Room, folder: &Path, other: &Path, dense: &str, name: &str) -> PathBuf {
    let (checkpoint, original) = (Checkpoint::open(folder).unwrap(), Checkpoint::open(other).unwrap());
    let parts = nf4::names(&checkpoint, dense);
    assert_eq!(parts.len(), 6, "{parts:?}");
    let tensor = original.tensor(dense).unwrap().to_dtype(DType::BF16);
    let kept: Vec<&str> = checkpoint.names().filter(|name| !parts.iter().any(|part| part == name)).collect();
    let plan = kept.iter().map(|name| {
        let raw = checkpoint.raw(name).unwrap();
        let dtype = match raw.dtype.as_str() {
            "U8" => FileType::U8,
            _ => checkpoint.tensor(name).unwrap().dtype().into(),
        };
        ((*name).to_owned(), dtype, raw.shape.to_vec())
    });
    let plan: Vec<_> = plan.chain([(dense.to_owned(), DType::BF16.into(), tensor.shape().to_vec())]).collect();
    let out = room.copy(folder, name);
    fs::remove_file(out.join("model.safetensors")).unwrap();
    let mut writer = CheckpointWriter::create(&out, plan.clone(), MAX_SHARD_BYTES).unwrap();
    for (name, dtype, shape) in plan.iter().filter(|planned| planned.0 != dense) {
        writer.write_bytes(name, *dtype, shape, checkpoint.raw(name).unwrap().bytes).unwrap();
    }
    writer.write(dense, &tensor).unwrap();
    writer.finish().unwrap();
    out
}

/// Lists a layer in `llm_int8_skip_modules`.
fn skip(folder: &Path, layer: &str) {
    let path = folder.join("config.json");
    let mut config = read_json(&path);
    config["quantization_config"]["llm_int8_skip_modules"] = json!([layer]);
    fs::write(path, config.to_string()).unwrap();
}

/// The dense model that a folder in 4 bits stands for, in f32.
fn dequantized(room: &Room, folder: &Path, model: &Path, name: &str) -> PathBuf {
    let (checkpoint, original) = (Checkpoint::open(folder).unwrap(), Checkpoint::open(model).unwrap());
    let tensor = |name: &str| -> Tensor {
        match (nf4::is_quantized(&checkpoint, name), original.raw(name).unwrap().shape) {
            (true, &[out, inner]) => {
                let weight = nf4::read(&checkpoint, name, (out, inner)).unwrap().0;
                dora_tensor::Weight::dense(&weight).unwrap()
            }
            _ => checkpoint.tensor(name).unwrap().to_dtype(DType::F32),
        }
    };
    let tensors: Vec<(String, Tensor)> = original.names().map(|name| (name.to_owned(), tensor(name))).collect();
    let out = room.copy(model, name);
    write_safetensors(&out.join("model.safetensors"), &tensors, &[("format", "pt")]).unwrap();
    out
}

/// `llm_int8_skip_modules`: what is dense in a folder in 4 bits stays dense, as its tensors say, whatever the list says.
#[test]
fn a_layer_that_is_dense_in_a_folder_in_4_bits_stays_dense() {
    let room = Room::new();
    let (model, data, out) = (plain(), room.rows("rows.jsonl", &token_rows(8)), room.path("out"));
    let (layer, name) = ("model.layers.1.mlp.down_proj", "model.layers.1.mlp.down_proj.weight");
    let whole = quantized(&room, &model, "whole", &[]);
    let mixed = with_dense(&room, &whole, &model, name, "mixed");
    let unlisted = room.copy(&mixed, "unlisted");
    skip(&mixed, layer);
    let expected = loss(&dequantized(&room, &mixed, &model, "reference"), &data, &[]);
    close(loss(&mixed, &data, &[]), expected, 1e-6);
    // It is the one layer's doing, and neither the list nor --nf4 has a say.
    let in_4_bits = loss(&whole, &data, &[]);
    close(in_4_bits, loss(&dequantized(&room, &whole, &model, "whole-reference"), &data, &[]), 1e-6);
    assert!((in_4_bits - expected).abs() > 1e-5 * expected, "{in_4_bits} {expected}");
    assert_eq!(loss(&unlisted, &data, &[]), loss(&mixed, &data, &[]));
    assert_eq!(loss(&mixed, &data, &["--nf4"]), loss(&mixed, &data, &[]));
    skip(&whole, layer);
    assert_eq!(loss(&whole, &data, &[]), in_4_bits);
    // Training begins from it, and merges into it.
    for method in ["qlora", "qdora"] {
        train(&mixed, &data, &out, &["--method", method, "--lr=1e-2", "--max-steps=3"]).good();
        close(losses(&out)[0], expected, 1e-5);
        let (merged, _) = merged(&room, &mixed, &out, "dequantized", &data);
        close(merged, eval_loss(&mixed, Some(&out), &data), 1e-3);
    }
}
