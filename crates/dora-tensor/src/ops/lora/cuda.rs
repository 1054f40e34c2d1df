//! The products of a low-rank update on a device. A and B are parameters of `f32`; products read them in the activations' type.

use super::{Lora, LowRank};
use crate::cuda::product;
use crate::ops::linear::cuda::{add_bias, outer, row_sum};
use crate::{Cuda, Result, Tensor, Weight};
use dora_kernels::launch::{self, DoraColumns, LowRankBase, LowRankCompose, LowRankFactor, LowRankProject};

impl LowRank {
    fn rank(&self) -> usize {
        self.a.shape()[0]
    }

    fn a(&self, gpu: Cuda) -> Result<LowRankFactor<'_>> {
        Ok(LowRankFactor::A(self.a.on(gpu, "lora")?))
    }

    fn b(&self, gpu: Cuda) -> Result<LowRankFactor<'_>> {
        Ok(LowRankFactor::B(self.b.on(gpu, "lora")?))
    }
}

/// h = x̃·Aᵀ.
pub(crate) fn project(gpu: Cuda, update: &LowRank, x: &Tensor) -> Result<Tensor> {
    onto_rank(gpu, update, x, update.a(gpu)?, 1.0)
}

fn onto_rank(gpu: Cuda, update: &LowRank, x: &Tensor, factor: LowRankFactor, scaling: f32) -> Result<Tensor> {
    let mut h = gpu.room(x.dtype(), &[x.shape()[0], update.rank()])?;
    let (x, to) = (x.on(gpu, "lora")?, h.write(gpu, "lora")?);
    launch::low_rank_project(&**gpu.driver(), LowRankProject { x, factor, rank: update.rank(), scaling, h: to })?;
    Ok(h)
}

/// y becomes g ⊙ (y + s·h·Bᵀ) + b; without columns g is 1 and b is 0.
pub(crate) fn compose(
    gpu: Cuda,
    update: &LowRank,
    h: &Tensor,
    columns: Option<DoraColumns>,
    y: &mut Tensor,
) -> Result<()> {
    add(gpu, h, (update.b(gpu)?, update.rank()), update.scaling, columns, (LowRankBase::Own, y))
}

/// h·Bᵀ.
pub(crate) fn expand(gpu: Cuda, update: &LowRank, h: &Tensor) -> Result<Tensor> {
    let mut low = gpu.room(h.dtype(), &[h.shape()[0], update.b.shape()[0]])?;
    add(gpu, h, (update.b(gpu)?, update.rank()), 1.0, None, (LowRankBase::Zero, &mut low))?;
    Ok(low)
}

fn add(
    gpu: Cuda,
    h: &Tensor,
    (factor, rank): (LowRankFactor, usize),
    scaling: f32,
    columns: Option<DoraColumns>,
    (z, y): (LowRankBase, &mut Tensor),
) -> Result<()> {
    let (h, y) = (h.on(gpu, "lora")?, y.write(gpu, "lora")?);
    Ok(launch::low_rank_compose(&**gpu.driver(), LowRankCompose { z, h, factor, rank, scaling, columns, y })?)
}

/// y = x·Wᵀ + s·h·Bᵀ + b.
pub(super) fn forward(
    gpu: Cuda,
    x: &Tensor,
    weight: &dyn Weight,
    update: &LowRank,
    h: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let mut y = weight.apply(x)?;
    compose(gpu, update, h, None, &mut y)?;
    add_bias(gpu, y, bias)
}

/// Gradients of x, A, B and b.
pub(super) fn backward(gpu: Cuda, op: Lora, dy: &Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
    let Lora { x, h, weight, update } = op;
    let Gradients { a, b, h: dh } = gradients(gpu, &update, &x.get()?, &h, dy, None)?;
    let dx = match needs[0] {
        true => {
            let dx = product(gpu, dy.plain(), weight.materialized()?.plain(), 1.0, dy.dtype())?;
            Some(add_low_rank(gpu, &update, &dh, dx, None)?)
        }
        false => None,
    };
    let dbias = needs[3].then(|| row_sum(gpu, dy)).transpose()?;
    Ok(vec![dx, Some(a), Some(b), dbias])
}

/// Gradients of a low-rank update.
pub(crate) struct Gradients {
    /// dA, in `f32`.
    pub a: Tensor,
    /// dB, in `f32`.
    pub b: Tensor,
    /// dh.
    pub h: Tensor,
}

/// Gradients for the gradient dz (n, out) of the update's output; dh where it is known already.
pub(crate) fn gradients(
    gpu: Cuda,
    update: &LowRank,
    x: &Tensor,
    h: &Tensor,
    dz: &Tensor,
    dh: Option<Tensor>,
) -> Result<Gradients> {
    let dh = match dh {
        Some(dh) => dh,
        None => onto_rank(gpu, update, dz, update.b(gpu)?, update.scaling)?,
    };
    let dropped = update.dropped(x)?;
    let a = outer(gpu, &dh, dropped.as_ref().unwrap_or(x), 1.0)?;
    Ok(Gradients { a, b: outer(gpu, dz, h, update.scaling)?, h: dh })
}

/// dx + dh·A or, with dropout, dx + dropout(through + dh·A); `through` is what else goes back through dropout.
pub(crate) fn add_low_rank(
    gpu: Cuda,
    update: &LowRank,
    dh: &Tensor,
    mut dx: Tensor,
    through: Option<Tensor>,
) -> Result<Tensor> {
    let a = (update.a(gpu)?, update.rank());
    let Some(mask) = update.dropout else {
        add(gpu, dh, a, 1.0, None, (LowRankBase::Own, &mut dx))?;
        return Ok(dx);
    };
    let through = match through {
        Some(mut sum) => {
            add(gpu, dh, a, 1.0, None, (LowRankBase::Own, &mut sum))?;
            sum
        }
        None => {
            let mut through = gpu.room(dx.dtype(), dx.shape())?;
            add(gpu, dh, a, 1.0, None, (LowRankBase::Zero, &mut through))?;
            through
        }
    };
    let dropped = mask.apply(through)?;
    launch::add(&**gpu.driver(), None, dropped.on(gpu, "lora")?, dx.write(gpu, "lora")?)?;
    Ok(dx)
}
