//! An adapter on a model: a walk over the model's linear layers puts LoRA or DoRA in place of each target, over the layer's
//! own frozen weight, which is shared and never copied.

use crate::config::{AdapterConfig, MagnitudeInit, Purpose};
use crate::dora::{Dora, Group};
use crate::error::{Error, Result};
use crate::factors::{self, Factors};
use crate::lora::Lora;
use crate::targets::{Target, expand, resolve};
use dora_models::checkpoint::ensure_writable_dir;
use dora_models::linear::{Base, Linear, Pass};
use dora_models::model::Model;
use dora_tensor::ops::{Dropout, LowRank, NormGradient};
use dora_tensor::rng::Stream;
use dora_tensor::{Device, Parameter, Role, Tensor, Weight};
use std::path::Path;
use std::sync::Arc;

/// The trained side of an adapter.
pub struct Adapter {
    config: AdapterConfig,
    layers: Vec<Trained>,
}

struct Trained {
    target: Target,
    a: Parameter,
    b: Parameter,
    magnitude: Option<Parameter>,
    zero_rows: usize,
}

impl Adapter {
    /// Puts a new adapter on a model; it changes nothing until it is trained: B is 0, and m = ‖W‖ of the weight as the
    /// forward pass sees it. `default_targets` are the layers that no `target_modules` stands for.
    pub fn begin(model: &mut dyn Model, config: AdapterConfig, default_targets: &[&str], seed: u64) -> Result<Self> {
        let targets = resolve(&config, model.shape(), default_targets, Purpose::Begin)?;
        let begin = |target: Target| {
            let factors = Factors::begin(&target, config.init, seed);
            (target, factors)
        };
        let layers = targets.into_iter().map(begin).collect();
        let config = Self::settings(model, config, default_targets)?;
        Self::install(model, config, layers)
    }

    /// What `config` becomes on a model: PEFT's shorthands are spelled out, so that another architecture can't read them
    /// otherwise.
    pub fn settings(model: &dyn Model, config: AdapterConfig, default_targets: &[&str]) -> Result<AdapterConfig> {
        let modules = expand(&config.target_modules, model.shape(), default_targets)?;
        Ok(AdapterConfig { target_modules: modules.into(), ..config })
    }

    /// Takes whatever adapter is on a model off it.
    pub fn remove(model: &mut dyn Model) {
        model.linears_mut().into_iter().for_each(Linear::restore);
    }

    /// Puts the adapter in folder `dir` on a model.
    pub fn load(model: &mut dyn Model, dir: &Path, default_targets: &[&str]) -> Result<Self> {
        let (config, layers) = factors::read(dir, model.shape(), default_targets)?;
        Self::install(model, config, layers)
    }

    /// Puts the adapter in folder `dir` on a model to train it further. With `magnitude_init` it goes on as DoRA with magnitudes
    /// that begin so, whatever it was; with `exact_norm_gradient` its norm is differentiated.
    pub fn resume(
        model: &mut dyn Model,
        dir: &Path,
        default_targets: &[&str],
        magnitude_init: Option<MagnitudeInit>,
        exact_norm_gradient: bool,
    ) -> Result<Self> {
        let (config, mut layers) = factors::read(dir, model.shape(), default_targets)?;
        let mut config = AdapterConfig { exact_norm_gradient, ..config };
        if let Some(magnitude_init) = magnitude_init {
            config = AdapterConfig { use_dora: true, magnitude_init, ..config };
            layers.iter_mut().for_each(|(_, factors)| factors.magnitude = None);
        }
        config.check(Purpose::Load)?;
        Self::install(model, config, layers)
    }

