//! LoRA (Hu et al., 2021): y (n, out) = x·Wᵀ + s·h·Bᵀ + b with h (n, r) = x̃·Aᵀ, x̃ (n, in) = dropout(x), A (r, in),
//! B (out, r) over a frozen W (out, in). B·A is never formed, and of x̃ only x is kept: the mask is drawn again.
//! Backward: dh = s·dy·B, dB = s·dyᵀ·h, dA = dhᵀ·x̃, dx = dy·W + dropout(dh·A), db = Σ_rows dy.

#[cfg(test)]
pub(crate) mod tests;

use super::Dropout;
use super::linear::{add_bias, cpu};
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
    let mut y = weight.apply(x)?;
    let h = update.project(&update.drop(x)?)?;
    update.expand(&h, &mut y)?;
    add_bias(&mut y, bias)?;
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
        let mut dx = needs[0].then(|| self.weight.apply_transposed(&grad)).transpose()?;
        let (da, db) = self.update.backward(&self.x.get()?, &self.h, &grad, dx.as_mut())?;
        let dbias = needs[3].then(|| cpu::row_sum(&grad)).transpose()?;
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
            Device::Cpu => cpu::product(x.view2("lora", "x")?, self.a.view2("lora", "A")?.t(), 1.0),
        }
    }

    /// y += s·h·Bᵀ.
    pub(super) fn expand(&self, h: &Tensor, y: &mut Tensor) -> Result<()> {
        match h.device() {
            Device::Cpu => cpu::accumulate(h.view2("lora", "h")?, self.b.view2("lora", "B")?.t(), y, self.scaling),
        }
    }

    /// Gives dA and dB for the gradient dz (n, out) of the update's output, and adds the update's part to dx.
    pub(super) fn backward(
        &self,
        x: &Tensor,
        h: &Tensor,
        dz: &Tensor,
        dx: Option<&mut Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        match dz.device() {
            Device::Cpu => {
                let db = cpu::outer(dz, h, self.scaling)?;
                let dh = cpu::product(dz.view2("lora", "dz")?, self.b.view2("lora", "B")?, self.scaling)?;
                let da = cpu::outer(&dh, &self.drop(x)?, 1.0)?;
                match (dx, self.dropout) {
                    (None, _) => {}
                    (Some(dx), None) => {
                        cpu::accumulate(dh.view2("lora", "dh")?, self.a.view2("lora", "A")?, dx, 1.0)?;
                    }
                    (Some(dx), Some(mask)) => {
                        let part = cpu::product(dh.view2("lora", "dh")?, self.a.view2("lora", "A")?, 1.0)?;
                        crate::cpu::add_assign(dx.make_mut(), mask.apply(part)?.as_f32("lora")?);
                    }
                }
                Ok((da, db))
            }
        }
    }
}
