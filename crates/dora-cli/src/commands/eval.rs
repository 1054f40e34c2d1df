//! `dora eval`: loss and perplexity over the labelled tokens of held-out rows or, with `--task answers`, the share of
//! multiple-choice questions that a model answers right; with `--output`, item by item for `dora compare`.

pub mod answers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use dora_adapters::Adapter;
use dora_models::model::LoadOptions;
use dora_models::nf4::WeightOptions;
use dora_tensor::Device;
use dora_train::data::{Dataset, LoadOptions as DataOptions, Row};
use dora_train::metrics::peak_rss_mb;
use dora_train::objective::CausalLm;
use dora_train::row_losses::{RowLoss, mean_loss, row_losses};
use serde_json::{Map, Value, json};

use super::merge::trained_over_nf4;
use super::train::DataArgs;
use crate::adapter_args::Nf4Args;
use crate::base::{Base, Precision};
use crate::console::Console;
use crate::failure::Usage;
use crate::output::check_file;
use crate::results::{self, OtherBase, RowLine};

/// Arguments of `dora eval`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the model
    #[arg(long)]
    pub model: PathBuf,
    /// Folder of an adapter to put on it
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// Rows to evaluate: JSONL or a JSON array
    #[arg(long, num_args = 1.., required = true)]
    pub data: Vec<PathBuf>,
    /// What to measure instead of the loss
    #[arg(long, value_enum)]
    pub task: Option<Task>,
    /// How a question is answered [default: likelihood]
    #[arg(long, value_enum, requires = "task")]
    pub by: Option<By>,
    /// File for the result of each item, a line of JSON each, with a summary beside it, for `dora compare`
    #[arg(long)]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub rows: DataArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
}

/// What is measured on rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// The share of multiple-choice questions (LLM-Adapters' form) that are answered right
    Answers,
}

/// How a model answers a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The likeliest of the answers
    Likelihood,
    /// The first answer in up to 32 tokens that it generates, greedily (the DoRA paper's rule, with a beam of 4)
    Generation,
}

/// How a model is held that is used as it is.
#[derive(Debug, Clone, clap::Args)]
pub struct WeightArgs {
    /// Precision of the weights in memory [default: as stored, bf16 on a device]
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

    fn load_options(&self, device: Device) -> Result<LoadOptions> {
        let nf4 = self.options.options()?;
        if !self.nf4 && self.options.is_given() {
            return Err(Usage("--block-size and --no-double-quant are for --nf4, which alone quantises".into()).into());
        }
        let weights = WeightOptions { dtype: self.dtype.map(Into::into), nf4: self.nf4.then_some(nf4) };
        Ok(LoadOptions { weights, trained: false, device })
    }
}

/// Tokens that an evaluation takes at a time.
pub const BATCH_TOKENS: usize = 2048;

pub fn run(args: Args, device: Device, console: &Console) -> Result<ExitCode> {
    args.check()?;
    let mut base = open(&args.model, &args.weights, device, console)?;
    if let Some(dir) = &args.adapter {
        put_on(dir, &mut base, &args.weights, console)?;
        note_other_base(dir, &base, console)?;
    }
    let outcome = evaluate(&args, &base, console)?;
    console.result(&outcome.text, &outcome.object.into())?;
    Ok(ExitCode::SUCCESS)
}

/// Evaluates a model that is loaded, with its adapter on it, and writes the results where that is asked for.
pub fn evaluate(args: &Args, base: &Base, console: &Console) -> Result<Outcome> {
    let identity = match args.output {
        Some(_) => Some(results::identity(args.adapter.as_deref(), base)?),
        None => None,
    };
    let mut outcome = match args.task {
        None => rows(args, base, console)?,
        Some(Task::Answers) => answers::score(args, base, console)?,
    };
    if let (Some(path), Some(identity)) = (&args.output, identity) {
        let object = &mut outcome.object;
        object.extend(identity);
        object.insert("peak_rss_mb".into(), json!(peak_rss_mb()));
        object.insert("output".into(), json!(path));
        results::write(path, &outcome.lines, object)?;
    }
    Ok(outcome)
}

/// What came of an evaluation: in words, in figures, and item by item as lines of JSON.
pub struct Outcome {
    /// In words.
    pub text: String,
    /// In figures.
    pub object: Map<String, Value>,
    lines: Vec<String>,
}

impl Args {
    /// Refuses what can be told before anything loads.
    fn check(&self) -> Result<()> {
        let Some(output) = &self.output else { return Ok(()) };
        let read: Vec<PathBuf> = self.data.iter().chain([&self.model]).chain(&self.adapter).cloned().collect();
        for file in [output, &results::summary_path(output)] {
            check_file("--output", file, &read)?;
        }
        Ok(())
    }
}

/// Loss and perplexity of rows.
fn rows(args: &Args, base: &Base, console: &Console) -> Result<Outcome> {
    let data = load(&args.data, base, &args.rows.options(base)?, console)?;
    let start = Instant::now();
    let losses = row_losses(&objective(base), &data, BATCH_TOKENS)?;
    let tokens: usize = losses.iter().map(|row| row.tokens).sum();
    let loss = mean_loss(&losses);
    let (perplexity, rows) = (loss.exp(), losses.len());
    let object = json!({
        "loss": loss, "perplexity": perplexity, "labelled_tokens": tokens, "rows": rows,
        "dropped_long": data.report.dropped_long, "truncated": data.report.truncated,
        "dropped_unlabelled": data.report.dropped_unlabelled, "seconds": start.elapsed().as_secs_f64(),
        "data_sha256": data.sha256,
    });
    let line = |(index, (row, loss)): (usize, (&Row, &RowLoss))| {
        let line = RowLine { index, item: row.hash(), loss: loss.mean(), tokens: loss.tokens };
        serde_json::to_string(&line)
    };
    Ok(Outcome {
        text: format!("loss {loss:.4}  perplexity {perplexity:.4}  over {tokens} labelled tokens of {rows} rows"),
        object: results::into_map(object),
        lines: data.rows.iter().zip(&losses).enumerate().map(line).collect::<Result<_, _>>()?,
    })
}

/// Loads a model to use as it is.
pub fn open(dir: &Path, weights: &WeightArgs, device: Device, console: &Console) -> Result<Base> {
    let base = Base::load(dir, weights.load_options(device)?, console)?;
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

/// Says where an adapter was trained on another base; that reads all of the base.
pub fn note_other_base(adapter: &Path, base: &Base, console: &Console) -> Result<()> {
    let other = OtherBase::of(adapter, &base.dir, || Ok(base.blake3()?.to_owned()))?;
    other.iter().for_each(|other| console.note(other.note()));
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
