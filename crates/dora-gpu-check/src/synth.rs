//! A checkpoint of a published model's shape with seeded random weights in bf16, cut into shards as Hugging Face does, and the demo's
//! tokenizer, so that anyone can measure time and memory at that size; and rows of random tokens to train on.
//!
//! Matrices have mean 0 and deviation 0.02 (sums of four uniform 16-bit draws), norms are 1.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use dora_models::checkpoint::{CheckpointWriter, MAX_SHARD_BYTES, ensure_writable_dir, write_file};
use dora_models::config::LlamaConfig;
use dora_models::published;
use dora_tensor::rng::{Philox, Stream};
use dora_tensor::{DType, SharedBytes, Tensor};
use rayon::prelude::*;
use serde_json::json;

/// Files of the demo's tokenizer.
const TOKENIZER: [(&str, &[u8]); 2] = [
    ("tokenizer.json", include_bytes!("../../dora-cli/assets/model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../dora-cli/assets/model/tokenizer_config.json")),
];

/// Writes a checkpoint of the shape of a name, and gives the number of its parameters.
pub fn checkpoint(name: &str, output: &Path, seed: u64) -> Result<usize> {
    let Some(shape) = published::find(name) else {
        let known: Vec<&str> = published::all().map(|shape| shape.name).collect();
        bail!("shape {name:?} is not known, expected one of {}", known.join(", "));
    };
    ensure_writable_dir(output)?;
    let text = format!("{:#}\n", shape.config_json());
    let path = output.join("config.json");
    let config = LlamaConfig::from_json(&text, &path)?;
    for (name, bytes) in TOKENIZER {
        write_file(&output.join(name), bytes)?;
    }
    let tensors = tensors(&config);
    let plan = tensors.iter().map(|(name, shape)| (name.clone(), DType::BF16, shape.clone())).collect();
    let mut writer = CheckpointWriter::create(output, plan, MAX_SHARD_BYTES)?;
    for (number, (name, shape)) in (0..).zip(&tensors) {
        let bytes: SharedBytes = Arc::new(values(seed, number, shape));
        writer.write(name, &Tensor::from_shared(bytes, DType::BF16, shape)?)?;
    }
    writer.finish()?;
    // Last: a folder that has it is complete.
    write_file(&path, text.as_bytes())?;
    Ok(config.shape().parameters)
}

/// Writes rows of random ids of a published shape's vocabulary.
pub fn rows_of_shape(name: &str, count: usize, tokens: usize, path: &Path) -> Result<()> {
    let shape = published::find(name).with_context(|| format!("no shape is called {name:?}"))?;
    let vocabulary = shape.description().shape.linears.last().map_or(0, |head| head.out_features);
    std::fs::write(path, rows(count, tokens, vocabulary).join("\n"))
        .with_context(|| format!("writing {}", path.display()))
}

/// Rows of random ids below `vocabulary`, all labelled, a line each.
pub fn rows(rows: usize, tokens: usize, vocabulary: usize) -> Vec<String> {
    let mut rng = Philox::new(0, 0);
    let mut row = || {
        let ids: Vec<u64> = (0..tokens).map(|_| rng.below(vocabulary as u64)).collect();
        json!({ "input_ids": ids, "labels": ids }).to_string()
    };
    (0..rows).map(|_| row()).collect()
}

/// Names and shapes in the order of execution.
fn tensors(config: &LlamaConfig) -> Vec<(String, Vec<usize>)> {
    let shape = config.shape();
    let stored = |name: &str| !config.tie_word_embeddings || name != "lm_head";
    let linears = shape.linears.iter().filter(|linear| stored(&linear.path));
    let matrices = linears.map(|l| (format!("{}.weight", l.path), vec![l.out_features, l.in_features]));
    let others = shape.other_modules.iter().map(|path| match path.as_str() {
        "model.embed_tokens" => (format!("{path}.weight"), vec![config.vocab_size, config.hidden_size]),
        _ => (format!("{path}.weight"), vec![config.hidden_size]),
    });
    let mut tensors: Vec<_> = others.chain(matrices).collect();
    tensors.sort();
    tensors
}

/// Elements as bf16 bytes.
fn values(seed: u64, number: u32, shape: &[usize]) -> Vec<u8> {
    const ONE: [u8; 2] = [0x80, 0x3f];
    let count = shape.iter().product::<usize>();
    if shape.len() == 1 {
        return ONE.repeat(count);
    }
    let stream = Stream { seed, step: 0, op: number };
    let mut bytes = vec![0; 2 * count];
    // A block of four random words makes two elements.
    bytes.par_chunks_mut(4 << 12).enumerate().for_each(|(part, bytes)| {
        for (i, pair) in bytes.chunks_mut(4).enumerate() {
            let words = stream.block(((part << 12) + i) as u32);
            for (element, halves) in pair.chunks_mut(2).zip(words.chunks(2)) {
                let sum: u32 = halves.iter().map(|w| (w & 0xffff) + (w >> 16)).sum();
                // Four uniform draws of 0..65536: mean 131070, deviation 37837.
                let value = (sum as f32 - 131_070.0) * (0.02 / 37_837.0);
                element.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
            }
        }
    });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_mean_and_the_deviation() {
        let bytes = values(1, 2, &[301, 97]);
        let wide: Vec<f64> = bytes.chunks(2).map(|b| f64::from(half::bf16::from_le_bytes([b[0], b[1]]))).collect();
        let mean = wide.iter().sum::<f64>() / wide.len() as f64;
        let deviation = (wide.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / wide.len() as f64).sqrt();
        assert!(mean.abs() < 5e-4 && (deviation - 0.02).abs() < 5e-4, "{mean} {deviation}");
        assert_ne!(bytes, values(2, 2, &[301, 97]));
    }

    #[test]
    fn every_parameter_is_written_once() {
        for shape in published::all() {
            let text = shape.config_json().to_string();
            let config = LlamaConfig::from_json(&text, Path::new("config.json")).unwrap();
            let stored: usize = tensors(&config).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
            assert_eq!(stored, config.shape().parameters, "{}", shape.name);
        }
    }
}
