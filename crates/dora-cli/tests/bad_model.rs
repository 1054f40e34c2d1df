//! Model folders that are refused by every command that reads weights: exit code 2, the file and tensor named, nothing left
//! behind.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::*;

/// Trains and evaluates on a damaged model, expecting a refusal; `MODEL` in the message stands for its folder.
#[track_caller]
fn refuses(room: &Room, model: &Path, message: &str) {
    let (data, output) = (room.rows("rows.jsonl", &token_rows(2)), room.path("out"));
    let message = message.replace("MODEL", shown(model));
    refused(&train(model, &data, &output, &[]), 2, &message);
    no_result(&output);
    refused(&dora(["eval", "--model", shown(model), "--data", shown(&data)]), 2, &message);
}

/// A copy of the golden model in three shards.
fn sharded(room: &Room) -> std::path::PathBuf {
    room.copy(&golden("llama_linear_rope_sharded_bf16/model"), "model")
}

const SECOND: &str = "model-00002-of-00003.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn missing_shard() {
    let room = Room::new();
    let model = sharded(&room);
    fs::remove_file(model.join(SECOND)).unwrap();
    let message = format!("MODEL/{SECOND}: found no such file, expected the shard that {INDEX} names");
    refuses(&room, &model, &message);
}

#[test]
fn truncated_shard() {
    let room = Room::new();
    let model = sharded(&room);
    let bytes = fs::read(model.join(SECOND)).unwrap();
    fs::write(model.join(SECOND), &bytes[..bytes.len() - 1]).unwrap();
    let (found, expected) = (bytes.len() - 1, bytes.len());
    let message = format!("MODEL/{SECOND}: truncated: found {found} bytes, expected {expected} by its header");
    refuses(&room, &model, &message);
    fs::write(model.join(SECOND), &bytes[..7]).unwrap();
    refuses(&room, &model, &format!("MODEL/{SECOND}: truncated: found 7 bytes, expected at least 8"));
    fs::write(model.join(SECOND), "").unwrap();
    refuses(&room, &model, &format!("MODEL/{SECOND}: truncated: found 0 bytes, expected at least 8"));
}

#[test]
fn index_that_names_a_tensor_that_is_not_there() {
    let room = Room::new();
    let model = sharded(&room);
    edit(&model.join(INDEX), |index| index["weight_map"]["model.extra.weight"] = json!(SECOND));
    let message = format!("MODEL/{SECOND}: tensor model.extra.weight: found nothing, expected it here by {INDEX}");
    refuses(&room, &model, &message);
}

#[test]
fn index_that_leaves_the_folder() {
    for outside in ["../model.safetensors", "/etc/passwd", "..", "sub/model.safetensors"] {
        let room = Room::new();
        let model = sharded(&room);
        edit(&model.join(INDEX), |index| index["weight_map"]["model.norm.weight"] = json!(outside));
        let message = format!(
            "MODEL/{INDEX}: weight_map.model.norm.weight is \"{outside}\", expected the name of a file in this folder"
        );
        refuses(&room, &model, &message);
    }
}

#[test]
fn missing_and_misshapen_tensors() {
    let room = Room::new();
    let model = room.copy(&plain(), "model");
    edit(&model.join("config.json"), |config| config["intermediate_size"] = json!(54));
    let message = "MODEL/model.safetensors: tensor model.layers.0.mlp.gate_proj.weight: found shape [53, 42], expected \
                   [54, 42]";
    refuses(&room, &model, message);
    let model = room.copy(&plain(), "deeper");
    edit(&model.join("config.json"), |config| config["num_hidden_layers"] = json!(3));
    let message = "MODEL/model.safetensors: tensor model.layers.2.self_attn.q_proj.weight: found nothing, expected shape [60, 42]";
    refuses(&room, &model, message);
    let model = room.copy(&plain(), "shallower");
    edit(&model.join("config.json"), |config| config["num_hidden_layers"] = json!(1));
    let message = "MODEL/model.safetensors: found 9 unexpected tensors (model.layers.1.input_layernorm.weight, \
                   model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.gate_proj.weight, …), expected only those of \
                   the model";
    refuses(&room, &model, message);
}

#[test]
fn configurations() {
    let room = Room::new();
    let model = room.copy(&plain(), "model");
    let config = model.join("config.json");
    edit(&config, |config| config["model_type"] = json!("mamba"));
    refuses(&room, &model, "MODEL/config.json: model_type is \"mamba\", expected llama");
    let params = dora(["params", "--model", shown(&model)]);
    refused(&params, 2, &format!("{}: model_type is \"mamba\", expected llama", shown(&config)));
    fs::write(&config, "{\"model_type\": \"llama\",\n").unwrap();
    let ran = dora(["params", "--model", shown(&model)]);
    assert!(ran.err.starts_with(&format!("error: {}:", shown(&config))), "{}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    fs::remove_file(&config).unwrap();
    let message = "cannot read MODEL/config.json: No such file or directory (os error 2)";
    refuses(&room, &model, message);
}

#[test]
fn no_weights() {
    let room = Room::new();
    let model = room.copy(&plain(), "model");
    fs::remove_file(model.join("model.safetensors")).unwrap();
    refuses(&room, &model, &format!("MODEL: found neither, expected model.safetensors or {INDEX}"));
    room.write("model/pytorch_model.bin", "x");
    let message =
        format!("MODEL: found only pytorch_model.bin, which is not read, expected model.safetensors or {INDEX}");
    refuses(&room, &model, &message);
}

#[test]
fn damaged_tokenizer() {
    let room = Room::new();
    let model = room.copy(&plain(), "model");
    fs::write(model.join("tokenizer.json"), "{}").unwrap();
    let data = room.rows("rows.jsonl", &token_rows(2));
    let ran = train(&model, &data, &room.path("out"), &[]);
    let path = model.join("tokenizer.json");
    assert!(ran.err.starts_with(&format!("error: {}: ", shown(&path))), "{}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    no_result(&room.path("out"));
}
