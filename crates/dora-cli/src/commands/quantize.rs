//! `dora quantize`: a checkpoint whose linear layers are in bitsandbytes' NF4, which transformers and this program load.
//! Embeddings, the output embedding and norms stay as they are, as in bitsandbytes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use dora_models::checkpoint::{
    Checkpoint, CheckpointWriter, MAX_SHARD_BYTES, copy_side_files, ensure_writable_dir, write_file,
};
use dora_models::model::Architecture;
use dora_models::nf4;
use dora_tensor::DType;
use serde_json::{Value, json};

use crate::adapter_args::Nf4Args;
use crate::console::Console;
use crate::failure::Usage;

/// Arguments of `dora quantize`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the model
    #[arg(long)]
    model: PathBuf,
    /// Folder to write to
    #[arg(long)]
    output: PathBuf,
    #[command(flatten)]
    nf4: Nf4Args,
}

pub fn run(args: Args, console: &Console) -> Result<ExitCode> {
    let options = args.nf4.options()?;
    let shape = Architecture::of(&args.model)?.read(&args.model)?.shape;
    let checkpoint = Checkpoint::open(&args.model)?;
    ensure_writable_dir(&args.output).map_err(|e| Usage(format!("--output: {e}")))?;
    if args.output.canonicalize().ok() == args.model.canonicalize().ok() {
        return Err(Usage("--output is the model's folder, expected one of its own".into()).into());
    }
    let linears: BTreeMap<String, (usize, usize)> = shape
        .linears
        .iter()
        .filter(|linear| !linear.output_embedding)
        .map(|linear| (format!("{}.weight", linear.path), (linear.out_features, linear.in_features)))
        .collect();
    if let Some(name) = linears.keys().find(|name| nf4::is_quantized(&checkpoint, name)) {
        let path = args.model.display();
        return Err(Usage(format!("{path}: {name} is in 4 bits already, expected a model to quantise")).into());
    }
    let mut dtype = DType::F32;
    for (name, &(out, inner)) in &linears {
        dtype = checkpoint.expect(name, &[out, inner])?.dtype();
    }
    let mut plan = Vec::new();
    for name in checkpoint.names() {
        match linears.get(name) {
            Some(&shape) => plan.extend(nf4::plan(name, shape, options)),
            None => {
                let tensor = checkpoint.tensor(name)?;
                plan.push((name.to_owned(), tensor.dtype().into(), tensor.shape().to_vec()));
            }
        }
    }
    let mut writer = CheckpointWriter::create(&args.output, plan, MAX_SHARD_BYTES)?;
    for name in checkpoint.names() {
        let stored = checkpoint.tensor(name)?;
        let Some(&shape) = linears.get(name) else {
            writer.write(name, &stored)?;
            continue;
        };
        let weight = nf4::quantize(&checkpoint, name, shape, options)?;
        for (name, dtype, shape, bytes) in nf4::entries(name, &weight, stored.dtype()) {
            writer.write_bytes(&name, dtype, &shape, &bytes)?;
        }
    }
    writer.finish()?;
    copy_side_files(&args.model, &args.output)?;
    let path = args.output.join("config.json");
    let mut config = dora_models::json::object(&std::fs::read(&path)?, &path)?;
    config.insert("quantization_config".into(), nf4::quantization_config(options, dtype));
    write_file(&path, format!("{:#}\n", Value::Object(config)).as_bytes())?;
    let text = format!("{} linear layers in 4 bits, saved in {}", linears.len(), args.output.display());
    let object = json!({ "output": args.output, "quantized_layers": linears.len() });
    console.result(&text, &object)?;
    Ok(ExitCode::SUCCESS)
}
