//! `cargo xtask synth-model`: a checkpoint of a published model's shape with seeded random weights in bf16, cut into shards as
//! Hugging Face does, and the demo's tokenizer, so that anyone can measure time and memory at that size.
//!
//! Matrices have mean 0 and deviation 0.02 (sums of four uniform 16-bit draws), norms are 1.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use dora_models::checkpoint::{CheckpointWriter, MAX_SHARD_BYTES, ensure_writable_dir, write_file};
use dora_models::config::LlamaConfig;
use dora_models::published;
use dora_tensor::rng::Stream;
use dora_tensor::{DType, SharedBytes, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Arguments of `cargo xtask synth-model`.
#[derive(clap::Args)]
pub struct Args {
    /// Shape by name: llama-2-7b, llama-3-8b, llama-3.2-1b, smollm2-135m, …
    #[arg(long)]
    config: String,
    /// Folder to write to
    #[arg(long)]
    output: PathBuf,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Writes the checkpoint.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let parameters = write(root, &args.config, &args.output, args.seed)?;
    println!("{parameters} parameters in {}", args.output.display());
    Ok(())
}

/// Writes a checkpoint of the shape of a name, and gives the number of its parameters.
pub fn write(root: &Path, name: &str, output: &Path, seed: u64) -> Result<usize> {
    let Some(shape) = published::find(name) else {
        let known: Vec<&str> = published::all().map(|shape| shape.name).collect();
        bail!("--config is {name:?}, expected one of {}", known.join(", "));
    };
    ensure_writable_dir(output)?;
    let text = format!("{:#}\n", shape.config_json());
    let path = output.join("config.json");
    let config = LlamaConfig::from_json(&text, &path)?;
    write_file(&path, text.as_bytes())?;
    let assets = root.join("crates/dora-cli/assets/model");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let bytes = fs::read(assets.join(name)).with_context(|| format!("reading {name} of the demo model"))?;
        write_file(&output.join(name), &bytes)?;
    }
    let tensors = tensors(&config);
    let plan = tensors.iter().map(|(name, shape)| (name.clone(), DType::BF16, shape.clone())).collect();
    let mut writer = CheckpointWriter::create(output, plan, MAX_SHARD_BYTES)?;
    for (number, (name, shape)) in (0..).zip(&tensors) {
        let bytes: SharedBytes = Arc::new(values(seed, number, shape));
        writer.write(name, &Tensor::from_shared(bytes, DType::BF16, shape)?)?;
    }
    writer.finish()?;
    Ok(config.shape().parameters)
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
