//! `cargo xtask memory`: predicted against measured peak memory, for every method, with and without gradient checkpointing, on
//! a model of a published shape with random weights. Runs `dora train` for three steps each and fails where a prediction is off
//! by more than a tenth.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use dora_gpu_check::synth;
use serde_json::Value;

use crate::training::{build, train};

/// Arguments of `cargo xtask memory`.
#[derive(clap::Args)]
pub struct Args {
    /// Shape by name
    #[arg(long, default_value = "smollm2-135m")]
    config: String,
    /// Folder for the model and the runs; a model that is there is used
    #[arg(long)]
    dir: PathBuf,
    /// Rows of a pass
    #[arg(long, default_value_t = 4)]
    batch_size: usize,
    /// Tokens of a row
    #[arg(long, default_value_t = 256)]
    seq_len: usize,
    /// Methods to measure
    #[arg(long, value_delimiter = ',', default_value = "full,lora,dora,qlora,qdora")]
    methods: Vec<String>,
}

/// Most that a prediction may be off.
const TOLERANCE: f64 = 0.1;

/// Measures, prints a table, and fails where a prediction is off.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let model = args.dir.join(&args.config);
    if !model.join("config.json").exists() {
        synth::checkpoint(&args.config, &model, 0)?;
    }
    let rows = args.dir.join("rows.jsonl");
    synth::rows_of_shape(&args.config, 3 * args.batch_size, args.seq_len, &rows)?;
    println!("{:<8} {:<14} {:>12} {:>12} {:>8}", "method", "checkpointing", "predicted MB", "measured MB", "off");
    let dora = build(root, "dora-cli")?;
    let mut worst = 0f64;
    for method in &args.methods {
        for checkpointing in [false, true] {
            let (predicted, measured) = peaks(&dora, args, &model, &rows, method, checkpointing)?;
            let off = predicted / measured - 1.0;
            worst = worst.max(off.abs());
            let checkpointing = if checkpointing { "yes" } else { "no" };
            println!("{method:<8} {checkpointing:<14} {predicted:>12.0} {measured:>12.0} {:>+7.1}%", 100.0 * off);
        }
    }
    ensure!(worst <= TOLERANCE, "a prediction is off by {:.1} %, expected at most 10 %", 100.0 * worst);
    Ok(())
}

/// Predicted and measured peak of a run, in MB.
fn peaks(dora: &Path, args: &Args, model: &Path, rows: &Path, method: &str, checkpointing: bool) -> Result<(f64, f64)> {
    let output = args.dir.join("run");
    let mut arguments: Vec<OsString> = vec!["--max-steps=3".into(), format!("--method={method}").into()];
    arguments.push(format!("--batch-size={}", args.batch_size).into());
    for (option, path) in [("--model", model), ("--data", rows), ("--output", &output)] {
        arguments.extend([option.into(), path.into()]);
    }
    arguments.extend(checkpointing.then(|| "--gradient-checkpointing".into()));
    let record = train(dora, &arguments)?;
    let number = |value: &Value| value.as_f64().with_context(|| format!("a peak is {value}, expected a number"));
    Ok((number(&record["predicted_peak_mb"])?, number(&record["results"]["peak_rss_mb"])?))
}
