//! SwiGLU (Shazeer, 2020): y = silu(gate) ⊙ up, silu(g) = g · σ(g), of two (n, C). Backward computes σ again:
//! dgate = dy ⊙ up ⊙ σ(1 + g(1 − σ)), dup = dy ⊙ silu(g).

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::profile::{self, Direction};
use crate::saved::Recipe;
use crate::{Device, Op, Result, Tensor, record};

/// silu(gate) ⊙ up.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let _running = profile::operation("swiglu", Direction::Forward);
    up.expect_shape("swiglu", "up", gate.shape())?;
    let recipe = || {
        let (gate, up) = (gate.detach(), up.detach());
        Recipe::new(move || forward(&gate, &up))
    };
    let saved = || Swiglu { gate: gate.detach(), up: up.detach() };
    Ok(record(forward(gate, up)?, &[gate, up], saved).with_recipe(recipe))
}

fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    match gate.device() {
        Device::Cpu => Ok(Tensor::of(cpu::forward(gate.as_f32("swiglu")?, up.as_f32("swiglu")?), gate.shape())),
        Device::Cuda(gpu) => cuda::forward(gpu, gate, up),
    }
}

struct Swiglu {
    gate: Tensor,
    up: Tensor,
}

impl Op for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn backward(self: Box<Self>, mut grad: Tensor, _needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let dgate = match grad.device() {
            Device::Cpu => {
                let (gate, up) = (self.gate.as_f32("swiglu")?, self.up.as_f32("swiglu")?);
                Tensor::of(cpu::backward(gate, up, grad.make_mut()), self.gate.shape())
            }
            Device::Cuda(gpu) => cuda::backward(gpu, &self.gate, &self.up, &mut grad)?,
        };
        Ok(vec![Some(dgate), Some(grad)])
    }
}
