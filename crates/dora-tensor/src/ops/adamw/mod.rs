//! AdamW (Loshchilov and Hutter, 2019), with PyTorch's arithmetic. For step t from 1, gradient g, moments u and v:
//! p ← p·(1 − lr·decay), u ← β₁u + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← p − lr/(1 − β₁ᵗ) · u/(√v/√(1 − β₂ᵗ) + ε).

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::profile::{self, Direction};
use crate::{Cuda, DType, Device, Parameter, Result, Tensor};
use dora_kernels::Buffer;
use rayon::prelude::*;

/// Settings of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// ε.
    pub eps: f64,
    /// t, from 1.
    pub step: u64,
}

/// What a step comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Sum of the losses of its passes.
    pub loss: f64,
    /// The norm of the gradients together, before clipping; not finite when an element is not.
    pub norm: f64,
}

impl Figures {
    fn are_finite(&self) -> bool {
        self.loss.is_finite() && self.norm.is_finite()
    }
}

/// The norm of gradients together, what every gradient is multiplied by to bring it down to a limit, and the loss. On a device they
/// stay there, for the update to read.
#[derive(Debug)]
pub struct Clip(Place);

#[derive(Debug)]
enum Place {
    Cpu {
        figures: Figures,
        factor: f32,
    },
    /// Norm, factor and loss (3) in f64.
    Cuda(Cuda, Buffer),
}

impl Clip {
    /// Of the gradients of passes with those losses, or without them where nobody asks, all on one device; `most` 0 leaves the
    /// gradients as they are.
    pub fn new(losses: &[Tensor], gradients: &[Tensor], most: f64) -> Result<Self> {
        let _running = profile::operation("clip", Direction::Update);
        profile::bytes(gradients.iter().map(|g| 4 * g.numel()).sum());
        match gradients.iter().chain(losses).next().map_or(Device::Cpu, Tensor::device) {
            Device::Cpu => {
                let losses = losses.iter().map(|loss| Ok(f64::from(loss.item()?))).collect::<Result<Vec<_>>>()?;
                let figures = Figures { loss: losses.iter().sum(), norm: cpu::norm(gradients)? };
                let factor = if most > 0.0 { most / (figures.norm + 1e-6) } else { 1.0 };
                Ok(Clip(Place::Cpu { figures, factor: factor.min(1.0) as f32 }))
            }
            Device::Cuda(gpu) => Ok(Clip(Place::Cuda(gpu, cuda::clip(gpu, losses, gradients, most)?))),
        }
    }

    /// Loss and norm. On a device this waits for them, and for all that is queued.
    pub fn figures(&self) -> Result<Figures> {
        match &self.0 {
            Place::Cpu { figures, .. } => Ok(*figures),
            Place::Cuda(_, buffer) => {
                let mut read = [0.0; 3];
                buffer.download(bytemuck::cast_slice_mut(&mut read))?;
                let [norm, _, loss] = read;
                Ok(Figures { loss, norm })
            }
        }
    }
}

/// Moments of one parameter.
#[derive(Debug, Clone)]
pub struct Moments {
    /// u, mean of gradients.
    pub first: Tensor,
    /// v, mean of squared gradients.
    pub second: Tensor,
}

impl Moments {
    /// Zeros for a parameter.
    pub fn new(parameter: &Parameter) -> Result<Self> {
        let value = parameter.value();
        let zeros = || match value.device() {
            Device::Cpu => Ok(Tensor::zeros(value.shape())),
            Device::Cuda(gpu) => gpu.zeros(DType::F32, value.shape()),
        };
        Ok(Moments { first: zeros()?, second: zeros()? })
    }
}

/// A parameter, and what changes it in a step.
pub struct Update<'a> {
    /// Its settings.
    pub settings: AdamW,
    /// The parameter.
    pub parameter: &'a Parameter,
    /// Its gradient, before clipping.
    pub gradient: &'a Tensor,
    /// Its moments.
    pub moments: &'a mut Moments,
}

/// Updates parameters, no two the same and all on one device, and their moments in place by clipped gradients; where the loss or the
/// gradients' norm is not finite, nothing changes.
pub fn adamw(updates: &mut [Update], clip: &Clip) -> Result<()> {
    let _running = profile::operation("adamw", Direction::Update);
    for Update { parameter, gradient, moments, .. } in &*updates {
        let value = parameter.value();
        for (operand, tensor) in [("gradient", *gradient), ("first", &moments.first), ("second", &moments.second)] {
            tensor.expect_shape("adamw", operand, value.shape())?;
        }
        // Reads the gradient; reads and writes the parameter and both moments.
        profile::bytes(7 * 4 * value.numel());
    }
    match &clip.0 {
        Place::Cpu { figures, .. } if !figures.are_finite() => Ok(()),
        // An adapter's parameters are many and small: side by side.
        Place::Cpu { factor, .. } => {
            updates.par_iter_mut().try_for_each(|Update { settings, parameter, gradient, moments }| {
                let gradient = gradient.as_f32("adamw")?;
                let (first, second) = (moments.first.make_mut(), moments.second.make_mut());
                parameter.update(|p| cpu::update(settings, *factor, p, gradient, first, second));
                Ok(())
            })
        }
        Place::Cuda(gpu, clip) => cuda::update(*gpu, updates, clip),
    }
}

impl AdamW {
    /// [`adamw`] for one parameter.
    pub fn update(self, parameter: &Parameter, gradient: &Tensor, moments: &mut Moments, clip: &Clip) -> Result<()> {
        adamw(&mut [Update { settings: self, parameter, gradient, moments }], clip)
    }

    /// 1 − lr·decay, lr/(1 − β₁ᵗ), √(1 − β₂ᵗ), ε, β₁, β₂, 1 − β₁, 1 − β₂.
    fn factors(&self) -> [f32; 8] {
        let ([beta1, beta2], t) = (self.betas, self.step as f64);
        let keep = 1.0 - self.lr * self.weight_decay;
        let (size, root) = (self.lr / (1.0 - beta1.powf(t)), (1.0 - beta2.powf(t)).sqrt());
        [keep, size, root, self.eps, beta1, beta2, 1.0 - beta1, 1.0 - beta2].map(|x| x as f32)
    }
}
