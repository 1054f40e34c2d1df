//! `dora merge`: a plain Hugging Face checkpoint with the adapter in its weights.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use dora_adapters::factors;
use dora_models::checkpoint::ensure_writable_dir;
use dora_models::model::Architecture;
use serde_json::json;

use crate::console::Console;
use crate::failure::Usage;

/// Arguments of `dora merge`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the base model
    #[arg(long)]
    pub model: PathBuf,
    /// Folder of the adapter
    #[arg(long)]
    pub adapter: PathBuf,
    /// Folder to write the merged model to
    #[arg(long)]
    pub output: PathBuf,
}

pub fn run(args: Args, console: &Console) -> Result<ExitCode> {
    let layers = merge(&args)?;
    let text = format!("{layers} layers merged into {}", args.output.display());
    console.result(&text, &json!({ "output": args.output, "merged_layers": layers }))?;
    Ok(ExitCode::SUCCESS)
}

/// Merges, and gives the number of layers that changed.
pub fn merge(args: &Args) -> Result<usize> {
    let architecture = Architecture::of(&args.model)?;
    let shape = architecture.read(&args.model)?.shape;
    let (_, layers) = factors::read(&args.adapter, &shape, architecture.default_targets)?;
    ensure_writable_dir(&args.output).map_err(|e| Usage(e.to_string()))?;
    let same = |dir: &PathBuf| dir.canonicalize().ok() == args.output.canonicalize().ok();
    if same(&args.model) || same(&args.adapter) {
        let found = args.output.display();
        return Err(Usage(format!("--output {found} is also an input, expected a folder of its own")).into());
    }
    dora_adapters::merge(&args.model, &layers, &args.output)?;
    Ok(layers.len())
}
