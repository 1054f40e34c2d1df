//! Merging: a plain Hugging Face checkpoint whose target layers hold W + sBA, or g ⊙ (W + sBA) for DoRA, in the base's own
//! types, names and order. Goes tensor by tensor: at no time is there more than one merged weight in memory.
//!
//! An adapter that was trained over 4-bit weights knows those, not the 16-bit ones: [`MergeBase::Dequantized`] puts it on the
//! values that the 4-bit weights stand for, in every linear layer, so that the result is what was trained.

use crate::error::{Error, Result};
use crate::factors::Factors;
use crate::targets::Target;
use dora_models::checkpoint::{Checkpoint, CheckpointWriter, MAX_SHARD_BYTES, copy_side_files, write_file};
use dora_models::json::object;
use dora_models::nf4::{self, WeightOptions};
use dora_models::shape::ModelShape;
use dora_tensor::{DType, Device, Elements, Nf4Options, Tensor, Weight, ops};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// What an adapter is merged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeBase {
    /// The weights as they are stored; a checkpoint in 4 bits has none.
    Stored,
    /// What the 4-bit weights stand for: those of the checkpoint, or the stored ones quantised like this.
    Dequantized(Nf4Options),
}

/// Writes the base model in `base`, of that shape, with an adapter merged in to `output`; weights are merged on the device.
pub fn merge(
    base: &Path,
    shape: &ModelShape,
    layers: &[(Target, Factors)],
    output: &Path,
    merge_base: MergeBase,
    device: Device,
) -> Result<()> {
    let checkpoint = Checkpoint::open(base)?;
    let linears: HashMap<String, (usize, usize)> = shape
        .linears
        .iter()
        .filter(|linear| !linear.output_embedding)
        .map(|linear| (format!("{}.weight", linear.path), (linear.out_features, linear.in_features)))
        .collect();
    let adapted: HashMap<String, &(Target, Factors)> =
        layers.iter().map(|layer| (format!("{}.weight", layer.0.linear.path), layer)).collect();
    let quantized = |name: &&String| nf4::is_quantized(&checkpoint, name);
    if let (MergeBase::Stored, Some(name)) = (merge_base, linears.keys().filter(quantized).min()) {
        return Err(Error::Quantized { path: checkpoint.path().to_owned(), tensor: name.clone() });
    }
    let side: HashSet<String> =
        linears.keys().filter(quantized).flat_map(|name| nf4::names(&checkpoint, name).split_off(1)).collect();
    let names: Vec<&str> = checkpoint.names().filter(|name| !side.contains(*name)).collect();
    let plan = names.iter().map(|&name| match linears.get(name) {
        Some(&shape) if quantized(&&name.to_owned()) => {
            let (_, dtype) = nf4::read(&checkpoint, name, shape)?;
            Ok((name.to_owned(), dtype, vec![shape.0, shape.1]))
        }
        _ => {
            let tensor = checkpoint.tensor(name)?;
            Ok((name.to_owned(), tensor.dtype(), tensor.shape().to_vec()))
        }
    });
    let plan: Vec<(String, DType, Vec<usize>)> = plan.collect::<Result<_>>()?;
    let mut writer = CheckpointWriter::create(output, plan.clone(), MAX_SHARD_BYTES)?;
    for (name, dtype, _) in &plan {
        let tensor = match (linears.get(name), merge_base, adapted.get(name)) {
            (Some(_), MergeBase::Stored, None) | (None, ..) => checkpoint.tensor(name)?,
            (Some(&shape), base, layer) => {
                let nf4 = match base {
                    MergeBase::Stored => None,
                    // A folder in 4 bits was trained over as it is: what is dense there stays dense.
                    MergeBase::Dequantized(options) => side.is_empty().then_some(options),
                };
                let weight = nf4::weight(&checkpoint, name, shape, WeightOptions { dtype: None, nf4 }, device)?;
                merged(&weight, layer.copied(), *dtype, name)?
            }
        };
        writer.write(name, &tensor)?;
    }
    writer.finish()?;
    copy_side_files(base, output)?;
    let config = output.join("config.json");
    let bytes = std::fs::read(&config).map_err(|source| Error::Read { path: config.clone(), source })?;
    let mut fields = object(&bytes, &config)?;
    if fields.shift_remove("quantization_config").is_some() {
        let text = format!("{:#}\n", serde_json::Value::Object(fields));
        write_file(&config, text.as_bytes())?;
    }
    Ok(())
}

fn merged(weight: &Arc<dyn Weight>, layer: Option<&(Target, Factors)>, dtype: DType, name: &str) -> Result<Tensor> {
    let merged = match layer {
        Some((target, factors)) => {
            let factors = factors.to_device(weight.device())?;
            ops::merged(&**weight, &factors.update(target), factors.magnitude.as_ref())?
        }
        None => weight.dense()?,
    };
    let merged = merged.to_device(Device::Cpu)?.to_dtype(dtype);
    match is_finite(&merged) {
        true => Ok(merged),
        false => Err(Error::NotFinite { path: name.to_owned(), dtype }),
    }
}

fn is_finite(tensor: &Tensor) -> bool {
    match tensor.elements() {
        Elements::F32(v) => v.iter().all(|x| x.is_finite()),
        Elements::BF16(v) => v.iter().all(|x| x.is_finite()),
        Elements::F16(v) => v.iter().all(|x| x.is_finite()),
    }
}
