//! `dora merge`: a plain Hugging Face checkpoint with the adapter in its weights.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use dora_adapters::{MergeBase, factors};
use dora_models::checkpoint::{Checkpoint, ensure_writable_dir};
use dora_models::model::Architecture;
use dora_models::nf4;
use dora_tensor::{Device, Nf4Options};
use dora_train::row_losses::{mean_loss, row_losses};
use serde_json::{Value, json};

use super::eval::{BATCH_TOKENS, WeightArgs, load, objective, open};
use super::train::DataArgs;
use crate::base::blake3;
use crate::console::Console;
use crate::failure::Usage;
use crate::results::OtherBase;

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
    /// For an adapter trained over 4-bit weights: what to merge it into
    #[arg(long, value_enum)]
    pub merge_base: Option<Base>,
    /// Held-out rows to evaluate the merged model on
    #[arg(long, num_args = 1..)]
    pub eval_data: Vec<PathBuf>,
    #[command(flatten)]
    pub rows: DataArgs,
}

/// What an adapter that was trained over 4-bit weights is merged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Base {
    /// The values that the 4-bit weights stand for: exactly what was trained
    Dequantized,
    /// The 16-bit or 32-bit weights that were quantised: closer to the base, but not what was trained
    Original,
}

pub fn run(args: Args, device: Device, console: &Console) -> Result<ExitCode> {
    if args.eval_data.is_empty() && !args.rows.is_default() {
        return Err(Usage("--max-seq-len and --long-rows are for --eval-data, which is not given".into()).into());
    }
    let layers = merge(&args, device, console)?;
    let loss = match args.eval_data.as_slice() {
        [] => None,
        files => {
            let merged = open(&args.output, &WeightArgs::default(), device, console)?;
            let rows = load(files, &merged, &args.rows.options(&merged)?, console)?;
            Some(mean_loss(&row_losses(&objective(&merged), &rows, BATCH_TOKENS)?))
        }
    };
    let shown = loss.map(|loss| format!("; held-out loss {loss:.4}")).unwrap_or_default();
    let text = format!("{layers} layers merged into {}{shown}", args.output.display());
    console.result(&text, &json!({ "output": args.output, "merged_layers": layers, "eval_loss": loss }))?;
    Ok(ExitCode::SUCCESS)
}

/// Merges on a device, and gives the number of layers that changed.
pub fn merge(args: &Args, device: Device, console: &Console) -> Result<usize> {
    let architecture = Architecture::of(&args.model)?;
    let shape = architecture.read(&args.model)?.shape;
    let (_, layers) = factors::read(&args.adapter, &shape, architecture.default_targets)?;
    let checkpoint = Checkpoint::open(&args.model)?;
    let base = choose(args, nf4::is_stored(&checkpoint, &shape), trained_over_nf4(&args.adapter)?)?;
    ensure_writable_dir(&args.output).map_err(|e| Usage(format!("--output: {e}")))?;
    let same = |dir: &PathBuf| dir.canonicalize().ok() == args.output.canonicalize().ok();
    if same(&args.model) || same(&args.adapter) {
        let found = args.output.display();
        return Err(Usage(format!("--output {found} is also an input, expected a folder of its own")).into());
    }
    match OtherBase::of(&args.adapter, &args.model, || blake3(&args.model))? {
        Some(other) if other.over_nf4 => console.note(other.note()),
        Some(other) => return Err(other.refusal().into()),
        None => {}
    }
    dora_adapters::merge(&args.model, &shape, &layers, &args.output, base, device)?;
    Ok(layers.len())
}

/// Nobody is guessed for: an adapter over 4-bit weights fits two bases, and the user says which.
fn choose(args: &Args, in_4_bits: bool, trained: Option<Nf4Options>) -> Result<MergeBase, Usage> {
    match (args.merge_base, in_4_bits, trained) {
        (None, false, None) => Ok(MergeBase::Stored),
        (None, ..) => Err(Usage(
            "this adapter belongs to 4-bit weights, expected --merge-base dequantized (exactly what was trained) or \
             --merge-base original (the 16-bit weights)"
                .into(),
        )),
        (Some(Base::Original), true, _) => {
            let path = args.model.display();
            Err(Usage(format!("{path} is in 4 bits, expected the original model in --model for --merge-base original")))
        }
        (Some(Base::Original), false, _) => Ok(MergeBase::Stored),
        (Some(Base::Dequantized), true, trained) => Ok(MergeBase::Dequantized(trained.unwrap_or_default())),
        (Some(Base::Dequantized), false, Some(options)) => Ok(MergeBase::Dequantized(options)),
        (Some(Base::Dequantized), false, None) => {
            let path = args.adapter.join("run.json");
            let path = path.display();
            Err(Usage(format!(
                "{path} does not say that the adapter was trained over 4-bit weights, expected the 4-bit model"
            )))
        }
    }
}

/// How the base was quantised when the adapter in a folder was trained, as its `run.json` says.
pub fn trained_over_nf4(adapter: &Path) -> Result<Option<Nf4Options>> {
    let path = adapter.join("run.json");
    let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
    let record = Value::Object(dora_models::json::object(&bytes, &path)?);
    let nf4 = &record["settings"]["nf4"];
    let options = nf4["block_size"].as_u64().zip(nf4["double_quant"].as_bool());
    Ok(options.map(|(block_size, double_quant)| Nf4Options { block_size: block_size as usize, double_quant }))
}
