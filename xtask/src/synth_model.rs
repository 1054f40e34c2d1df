//! `cargo xtask synth-model`: a checkpoint of a published model's shape with random weights, to measure with.

use std::path::PathBuf;

use anyhow::Result;
use dora_gpu_check::synth;

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
pub fn run(args: &Args) -> Result<()> {
    let parameters = synth::checkpoint(&args.config, &args.output, args.seed)?;
    println!("{parameters} parameters in {}", args.output.display());
    Ok(())
}
