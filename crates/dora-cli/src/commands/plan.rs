//! `dora plan`: what each method would cost on a machine and give, from `config.json` or a built-in shape alone; a
//! recommendation with its reasons; and a run file for `dora train --config`.

mod choice;
mod quality;
mod setup;
mod table;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::ValueEnum;
use dora_models::checkpoint::{Checkpoint, write_file};
use dora_models::model::{Architecture, Description};
use dora_models::{nf4, published};
use dora_tensor::{DType, Nf4Options};
use serde_json::{Map, Value, json};

use super::train::{self, name};
use crate::base::Precision;
use crate::console::Console;
use crate::failure::Usage;
use crate::output::check_file;
use crate::prediction::{mb, terms_mb};
use choice::{Choice, Priority, choose};
use setup::{Request, Setup};

/// Arguments of `dora plan`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder that holds config.json, or a built-in shape: llama-2-7b, llama-3-8b, llama-3.2-1b, smollm2-135m, …
    #[arg(long)]
    model: PathBuf,
    /// Memory that a run may take, such as 12GiB or 16GB [default: any amount]
    #[arg(long)]
    memory: Option<String>,
    /// Tokens of a row [default: 1024, or the model's context if that is less]
    #[arg(long)]
    seq_len: Option<usize>,
    /// Rows of a step; they may go in several passes
    #[arg(long, default_value = "8")]
    batch_size: NonZeroUsize,
    /// Rank of adapters
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Precision of the frozen weights in memory [default: as stored]
    #[arg(long, value_enum)]
    dtype: Option<Precision>,
    /// What matters most
    #[arg(long, value_enum, default_value_t = Priority::Quality)]
    priority: Priority,
    /// What will be served
    #[arg(long, value_enum, default_value_t = Deploy::Merged)]
    deploy: Deploy,
    /// File to write the run file to [default: it is printed]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// What is served in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deploy {
    /// A model with the adapter merged in
    Merged,
    /// The adapter beside its base
    Adapter,
}

pub fn run(args: Args, console: &Console) -> Result<ExitCode> {
    let memory = args.memory.as_deref().map(size).transpose()?;
    if let Some(path) = &args.output {
        check_file("--output", path, std::slice::from_ref(&args.model))?;
        check_replaced(path)?;
    }
    let Found { name: shape, description, dtype, nf4 } = find(&args.model)?;
    let context = description.context;
    let seq_len = args.seq_len.unwrap_or(context.min(1024));
    if !(2..=context).contains(&seq_len) {
        let text = format!("--seq-len is {seq_len}, expected 2 to the model's context of {context}");
        return Err(Usage(text).into());
    }
    let request = Request {
        model: description,
        dtype: args.dtype.map_or(dtype, DType::from),
        stored_nf4: nf4,
        memory,
        seq_len,
        batch_size: args.batch_size,
        rank: args.rank,
        smallest: args.priority == Priority::Memory,
        threads: rayon::current_num_threads(),
    };
    let setups: Vec<Setup> =
        request.methods().iter().map(|&method| request.setup(method, seq_len)).collect::<Result<_>>()?;
    let Choice { setup, reasons } = choose(&request, args.priority, &setups)?;
    let notes = setup.as_ref().map(|setup| notes(args.deploy, setup, &request)).unwrap_or_default();
    let run_file = setup.as_ref().map(|setup| run_file(&args, setup));
    let parameters = request.model.shape.parameters;
    let methods: Vec<Value> = setups.iter().map(|setup| json_of(setup, parameters, args.rank)).collect();
    let object = json!({
        "model": shape, "parameters": parameters, "memory_mb": memory.map(mb), "seq_len": seq_len,
        "batch_size": args.batch_size, "rank": args.rank, "priority": name(args.priority), "deploy": name(args.deploy),
        "threads": request.threads, "methods": methods, "recommended": setup.as_ref().map(|setup| name(setup.method)),
        "reasons": reasons, "notes": notes, "run_file": run_file,
    });
    let recommended = setup.as_ref().map_or("nothing fits".into(), |setup| match setup.seq_len {
        tokens if tokens < seq_len => format!("{}, with rows of at most {tokens} tokens", setup.method.title()),
        _ => setup.method.title().to_owned(),
    });
    let mut text = format!("{}\n\nrecommended: {recommended}\n", table::text(&request, &shape, &setups));
    reasons.iter().chain(&notes).for_each(|sentence| text.push_str(&format!("  {sentence}\n")));
    match (&run_file, &args.output) {
        (Some(settings), None) => {
            let settings = Value::Object(settings.clone());
            text.push_str(&format!("\nrun file for dora train --config FILE ({PATHS}):\n{settings:#}"));
        }
        (Some(settings), Some(path)) => {
            write_file(path, format!("{:#}\n", Value::Object(settings.clone())).as_bytes())?;
            text.push_str(&format!("\nrun file ({PATHS}):\n  dora train --config {}", path.display()));
        }
        (None, _) => {}
    }
    console.result(&text, &object)?;
    if let (None, Some(path)) = (&run_file, &args.output) {
        bail!("nothing fits, so there is no run file to write to {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses to write over a file that is not empty and no run file, which holds a model and other options of `dora train` only.
fn check_replaced(path: &Path) -> Result<(), Usage> {
    if !path.exists() {
        return Ok(());
    }
    let bytes = fs::read(path).map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))?;
    let known = train::option_names();
    let is_option = |name: &String| known.contains(&name.replace('_', "-"));
    let object = dora_models::json::object(&bytes, path);
    if bytes.is_empty() || object.is_ok_and(|file| file.contains_key("model") && file.keys().all(is_option)) {
        return Ok(());
    }
    let path = path.display();
    Err(Usage(format!("--output {path} is there and no run file of `dora plan`, expected a new file or a run file")))
}

/// What a plan cannot know.
const PATHS: &str = "put your paths in place of model, data and output";

/// A model's shape and how its weights are stored.
struct Found {
    name: String,
    description: Description,
    dtype: DType,
    nf4: Option<Nf4Options>,
}

/// The model in a folder, or the built-in shape of a name.
fn find(model: &Path) -> Result<Found> {
    let name = model.display().to_string();
    if !model.is_dir() {
        let Some(shape) = published::find(&name) else {
            let known: Vec<&str> = published::all().map(|shape| shape.name).collect();
            let known = known.join(", ");
            let text = format!("--model {name} is neither a folder nor a built-in shape, expected a folder or {known}");
            return Err(Usage(text).into());
        };
        return Ok(Found { name: shape.name.into(), description: shape.description(), dtype: DType::BF16, nf4: None });
    }
    let description = Architecture::of(model)?.read(model)?;
    let files = ["model.safetensors", "model.safetensors.index.json"];
    let (stored, nf4) = match files.iter().any(|file| model.join(file).exists()) {
        true => {
            let checkpoint = Checkpoint::open(model)?;
            (checkpoint.dtype(), nf4::stored_options(&checkpoint, &description.shape)?)
        }
        false => (description.dtype, None),
    };
    Ok(Found { name, dtype: stored.unwrap_or(DType::F32), description, nf4 })
}

/// Bytes of a size such as 12GiB or 16GB.
fn size(text: &str) -> Result<usize, Usage> {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("GB", 1_000_000_000), ("MB", 1_000_000)];
    let parsed = units.iter().find_map(|(unit, bytes)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        (number.is_finite() && number > 0.0).then_some((number * *bytes as f64) as usize)
    });
    parsed.ok_or_else(|| Usage(format!("--memory is {text:?}, expected a size such as 12GiB, 16GB or 900MB")))
}

