//! The products of a low-rank update on a device. A and B are parameters of `f32`; products read them in the activations' type.

use super::{Lora, LowRank};
use crate::cuda::{accumulate, product};
use crate::ops::linear::cuda::{add_bias, outer, row_sum};
use crate::{Cuda, Result, Tensor, Weight};
use dora_kernels::launch;

/// h = x̃·Aᵀ.
pub(crate) fn project(gpu: Cuda, update: &LowRank, x: &Tensor) -> Result<Tensor> {
    product(gpu, x.plain(), update.a.cast(x.dtype())?.transposed(), 1.0, x.dtype())
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
    accumulate(gpu, h.plain(), update.b.cast(x.dtype())?.transposed(), update.scaling, &mut y)?;
    add_bias(gpu, y, bias)
}

/// Gradients of x, A, B and b.
pub(super) fn backward(gpu: Cuda, op: Lora, dy: &Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
    let Lora { x, h, weight, update } = op;
    let Gradients { a, b, h: dh } = gradients(gpu, &update, &x.get()?, &h, dy)?;
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

/// Gradients for the gradient dz (n, out) of the update's output.
pub(crate) fn gradients(gpu: Cuda, update: &LowRank, x: &Tensor, h: &Tensor, dz: &Tensor) -> Result<Gradients> {
    let dh = product(gpu, dz.plain(), update.b.cast(dz.dtype())?.plain(), update.scaling, dz.dtype())?;
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
    let a = update.a.cast(dh.dtype())?;
    let Some(mask) = update.dropout else {
        accumulate(gpu, dh.plain(), a.plain(), 1.0, &mut dx)?;
        return Ok(dx);
    };
    let through = match through {
        Some(mut sum) => {
            accumulate(gpu, dh.plain(), a.plain(), 1.0, &mut sum)?;
            sum
        }
        None => product(gpu, dh.plain(), a.plain(), 1.0, dh.dtype())?,
    };
    let dropped = mask.apply(through)?;
    launch::add(&**gpu.driver(), None, dropped.on(gpu, "lora")?, dx.write(gpu, "lora")?)?;
    Ok(dx)
}
