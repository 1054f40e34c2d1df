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
    let h = update.project(&update.drop(x)?)?;
    let y = match x.device() {
        Device::Cpu => {
            cpu::forward(x, weight.stored()?, &update.expansion(&h)?, linear::bias(bias, weight.shape().0)?)?
        }
        Device::Cuda(gpu) => cuda::forward(gpu, x, &**weight, update, &h, bias)?,
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
        let (da, db, dh) = self.update.backward(&self.x.get()?, &self.h, &grad, None)?;
        let dx = needs[0].then(|| self.update.input_gradient(&*self.weight, &grad, &dh, None)).transpose()?;
        let dbias = needs[3].then(|| row_sum(&grad)).transpose()?;
        Ok(vec![dx, Some(da), Some(db), dbias])
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

    /// x̃.
    pub(super) fn drop(&self, x: &Tensor) -> Result<Tensor> {
        match self.dropout {
            Some(mask) => mask.apply(x.detach()),
            None => Ok(x.detach()),
        }
    }

    /// h = x̃·Aᵀ.
    pub(super) fn project(&self, x: &Tensor) -> Result<Tensor> {
        match x.device() {
            Device::Cpu => linear::cpu::product(x.view2("lora", "x")?, self.a.view2("lora", "A")?.t(), 1.0),
            Device::Cuda(gpu) => cuda::project(gpu, self, x),
        }
    }

    /// s·h·Bᵀ, not computed yet.
    pub(super) fn expansion<'a>(&'a self, h: &'a Tensor) -> Result<cpu::Expansion<'a>> {
        Ok(cpu::Expansion::new(h.view2("lora", "h")?, self.b.view2("lora", "B")?, self.scaling))
    }

    /// On the CPU: gives dA, dB and dh for the gradient dz (n, out) of the update's output, where dz = gain ⊙ dy (or dy).
    pub(super) fn backward(
        &self,
        x: &Tensor,
        h: &Tensor,
        dy: &Tensor,
        gain: Option<&[f32]>,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let mut db = linear::cpu::outer(dy, h, self.scaling)?;
        let mut b = self.b.detach();
        if let Some(gain) = gain {
            crate::cpu::scale_each_row(linear::cpu::matrix(&mut db), gain);
            crate::cpu::scale_each_row(linear::cpu::matrix(&mut b), gain);
        }
        let dh = linear::cpu::product(dy.view2("lora", "dy")?, b.view2("lora", "B")?, self.scaling)?;
        let da = linear::cpu::outer(&dh, &self.drop(x)?, 1.0)?;
        Ok((da, db, dh))
    }

    /// On the CPU: dx = dz·W + dh·A for dz = gain ⊙ dy (or dy). With dropout: dy·W + dropout(((gain − 1) ⊙ dy)·W + dh·A).
    pub(super) fn input_gradient(
        &self,
        weight: &dyn Weight,
        dy: &Tensor,
        dh: &Tensor,
        gain: Option<&[f32]>,
    ) -> Result<Tensor> {
        match self.dropout {
            None => cpu::input_gradient(weight.stored()?, dy, dh, &self.a, gain),
            Some(mask) => {
                let (mut dx, through) = cpu::dropped_input_gradient(weight.stored()?, dy, dh, &self.a, gain)?;
                crate::cpu::add_assign(dx.make_mut(), mask.apply(through)?.as_f32("lora")?);
                Ok(dx)
            }
        }
    }
}
