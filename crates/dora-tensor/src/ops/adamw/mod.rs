//! AdamW (Loshchilov and Hutter, 2019), with PyTorch's arithmetic. For step t from 1, gradient g, moments u and v:
//! p ← p·(1 − lr·decay), u ← β₁u + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← p − lr/(1 − β₁ᵗ) · u/(√v/√(1 − β₂ᵗ) + ε).

mod cpu;
#[cfg(test)]
mod tests;

use crate::profile::{self, Direction};
use crate::{Device, Parameter, Result, Tensor};

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
    /// What every gradient is multiplied by first: clipping.
    pub gradient_scale: f32,
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
    pub fn new(parameter: &Parameter) -> Self {
        let zeros = || Tensor::zeros(parameter.value().shape());
        Moments { first: zeros(), second: zeros() }
    }
}

impl AdamW {
    /// Updates a parameter and its moments in place.
    pub fn update(&self, parameter: &Parameter, gradient: &Tensor, moments: &mut Moments) -> Result<()> {
        let _running = profile::operation("adamw", Direction::Update);
        let value = parameter.value();
        for (operand, tensor) in [("gradient", gradient), ("first", &moments.first), ("second", &moments.second)] {
            tensor.expect_shape("adamw", operand, value.shape())?;
        }
        let device = value.device();
        // Reads the gradient; reads and writes the parameter and both moments.
        profile::bytes(7 * 4 * value.numel());
        drop(value);
        let gradient = gradient.as_f32("adamw")?;
        match device {
            Device::Cpu => parameter
                .update(|p| cpu::update(self, p, gradient, moments.first.make_mut(), moments.second.make_mut())),
        }
        Ok(())
    }
}

/// Σ x², in f64; not finite when an element is not.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    let _running = profile::operation("sum_of_squares", Direction::Update);
    profile::bytes(4 * x.numel());
    match x.device() {
        Device::Cpu => Ok(cpu::sum_of_squares(x.as_f32("sum_of_squares")?)),
    }
}
