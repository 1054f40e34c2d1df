//! `dora eval`: loss and perplexity over the labelled tokens of held-out rows.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use dora_adapters::Adapter;
use dora_models::model::LoadOptions;
use dora_models::nf4::WeightOptions;
use dora_train::data::{Dataset, LoadOptions as DataOptions};
use dora_train::objective::CausalLm;
use dora_train::run::{Evaluation, evaluate};
use serde_json::json;

use super::merge::trained_over_nf4;
use super::train::DataArgs;
use crate::adapter_args::Nf4Args;
use crate::base::{Base, Precision};
use crate::console::Console;
use crate::failure::Usage;

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
    #[command(flatten)]
    weights: WeightArgs,
}

/// How a model is held that is used as it is.
#[derive(Debug, Clone, clap::Args)]
pub struct WeightArgs {
    /// Precision of the weights in memory [default: as stored]
    #[arg(long, value_enum)]
    dtype: Option<Precision>,
    /// Quantise the linear layers to 4 bits (NF4) as they load
    #[arg(long)]
    nf4: bool,
    #[command(flatten)]
    options: Nf4Args,
}

impl Default for WeightArgs {
    /// As stored.
    fn default() -> Self {
        WeightArgs { dtype: None, nf4: false, options: Nf4Args { block_size: None, no_double_quant: false } }
    }
}

impl WeightArgs {
    /// As stored, but in 4 bits.
    pub fn in_4_bits() -> Self {
        WeightArgs { nf4: true, ..Default::default() }
    }

    fn load_options(&self) -> Result<LoadOptions> {
        let nf4 = self.options.options()?;
        if !self.nf4 && self.options.is_given() {
            return Err(Usage("--block-size and --no-double-quant are for --nf4, which alone quantises".into()).into());
        }
        let weights = WeightOptions { dtype: self.dtype.map(Into::into), nf4: self.nf4.then_some(nf4) };
        Ok(LoadOptions { weights, trained: false })
    }
}

/// Tokens that an evaluation takes at a time.
pub const BATCH_TOKENS: usize = 2048;

pub fn run(args: Args, console: &Console) -> Result<ExitCode> {
    let mut base = open(&args.model, &args.weights, console)?;
    if let Some(dir) = &args.adapter {
        put_on(dir, &mut base, &args.weights, console)?;
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
pub fn open(dir: &Path, weights: &WeightArgs, console: &Console) -> Result<Base> {
    let base = Base::load(dir, weights.load_options()?, console)?;
    weights.options.check(&base)?;
    Ok(base)
}

/// Puts an adapter on a model, and says where the model's weights are not those that it was trained over.
pub fn put_on(adapter: &Path, base: &mut Base, weights: &WeightArgs, console: &Console) -> Result<()> {
    Adapter::load(&mut *base.model, adapter, base.architecture.default_targets)?;
    if trained_over_nf4(adapter)?.is_some() && base.nf4.is_none() && !weights.nf4 {
        console.note("note: this adapter was trained over 4-bit weights; --nf4 puts it on these");
    }
    Ok(())
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
