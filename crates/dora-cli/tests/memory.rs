//! Predicted against measured peak memory on a small model with random weights: 6 blocks, 256 wide, 8,000 tokens, bf16.
//! `cargo xtask memory` does the same at published shapes.

mod support;

use std::path::{Path, PathBuf};

use dora_models::checkpoint::write_safetensors;
use dora_models::config::LlamaConfig;
use dora_tensor::rng::Philox;
use dora_tensor::{DType, Tensor};
use serde_json::{Value, json};
use support::*;

/// Most that a prediction may be off.
const TOLERANCE: f64 = 0.1;

/// A model that is large enough for its activations to outweigh the program.
fn model(room: &Room) -> PathBuf {
    let config = json!({
        "model_type": "llama", "vocab_size": 8000, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
        "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "eos_token_id": 0,
    });
    let path = room.write("model/config.json", config.to_string());
    let shape = LlamaConfig::from_json(&config.to_string(), &path).unwrap().shape();
    let mut rng = Philox::new(1, 0);
    let mut tensor = |path: &str, shape: &[usize]| {
        let elements = shape.iter().product();
        let values = std::iter::repeat_with(|| 0.05 * rng.normal()).take(elements).collect();
        (format!("{path}.weight"), Tensor::from_vec(values, shape).unwrap().to_dtype(DType::BF16))
    };
    let linears = shape.linears.iter().filter(|linear| !linear.output_embedding);
    let mut tensors: Vec<_> = linears.map(|l| tensor(&l.path, &[l.out_features, l.in_features])).collect();
    for path in &shape.other_modules {
        let shape: &[usize] = if path == "model.embed_tokens" { &[8000, 256] } else { &[256] };
        tensors.push(tensor(path, shape));
    }
    let dir = path.parent().unwrap();
    write_safetensors(&dir.join("model.safetensors"), &tensors, &[]).unwrap();
    dir.to_owned()
}

fn rows(n: u64, tokens: u64) -> Vec<Value> {
    let row = |i: u64| {
        let ids: Vec<u64> = (0..tokens).map(|t| (7919 * i + 104_729 * t + t * t) % 8000).collect();
        json!({ "input_ids": ids, "labels": ids })
    };
    (0..n).map(row).collect()
}

/// The record of two steps.
fn record(room: &Room, model: &Path, data: &Path, options: &[&str]) -> Value {
    let out = room.path("out");
    let ran = train(
        model,
        data,
        &out,
        &[&["--max-steps=2", "--no-shuffle", "--batch-size=4", "--threads=2"], options].concat(),
    )
    .good();
    let record = read_json(&out.join("run.json"));
    let said = format!("predicted peak memory: {:.0} MB (weights ", record["predicted_peak_mb"].as_f64().unwrap());
    assert!(ran.err.contains(&said), "{said}: {}", ran.err);
    assert!(ran.out.contains("; peak memory ") && ran.out.contains(" MB, predicted "), "{}", ran.out);
    record
}

#[test]
fn predictions_are_near_what_is_measured() {
    let room = Room::new();
    let model = model(&room);
    let long = room.rows("long.jsonl", &rows(8, 512));
    let short = room.rows("short.jsonl", &rows(64, 64));
    for (data, options) in [
        (&long, vec!["--method=lora"]),
        (&long, vec!["--method=dora"]),
        (&long, vec!["--method=dora", "--dropout=0.1"]),
        (&long, vec!["--method=qdora"]),
        (&long, vec!["--method=qdora", "--gradient-checkpointing"]),
        (&long, vec!["--method=full"]),
        (&long, vec!["--method=full", "--batch-size=2", "--grad-accum=2"]),
        (&short, vec!["--method=qlora", "--packing", "--max-seq-len=512"]),
    ] {
        let record = record(&room, &model, data, &options);
        let terms: f64 = record["predicted_terms_mb"].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum();
        let predicted = record["predicted_peak_mb"].as_f64().unwrap();
        assert!((terms - predicted).abs() < 1e-3, "{terms} {predicted}");
        // Where the system tells.
        if let Some(measured) = record["results"]["peak_rss_mb"].as_f64() {
            let off = predicted / measured - 1.0;
            println!("{options:?}: predicted {predicted:.0} MB, measured {measured:.0} MB, {:+.1} %", 100.0 * off);
            assert!(off.abs() <= TOLERANCE, "{options:?}: predicted {predicted:.0} MB, measured {measured:.0} MB");
        }
    }
}
