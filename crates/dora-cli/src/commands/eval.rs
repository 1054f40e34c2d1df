//! `dora eval`: loss and perplexity over the labelled tokens of held-out rows.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use dora_adapters::Adapter;
use dora_models::model::LoadOptions;
use dora_train::data::{Dataset, LoadOptions as DataOptions};
use dora_train::objective::CausalLm;
use dora_train::run::{Evaluation, evaluate};
use serde_json::json;

use super::train::DataArgs;
use crate::base::{Base, Precision};
use crate::console::Console;

/// Arguments of `dora eval`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the model
    #[arg(long)]
    model: PathBuf,
    /// Folder of an adapter to put on it
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Rows to evaluate: JSONL or a JSON array
    #[arg(long, num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    rows: DataArgs,
    /// Precision of the weights in memory [default: as stored]
    #[arg(long, value_enum)]
    dtype: Option<Precision>,
}

/// Tokens that an evaluation takes at a time.
pub const BATCH_TOKENS: usize = 2048;

pub fn run(args: Args, console: &Console) -> Result<ExitCode> {
    let mut base = open(&args.model, args.dtype, console)?;
    if let Some(dir) = &args.adapter {
        Adapter::load(&mut *base.model, dir, base.architecture.default_targets)?;
    }
    let options = args.rows.options(&base)?;
    let data = load(&args.data, &base, &options, console)?;
    let Evaluation { loss, tokens, seconds } = evaluate(&objective(&base), &data, BATCH_TOKENS)?;
    let perplexity = loss.exp();
    let rows = data.rows.len();
    let text = format!("loss {loss:.4}  perplexity {perplexity:.4}  over {tokens} labelled tokens of {rows} rows");
    let object = json!({
        "loss": loss, "perplexity": perplexity, "labelled_tokens": tokens, "rows": rows,
        "dropped_long": data.report.dropped_long, "truncated": data.report.truncated,
        "dropped_unlabelled": data.report.dropped_unlabelled, "seconds": seconds, "data_sha256": data.sha256,
    });
    console.result(&text, &object)?;
    Ok(ExitCode::SUCCESS)
}

/// Loads a model to use as it is.
pub fn open(dir: &Path, dtype: Option<Precision>, console: &Console) -> Result<Base> {
    Base::load(dir, LoadOptions { dtype: dtype.map(Into::into), trained: false }, console)
}

/// What evaluates a model.
pub fn objective(base: &Base) -> CausalLm<'_> {
    CausalLm { model: &*base.model, seed: 0, recompute_blocks: false }
}

/// Loads rows, and says which were left out or cut.
pub fn load(files: &[PathBuf], base: &Base, options: &DataOptions, console: &Console) -> Result<Dataset> {
    let data = Dataset::load(files, base.tokenizer.as_ref(), options)?;
    let report = &data.report;
    for (count, what) in [
        (report.dropped_long, "left out: longer than --max-seq-len"),
        (report.truncated, "cut to --max-seq-len"),
        (report.dropped_unlabelled, "left out: no labelled token"),
    ] {
        if count > 0 {
            console.note(format!("note: {count} of {} rows {what}", report.read));
        }
    }
    Ok(data)
}
