//! AdamW (Loshchilov and Hutter, 2019), with PyTorch's arithmetic. For step t from 1, gradient g, moments u and v:
//! p ← p·(1 − lr·decay), u ← β₁u + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← p − lr/(1 − β₁ᵗ) · u/(√v/√(1 − β₂ᵗ) + ε).

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::profile::{self, Direction};
use crate::{DType, Device, Error, Parameter, Result, Tensor};

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

/// The norm of gradients together, and what every gradient is multiplied by to bring it down to a limit. On a device both stay
/// there, for the update to read.
#[derive(Debug)]
pub struct Clip(Place);

#[derive(Debug)]
enum Place {
    Cpu {
        norm: f64,
        factor: f32,
    },
    /// (2): norm and factor.
    Cuda(Tensor),
}

impl Clip {
    /// Of those gradients, all on one device; `most` 0 leaves them as they are.
    pub fn new(gradients: &[Tensor], most: f64) -> Result<Self> {
        let _running = profile::operation("clip", Direction::Update);
        profile::bytes(gradients.iter().map(|g| 4 * g.numel()).sum());
        match gradients.first().map_or(Device::Cpu, Tensor::device) {
            Device::Cpu => {
                let norm = cpu::norm(gradients)?;
                let factor = if most > 0.0 { most / (norm + 1e-6) } else { 1.0 };
                Ok(Clip(Place::Cpu { norm, factor: factor.min(1.0) as f32 }))
            }
            Device::Cuda(gpu) => Ok(Clip(Place::Cuda(cuda::clip(gpu, gradients, most)?))),
        }
    }

    /// The norm before clipping; not finite when an element is not. On a device this waits for it.
    pub fn norm(&self) -> Result<f64> {
        match &self.0 {
            Place::Cpu { norm, .. } => Ok(*norm),
            Place::Cuda(tensor) => Ok(f64::from(tensor.rows(0, 1)?.item()?)),
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

impl AdamW {
    /// Updates a parameter and its moments in place by a clipped gradient; where the gradients' norm is not finite, nothing changes.
    pub fn update(&self, parameter: &Parameter, gradient: &Tensor, moments: &mut Moments, clip: &Clip) -> Result<()> {
        let _running = profile::operation("adamw", Direction::Update);
        let value = parameter.value();
        for (operand, tensor) in [("gradient", gradient), ("first", &moments.first), ("second", &moments.second)] {
            tensor.expect_shape("adamw", operand, value.shape())?;
        }
        let device = value.device();
        // Reads the gradient; reads and writes the parameter and both moments.
        profile::bytes(7 * 4 * value.numel());
        drop(value);
        match (device, &clip.0) {
            (Device::Cpu, Place::Cpu { norm, .. }) if !norm.is_finite() => Ok(()),
            (Device::Cpu, Place::Cpu { factor, .. }) => {
                let gradient = gradient.as_f32("adamw")?;
                let (first, second) = (moments.first.make_mut(), moments.second.make_mut());
                parameter.update(|p| cpu::update(self, *factor, p, gradient, first, second));
                Ok(())
            }
            (Device::Cuda(gpu), Place::Cuda(clip)) => {
                parameter.change(|p| cuda::update(gpu, self, clip, p, gradient, moments))
            }
            _ => Err(Error::argument("adamw", format!("a parameter on {device}, and gradients elsewhere"))),
        }
    }

    /// 1 − lr·decay, lr/(1 − β₁ᵗ), √(1 − β₂ᵗ), ε, β₁, β₂.
    fn factors(&self) -> [f32; 6] {
        let ([beta1, beta2], t) = (self.betas, self.step as f64);
        let keep = 1.0 - self.lr * self.weight_decay;
        let (size, root) = (self.lr / (1.0 - beta1.powf(t)), (1.0 - beta2.powf(t)).sqrt());
        [keep, size, root, self.eps, beta1, beta2].map(|x| x as f32)
    }
}
