//! An adapter's tensors for its target layers: A (r, in), B (out, r) and, with DoRA, m (out), in `f32`; and their file
//! `adapter_model.safetensors` as PEFT names them: `base_model.model.<path>.lora_A.weight`, `.lora_B.weight`,
//! `.lora_magnitude_vector`. Reading is strict: m exactly when the settings say `use_dora`, nothing missing, nothing left
//! over, every shape that of the base model's layer.

use crate::config::{AdapterConfig, Init, Purpose};
use crate::error::{Error, Result};
use crate::targets::{Target, resolve};
use dora_models::checkpoint::{SafetensorsFile, read_safetensors, write_safetensors};
use dora_models::shape::ModelShape;
use dora_tensor::ops::LowRank;
use dora_tensor::rng::Philox;
use dora_tensor::{DType, Device, Tensor};
use std::path::Path;

/// Name of the file in an adapter's folder.
pub const TENSORS_FILE: &str = "adapter_model.safetensors";

/// The tensors of one target layer.
#[derive(Debug, Clone)]
pub struct Factors {
    /// A (r, in).
    pub a: Tensor,
    /// B (out, r).
    pub b: Tensor,
    /// m (out), with DoRA.
    pub magnitude: Option<Tensor>,
}

impl Factors {
    /// A as `init` says and B zero, from the layer's own stream of random numbers; m is the base weight's affair.
    pub fn begin(target: &Target, init: Init, seed: u64) -> Self {
        let (r, inputs, outputs) = (target.rank, target.linear.in_features, target.linear.out_features);
        let mut rng = Philox::new(seed, target.index as u64);
        let bound = 1.0 / (inputs as f32).sqrt();
        let deviation = 1.0 / r as f32;
        let draw = || match init {
            Init::Gaussian => rng.normal() * deviation,
            Init::Uniform | Init::OnFile => (2.0 * rng.uniform() - 1.0) * bound,
        };
        let a = std::iter::repeat_with(draw).take(r * inputs).collect();
        let a = Tensor::from_vec(a, &[r, inputs]).expect("sized for the layer");
        Factors { a, b: Tensor::zeros(&[outputs, r]), magnitude: None }
    }

    /// The same tensors on another device.
    pub fn to_device(&self, device: Device) -> Result<Self> {
        let magnitude = self.magnitude.as_ref().map(|m| m.to_device(device)).transpose()?;
        Ok(Factors { a: self.a.to_device(device)?, b: self.b.to_device(device)?, magnitude })
    }

    /// The update s·B·A without dropout.
    pub fn update(&self, target: &Target) -> LowRank {
        LowRank { a: self.a.clone(), b: self.b.clone(), scaling: target.scaling as f32, dropout: None }
    }
}

/// An adapter on file, read against the base model's shape: settings, target layers, and their tensors.
pub fn read(
    dir: &Path,
    shape: &ModelShape,
    default_targets: &[&str],
) -> Result<(AdapterConfig, Vec<(Target, Factors)>)> {
    let config = AdapterConfig::read(dir)?;
    let targets = resolve(&config, shape, default_targets, Purpose::Load)?;
    let file = read_safetensors(&dir.join(TENSORS_FILE))?;
    let mut known = Vec::new();
    let mut factors = Vec::new();
    for target in targets {
        let (r, inputs, outputs) = (target.rank, target.linear.in_features, target.linear.out_features);
        let names = Names::of(&target.linear.path);
        let magnitude = config.use_dora.then(|| tensor(&file, &names.magnitude, &[outputs], "(out)")).transpose()?;
        let a = tensor(&file, &names.a, &[r, inputs], "(r, in)")?;
        let b = tensor(&file, &names.b, &[outputs, r], "(out, r)")?;
        known.extend([names.a, names.b]);
        known.extend(config.use_dora.then_some(names.magnitude));
        factors.push((target, Factors { a, b, magnitude }));
    }
    known.sort();
    match file.names().find(|name| known.binary_search_by(|k| k.as_str().cmp(name)).is_err()) {
        None => Ok((config, factors)),
        Some(name) => {
            let expected = if name.ends_with(MAGNITUDE) && !config.use_dora {
                "none, as `use_dora` is false in adapter_config.json"
            } else {
                "tensors of the base model's target layers only (is this adapter for another base model?)"
            };
            Err(mismatch(&file, name, "it".into(), expected))
        }
    }
}

/// Writes `adapter_model.safetensors` into folder `dir`.
pub fn write<'a>(dir: &Path, layers: impl Iterator<Item = (&'a Target, Factors)>) -> Result<()> {
    let mut tensors = Vec::new();
    for (target, factors) in layers {
        let names = Names::of(&target.linear.path);
        tensors.extend([(names.a, factors.a), (names.b, factors.b)]);
        tensors.extend(factors.magnitude.map(|m| (names.magnitude, m)));
    }
    Ok(write_safetensors(&dir.join(TENSORS_FILE), &tensors, &[("format", "pt")])?)
}

const MAGNITUDE: &str = ".lora_magnitude_vector";

struct Names {
    a: String,
    b: String,
    magnitude: String,
}

impl Names {
    fn of(path: &str) -> Self {
        let name = |end: &str| format!("base_model.model.{path}{end}");
        Names { a: name(".lora_A.weight"), b: name(".lora_B.weight"), magnitude: name(MAGNITUDE) }
    }
}

fn tensor(file: &SafetensorsFile, name: &str, shape: &[usize], dimensions: &str) -> Result<Tensor> {
    if !file.contains(name) {
        let expected = match name.ends_with(MAGNITUDE) {
            true => "it, as `use_dora` is true in adapter_config.json".to_owned(),
            false => format!("{dimensions} = {shape:?} for a target layer of the base model"),
        };
        return Err(mismatch(file, name, "nothing".into(), &expected));
    }
    let tensor = file.tensor(name)?.to_dtype(DType::F32);
    if tensor.shape() != shape {
        let expected = format!("{dimensions} = {shape:?} by adapter_config.json and the base model's layer");
        return Err(mismatch(file, name, format!("shape {:?}", tensor.shape()), &expected));
    }
    match tensor.to_vec().iter().all(|x| x.is_finite()) {
        true => Ok(tensor),
        false => Err(mismatch(file, name, "elements that are not finite".into(), "finite numbers")),
    }
}

fn mismatch(file: &SafetensorsFile, name: &str, found: String, expected: &str) -> Error {
    Error::Tensor { path: file.path().to_owned(), tensor: name.into(), found, expected: expected.into() }
}
