//! LoRA (Hu et al., 2021): y (n, out) = x·Wᵀ + s·h·Bᵀ + b with h (n, r) = x̃·Aᵀ, x̃ (n, in) = dropout(x), A (r, in),
//! B (out, r) over a frozen W (out, in). B·A is never formed, and of x̃ only x is kept: the mask is drawn again.
//! Backward: dh = s·dy·B, dB = s·dyᵀ·h, dA = dhᵀ·x̃, dx = dy·W + dropout(dh·A), db = Σ_rows dy.

pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use super::Dropout;
use super::linear::{self, cpu::row_sum};
use crate::profile::{self, Direction};
use crate::saved::Saved;
use crate::{Device, Error, Op, Result, Tensor, Weight, record};
use std::sync::Arc;

/// The update s·B·A of a frozen weight, and the dropout in front of it.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// A (r, in).
    pub a: Tensor,
    /// B (out, r).
    pub b: Tensor,
    /// s.
    pub scaling: f32,
    /// Dropout of the update's input, in training.
    pub dropout: Option<Dropout>,
}

/// x·Wᵀ + s·dropout(x)·Aᵀ·Bᵀ + b.
pub fn lora_linear(x: &Tensor, weight: &Arc<dyn Weight>, bias: Option<&Tensor>, update: &LowRank) -> Result<Tensor> {
    let _running = profile::operation("lora", Direction::Forward);
    update.check(weight.shape())?;
    x.rows_of("x", "in", weight.shape().1)?;
    let dropped = update.dropped(x)?;
    let (y, h) = match x.device() {
        Device::Cpu => {
            cpu::forward(x, dropped.as_ref(), weight.stored()?, update, linear::bias(bias, weight.shape().0)?)?
        }
        Device::Cuda(gpu) => {
            let h = cuda::project(gpu, update, dropped.as_ref().unwrap_or(x))?;
            (cuda::forward(gpu, x, &**weight, update, &h, bias)?, h)
        }
    };
    let none = Tensor::zeros(&[0]);
    let saved = || Lora { x: x.saved(), h, weight: weight.clone(), update: update.detach() };
    Ok(record(y, &[x, &update.a, &update.b, bias.unwrap_or(&none)], saved))
}

struct Lora {
    x: Saved,
    h: Tensor,
    weight: Arc<dyn Weight>,
    update: LowRank,
}

impl Op for Lora {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn backward(self: Box<Self>, grad: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        if let Device::Cuda(gpu) = grad.device() {
            return cuda::backward(gpu, *self, &grad, needs);
        }
        let weight = needs[0].then(|| self.weight.stored()).transpose()?;
        let back = cpu::backward(&self.update, &self.x.get()?, &self.h, &grad, None, weight, None)?;
        let dbias = needs[3].then(|| row_sum(&grad)).transpose()?;
        Ok(vec![back.dx, Some(back.da), Some(back.db), dbias])
    }
}

impl LowRank {
    /// Fails unless A and B fit a weight (out, in).
    pub(super) fn check(&self, (out, inner): (usize, usize)) -> Result<()> {
        let (rank, _) = self.a.dims2("lora", "A")?;
        if rank == 0 {
            return Err(Error::shape("lora", "A", self.a.shape(), "(r, in) with r at least 1"));
        }
        self.a.expect_shape("lora", "A", &[rank, inner])?;
        self.b.expect_shape("lora", "B", &[out, rank])
    }

    pub(super) fn detach(&self) -> Self {
        LowRank { a: self.a.detach(), b: self.b.detach(), ..self.clone() }
    }

    /// x̃, with dropout.
    pub(super) fn dropped(&self, x: &Tensor) -> Result<Option<Tensor>> {
        self.dropout.map(|mask| mask.apply(x.detach())).transpose()
    }
}