    fn install(model: &mut dyn Model, config: AdapterConfig, layers: Vec<(Target, Factors)>) -> Result<Self> {
        let (mut linears, group) = (model.linears_mut(), Arc::default());
        let layers = layers.into_iter().map(|(target, factors)| {
            let linear = &mut *linears[target.index];
            install(linear, &config, &group, target, factors)
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(Adapter { config, layers })
    }

    /// Settings, as they are saved.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// Settings, to say where the base model came from.
    pub fn config_mut(&mut self) -> &mut AdapterConfig {
        &mut self.config
    }

    /// Layers that it is on.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.layers.iter().map(|layer| &layer.target)
    }

    /// Everything that trains, under its name in the adapter's file less PEFT's `base_model.model.`.
    pub fn parameters(&self) -> Vec<Parameter> {
        let of = |layer: &Trained| [Some(layer.a.clone()), Some(layer.b.clone()), layer.magnitude.clone()];
        self.layers.iter().flat_map(of).flatten().collect()
    }

    /// Layers with rows of W + sBA that are zero, and how many: DoRA leaves those rows' magnitudes alone.
    pub fn zero_rows(&self) -> Vec<(&str, usize)> {
        let zero = self.layers.iter().filter(|layer| layer.zero_rows > 0);
        zero.map(|layer| (layer.target.linear.path.as_str(), layer.zero_rows)).collect()
    }

    /// Writes the adapter as PEFT reads it: the tensors, then the settings. The folder is created if need be.
    pub fn save(&self, dir: &Path) -> Result<()> {
        ensure_writable_dir(dir)?;
        let factors = |layer: &Trained| {
            let magnitude = layer.magnitude.as_ref().map(Parameter::value);
            Factors { a: layer.a.value(), b: layer.b.value(), magnitude }.to_device(Device::Cpu)
        };
        let saved = self.layers.iter().map(factors).collect::<Result<Vec<_>>>()?;
        factors::write(dir, self.layers.iter().map(|layer| &layer.target).zip(saved))?;
        self.config.write(dir)
    }
}

/// What every adapter of a layer computes with.
pub(crate) struct Layer {
    pub(crate) weight: Arc<dyn Weight>,
    pub(crate) bias: Option<Tensor>,
    pub(crate) a: Parameter,
    pub(crate) b: Parameter,
    scaling: f32,
    dropout: f32,
    /// The layer's number among the model's, for its stream of random numbers.
    number: u32,
}

impl Layer {
    /// The update of a pass, on the tape, with its dropout.
    pub(crate) fn update(&self, pass: &Pass) -> dora_tensor::Result<LowRank> {
        let stream = |source: dora_models::linear::DropoutSource| Stream {
            seed: source.seed,
            step: source.step,
            op: self.number,
        };
        let source = pass.dropout.filter(|_| self.dropout > 0.0);
        let dropout = source.map(|source| Dropout::new(self.dropout, stream(source))).transpose()?;
        Ok(LowRank { a: self.a.tensor(), b: self.b.tensor(), scaling: self.scaling, dropout })
    }

    /// The update off the tape and without dropout.
    pub(crate) fn plain_update(&self) -> LowRank {
        LowRank { a: self.a.value(), b: self.b.value(), scaling: self.scaling, dropout: None }
    }
}

fn install(
    linear: &mut Linear,
    config: &AdapterConfig,
    group: &Arc<Group>,
    target: Target,
    factors: Factors,
) -> Result<Trained> {
    let path = &target.linear.path;
    let Base::Frozen { weight, bias } = linear.base() else {
        return Err(Error::NotFrozen { path: path.clone() });
    };
    let factors = factors.to_device(weight.device())?;
    let parameter = |end: &str, role, value| Parameter::new(format!("{path}.{end}"), role, value);
    let a = parameter("lora_A.weight", Role::Matrix, factors.a)?;
    let b = parameter("lora_B.weight", Role::LowRankB, factors.b)?;
    let layer = Layer {
        weight: weight.clone(),
        bias: bias.clone(),
        a: a.clone(),
        b: b.clone(),
        scaling: target.scaling as f32,
        dropout: config.lora_dropout as f32,
        number: target.index as u32,
    };
    if !config.use_dora {
        linear.replace(Box::new(Lora(layer)));
        return Ok(Trained { target, a, b, magnitude: None, zero_rows: 0 });
    }
    let (base, norms) = Dora::norms(&layer)?;
    let zero_rows = norms.to_device(Device::Cpu)?.to_vec().iter().filter(|&&n| n == 0.0).count();
    let m = match factors.magnitude {
        Some(m) => m,
        None => magnitudes(config.magnitude_init, &base, norms)?,
    };
    let magnitude = parameter("lora_magnitude_vector", Role::Magnitude, m)?;
    let gradient = if config.exact_norm_gradient { NormGradient::Exact } else { NormGradient::Detached };
    linear.replace(Box::new(Dora::new(layer, group, magnitude.clone(), base, gradient)));
    Ok(Trained { target, a, b, magnitude: Some(magnitude), zero_rows })
}

/// m (out) as training begins, where `base` holds ‖W‖² and `norms` ‖W + sBA‖.
fn magnitudes(init: MagnitudeInit, base: &Tensor, norms: Tensor) -> Result<Tensor> {
    let factor = match init {
        MagnitudeInit::UpdatedWeightNorm => return Ok(norms),
        MagnitudeInit::WeightNorm => 1.0,
        MagnitudeInit::Scaled(factor) => factor as f32,
        MagnitudeInit::Ones => {
            return Ok(Tensor::from_vec(vec![1.0; base.shape()[0]], base.shape())?.to_device(base.device())?);
        }
    };
    let norms = base.to_device(Device::Cpu)?.to_vec().into_iter().map(|square| factor * square.sqrt()).collect();
    Ok(Tensor::from_vec(norms, base.shape())?.to_device(base.device())?)
}
