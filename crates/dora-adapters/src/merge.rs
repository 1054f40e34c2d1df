//! Merging: a plain Hugging Face checkpoint whose target layers hold W + sBA, or g ⊙ (W + sBA) for DoRA, in the base's own
//! types, names and order. Goes tensor by tensor: at no time is there more than one merged weight in memory.

use crate::error::{Error, Result};
use crate::factors::Factors;
use crate::targets::Target;
use dora_models::checkpoint::{Checkpoint, CheckpointWriter, copy_side_files};
use dora_tensor::{DenseWeight, Elements, Tensor, ops};
use std::collections::HashMap;
use std::path::Path;

/// Shards of 5 GB, as Hugging Face cut them for years.
const MAX_SHARD_BYTES: usize = 5_000_000_000;

/// Writes the base model in `base` with an adapter merged in to `output`.
pub fn merge(base: &Path, layers: &[(Target, Factors)], output: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(base)?;
    let by_name: HashMap<String, &(Target, Factors)> =
        layers.iter().map(|layer| (format!("{}.weight", layer.0.linear.path), layer)).collect();
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    let plan = names.iter().map(|name| {
        let tensor = checkpoint.tensor(name)?;
        Ok((name.clone(), tensor.dtype(), tensor.shape().to_vec()))
    });
    let mut writer = CheckpointWriter::create(output, plan.collect::<Result<_>>()?, MAX_SHARD_BYTES)?;
    for name in &names {
        let tensor = match by_name.get(name) {
            Some(layer) => merged(&checkpoint, name, layer)?,
            None => checkpoint.tensor(name)?,
        };
        writer.write(name, &tensor)?;
    }
    writer.finish()?;
    Ok(copy_side_files(base, output)?)
}

fn merged(checkpoint: &Checkpoint, name: &str, (target, factors): &(Target, Factors)) -> Result<Tensor> {
    let linear = &target.linear;
    let stored = checkpoint.expect(name, &[linear.out_features, linear.in_features])?;
    let dtype = stored.dtype();
    let weight = DenseWeight::new(stored)?;
    let merged = ops::merged(&weight, &factors.update(target), factors.magnitude.as_ref())?.to_dtype(dtype);
    match is_finite(&merged) {
        true => Ok(merged),
        false => Err(Error::NotFinite { path: linear.path.clone(), dtype }),
    }
}

fn is_finite(tensor: &Tensor) -> bool {
    match tensor.elements() {
        Elements::F32(v) => v.iter().all(|x| x.is_finite()),
        Elements::BF16(v) => v.iter().all(|x| x.is_finite()),
        Elements::F16(v) => v.iter().all(|x| x.is_finite()),
    }
}
