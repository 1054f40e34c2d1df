//! DoRA (Liu et al., 2024): y (n, out) = g ⊙ z + b, z = x·Wᵀ + s·h·Bᵀ, h (n, r) = x·Aᵀ, g = m/‖W + sBA‖ per output row,
//! over a frozen W (out, in); W + sBA is never formed (`norms.rs`). The norm counts as a constant (paper, §4.3), or not
//! (`exact.rs`). With dropout x̃ of the update's input (as PEFT): y = x·Wᵀ + (g − 1) ⊙ x̃·Wᵀ + g ⊙ s·x̃·Aᵀ·Bᵀ + b.
//!
//! Backward: dz = g ⊙ dy goes through the low-rank update as in LoRA; dx = dz·W + dh·A. Without dropout
//! dm = Σ_rows dy ⊙ (y − b)/m needs only the output, which is kept instead of z; where an m is next to 0, z is computed
//! again. With dropout z̃ = x̃·Wᵀ + s·x̃·Aᵀ·Bᵀ is kept: dm = Σ_rows dy ⊙ z̃/n, dx = dy·W + dropout(((g − 1) ⊙ dy)·W + dh·A).
//!
//! A row of norm 0 has g = 1, and its m no gradient.

pub(crate) mod cpu;
mod cuda;
mod exact;
mod merge;
mod norms;
#[cfg(test)]
mod tests;

pub use merge::merged;
use norms::Terms;
pub use norms::{NormsOf, dora_norms, dora_norms_together};

use super::LowRank;
use super::linear::{self, cpu::row_sum};
use super::lora::cpu::{Expansion, Gradients, backward, combined};
use crate::cpu::{Dots, buffer};
use crate::profile::{self, Direction};
use crate::saved::Saved;
use crate::tensor::Output;
use crate::{Device, Error, Op, Result, Tensor, Weight, record};
use std::sync::{Arc, Mutex};

/// Where the row norms of W + sBA come from.
#[derive(Debug, Clone, Copy)]
pub enum Norms<'a> {
    /// Computed before, and good as long as A and B stay.
    Known(&'a Tensor),
    /// To be computed in the same pass over W; holds ‖W‖² (out).
    From(&'a Tensor),
}

/// What the backward pass takes the norms for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormGradient {
    /// Constants, as in the paper (§4.3) and PEFT.
    Detached,
    /// Functions of A and B; on the CPU only.
    Exact,
}

/// y as above for magnitudes m (out), and the norms used (out), which count as constants.
pub fn dora_linear(
    x: &Tensor,
    weight: &Arc<dyn Weight>,
    bias: Option<&Tensor>,
    update: &LowRank,
    magnitude: &Tensor,
    norms: Norms,
) -> Result<(Tensor, Tensor)> {
    dora_linear_with(x, weight, bias, update, magnitude, norms, NormGradient::Detached)
}

/// [`dora_linear`] with a choice of the norms' gradient.
pub fn dora_linear_with(
    x: &Tensor,
    weight: &Arc<dyn Weight>,
    bias: Option<&Tensor>,
    update: &LowRank,
    magnitude: &Tensor,
    norms: Norms,
    norm_gradient: NormGradient,
) -> Result<(Tensor, Tensor)> {
    if norm_gradient == NormGradient::Exact && x.device() != Device::Cpu {
        let device = x.device();
        return Err(Error::Device(format!("{device} has no exact gradient of DoRA's norm, expected the CPU for it")));
    }
    let _running = profile::operation("dora", Direction::Forward);
    let (out, inner) = weight.shape();
    update.check(weight.shape())?;
    x.rows_of("x", "in", inner)?;
    magnitude.expect_shape("dora", "magnitude", &[out])?;
    let dropped = update.dropped(x)?;
    let (y, saved_z, n, h) = match x.device() {
        Device::Cpu => {
            let norms = match norms {
                Norms::Known(n) => {
                    n.expect_shape("dora", "norms", &[out])?;
                    cpu::Norms::Known(n.as_f32("dora")?)
                }
                Norms::From(base) => cpu::Norms::From(Box::new(Terms::new(update, base, out)?)),
            };
            let bias = linear::bias(bias, out)?;
            let layer = cpu::Layer { weight: weight.stored()?, m: magnitude.as_f32("dora")?, norms, bias };
            cpu::forward(x, dropped.as_ref(), &layer, update)?
        }
        Device::Cuda(gpu) => {
            let layer = cuda::Layer { weight: &**weight, update, magnitude, norms, bias };
            let h = super::lora::cuda::project(gpu, update, dropped.as_ref().unwrap_or(x))?;
            let (y, z, n) = cuda::forward(gpu, x, dropped.as_ref(), &h, &layer)?;
            (y, z, n, h)
        }
    };
    let none = Tensor::zeros(&[0]);
    let without_dropout = saved_z.is_none();
    let output = Arc::new(Mutex::new(Saved::Kept(y.clone())));
    let kept = output.clone();
    let saved = || Dora {
        x: x.saved(),
        h,
        output: saved_z.map_or(Kept::Output(kept), Kept::Dropped),
        weight: weight.clone(),
        bias: bias.map(Tensor::detach),
        update: update.detach(),
        magnitude: magnitude.detach(),
        norms: n.clone(),
        norm_gradient,
    };
    let y = record(y, &[x, &update.a, &update.b, magnitude, bias.unwrap_or(&none)], saved);
    Ok((if without_dropout { y.with_output(output) } else { y }, n.clone()))
}