/// What to know before it is served.
fn notes(deploy: Deploy, setup: &Setup, request: &Request) -> Vec<String> {
    let bytes = table::gb(request.dtype.size() * request.model.shape.parameters);
    let mut notes = match (deploy, setup.method.is_dora()) {
        (Deploy::Merged, _) => vec![
            "To serve: dora merge; the merged model has the base's shape and costs what the base costs.".to_owned(),
        ],
        (Deploy::Adapter, true) => vec![
            "To serve the adapter: PEFT loads it; many servers do not serve DoRA adapters (vLLM issues 6983 and".into(),
            "10849), and need dora merge, after which the model costs what the base costs.".into(),
        ],
        (Deploy::Adapter, false) => {
            vec!["To serve the adapter: PEFT loads it, and servers that take LoRA adapters serve it as it is.".into()]
        }
    };
    if setup.method.is_quantized() {
        notes.push(
            "It is trained over 4-bit weights: dora merge --merge-base dequantized gives what was trained,".into(),
        );
        notes
            .push(format!("original the 16-bit weights; either is written in 16 or 32 bits ({bytes} GB as the base)."));
    }
    notes
}

/// Options of `dora train` for a setting; paths that are not known are to be put in.
fn run_file(args: &Args, setup: &Setup) -> Map<String, Value> {
    let settings = json!({
        "model": args.model, "data": ["train.jsonl"], "output": "my-adapter", "method": name(setup.method),
        "rank": args.rank, "alpha": 2 * args.rank, "target_modules": "all-linear", "lr": 2e-4, "schedule": "linear",
        "warmup_steps": 10, "weight_decay": 0.0, "max_grad_norm": 1.0, "batch_size": setup.batch_size,
        "grad_accum": setup.grad_accum, "max_seq_len": setup.seq_len, "long_rows": "refuse", "epochs": 3, "seed": 0,
        "gradient_checkpointing": setup.gradient_checkpointing,
    });
    let Value::Object(mut settings) = settings else { unreachable!("an object was written") };
    settings.extend(args.dtype.map(|dtype| ("dtype".to_owned(), name(dtype).into())));
    settings
}

fn json_of(setup: &Setup, parameters: usize, rank: usize) -> Value {
    json!({
        "method": name(setup.method), "predicted_peak_mb": mb(setup.prediction.peak()),
        "predicted_terms_mb": terms_mb(&setup.prediction), "fits": setup.fits, "batch_size": setup.batch_size,
        "grad_accum": setup.grad_accum, "gradient_checkpointing": setup.gradient_checkpointing,
        "relative_time": setup.relative_time, "trainable": setup.trainable,
        "quality": quality::expected(setup.method, parameters, rank),
    })
}
