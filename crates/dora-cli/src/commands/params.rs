//! `dora params`: how many parameters an adapter would train, from `config.json` alone.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use dora_adapters::config::Purpose;
use dora_adapters::count::{Counts, count};
use dora_adapters::targets::resolve;
use dora_models::model::Architecture;
use serde_json::json;

use crate::adapter_args::{AdapterArgs, Method};
use crate::console::Console;

/// Arguments of `dora params`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder that holds config.json
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    adapter: AdapterArgs,
}

pub fn run(args: Args, console: &Console) -> Result<ExitCode> {
    let architecture = Architecture::of(&args.model)?;
    let shape = architecture.read(&args.model)?.shape;
    let counts = match args.adapter.method {
        Method::Full => {
            args.adapter.check_full()?;
            Counts { trainable: shape.parameters, all: shape.parameters }
        }
        _ => {
            let config = args.adapter.config()?;
            let targets = resolve(&config, &shape, architecture.default_targets, Purpose::Begin)?;
            count(&targets, config.use_dora, &shape)
        }
    };
    let percent = 100.0 * counts.trainable as f64 / counts.all as f64;
    let object = json!({ "trainable": counts.trainable, "all": counts.all, "trainable_percent": percent });
    console.result(&counts.to_string(), &object)?;
    Ok(ExitCode::SUCCESS)
}