/// What the gradient of m is computed from.
enum Kept {
    /// y, or how it can be computed again.
    Output(Output),
    /// z̃, with dropout.
    Dropped(Tensor),
}

struct Dora {
    x: Saved,
    h: Tensor,
    output: Kept,
    weight: Arc<dyn Weight>,
    bias: Option<Tensor>,
    update: LowRank,
    magnitude: Tensor,
    norms: Tensor,
    norm_gradient: NormGradient,
}

/// On the CPU: dm = Σ_rows dy ⊙ (of − before − less)/by.
struct Magnitude<'a> {
    of: Tensor,
    before: Option<Tensor>,
    less: Option<&'a [f32]>,
    by: &'a [f32],
}

impl Dora {
    fn magnitude(&self) -> Result<Magnitude<'_>> {
        let (m, n) = (self.magnitude.as_f32("dora")?, self.norms.as_f32("dora")?);
        let of = match &self.output {
            Kept::Dropped(z) => z.clone(),
            Kept::Output(_) if cpu::vanishes(m, n) => {
                let x = self.x.get()?;
                let low = Expansion::new(&self.update, &self.h)?;
                combined(x.view2("dora", "x")?, self.weight.stored()?, &low, None)
            }
            Kept::Output(y) => {
                let less = self.bias.as_ref().map(|b| b.as_f32("dora")).transpose()?;
                let (of, before) = y.lock().expect("no pass panicked").terms()?;
                return Ok(Magnitude { of, before, less, by: m });
            }
        };
        Ok(Magnitude { of, before: None, less: None, by: n })
    }
}

impl Op for Dora {
    fn name(&self) -> &'static str {
        "dora"
    }

    fn backward(self: Box<Self>, grad: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        if let Device::Cuda(gpu) = grad.device() {
            return cuda::backward(gpu, *self, grad, needs);
        }
        let exact = self.norm_gradient == NormGradient::Exact;
        let (m, norms) = (self.magnitude.as_f32("dora")?, self.norms.as_f32("dora")?);
        let magnitude = (needs[3] || exact).then(|| self.magnitude()).transpose()?;
        let mut sums = buffer(if magnitude.is_some() { m.len() } else { 0 });
        let dots = match &magnitude {
            Some(Magnitude { of, before, less, .. }) => {
                let before = before.as_ref().map(|before| before.view2("dora", "y")).transpose()?;
                Some(Dots { y: of.view2("dora", "y")?, before, less: *less, sums: &mut sums })
            }
            None => None,
        };
        let gain = cpu::gain(m, norms);
        let weight = needs[0].then(|| self.weight.stored()).transpose()?;
        let back = backward(&self.update, &self.x.get()?, &self.h, &grad, Some(&gain), weight, dots)?;
        let Gradients { dx, mut da, mut db } = back;
        let dm = magnitude.map(|magnitude| cpu::magnitude_gradient(sums, magnitude.by, norms));
        let dbias = needs[4].then(|| row_sum(&grad)).transpose()?;
        if let Some(dm) = dm.as_ref().filter(|_| exact) {
            exact::add_norm_gradient((&mut da, &mut db), &*self.weight, &self.update, dm, &gain, norms)?;
        }
        Ok(vec![dx, Some(da), Some(db), dm, dbias])
    }
}
