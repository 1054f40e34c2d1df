//! DoRA on a device: the base product, then one pass over y with the low-rank product in it. The backward pass scales dy first, and dz = g ⊙ dy goes through the
//! low-rank update as LoRA's does. Columns whose m is next to 0 are found, and their dm computed from z, by the device.

use super::{Dora, Kept, Norms};
use crate::cuda::{accumulate, product};
use crate::ops::LowRank;
use crate::ops::linear::cuda::row_sum;
use crate::ops::lora::cuda::{Gradients, add_low_rank, compose, expand, gradients};
use crate::{Cuda, DType, Result, Tensor, Weight};
use dora_kernels::launch::{
    self, DoraBackward, DoraColumns, DoraComposeDropout, DoraLayers, DoraMagnitude, DoraNorms, DoraOutput,
};
use dora_kernels::launch::{DoraProjection, dora_backward_projects, dora_strips};
use dora_kernels::{Buffer, Element};

/// A layer's base, update and magnitudes.
pub(super) struct Layer<'a> {
    pub weight: &'a dyn Weight,
    pub update: &'a LowRank,
    pub magnitude: &'a Tensor,
    pub norms: Norms<'a>,
    pub bias: Option<&'a Tensor>,
}

/// Gives y, z̃ with dropout, and the norms. h belongs to the dropped x where there is one.
pub(super) fn forward(
    gpu: Cuda,
    x: &Tensor,
    dropped: Option<&Tensor>,
    h: &Tensor,
    layer: &Layer,
) -> Result<(Tensor, Option<Tensor>, Tensor)> {
    let Layer { weight, update, magnitude, norms, bias } = layer;
    let dtype = x.dtype();
    // Where W has to be widened for the norms, or is multiplied by two inputs, all that reads it reads one copy.
    let several = matches!(norms, Norms::From(_)) || dropped.is_some();
    let w = several.then(|| weight.materialized()).transpose()?;
    let apply = |x: &Tensor| match &w {
        Some(w) => product(gpu, x.plain(), w.transposed(), 1.0, dtype),
        None => weight.apply(x),
    };
    let n = match (norms, &w) {
        (Norms::From(base), Some(w)) => self::norms(gpu, &[(w, update, base)])?.remove(0),
        (Norms::Known(n) | Norms::From(n), _) => (*n).clone(),
    };
    let mut y = apply(x)?;
    let mut z = dropped.map(apply).transpose()?;
    let bias = bias.map(|b| b.on(gpu, "dora")).transpose()?;
    let columns = DoraColumns { m: magnitude.on(gpu, "dora")?, n: n.on(gpu, "dora")?, bias };
    match &mut z {
        None => compose(gpu, update, h, Some(columns), &mut y)?,
        Some(z) => {
            let low = expand(gpu, update, h)?;
            let (low, scaling) = (low.on(gpu, "dora")?, update.scaling);
            let (z, y) = (z.write(gpu, "dora")?, y.write(gpu, "dora")?);
            let operands = DoraComposeDropout { base: None, z, low, scaling, columns, y };
            launch::dora_compose_dropout(&**gpu.driver(), operands)?;
        }
    }
    Ok((y, z, n))
}

/// Norms (out) of the rows of W + sBA of some layers, W in the type of the device's activations, where `base` holds ‖W‖² (out).
pub(super) fn norms(gpu: Cuda, layers: &[(&Tensor, &LowRank, &Tensor)]) -> Result<Vec<Tensor>> {
    let driver = gpu.driver();
    let room = |(_, _, base): &(_, _, &Tensor)| gpu.room(DType::F32, base.shape());
    let mut norms = layers.iter().map(room).collect::<Result<Vec<_>>>()?;
    let operands = layers.iter().zip(&mut norms).map(|((w, update, base), n)| {
        Ok(DoraNorms {
            base: base.on(gpu, "dora")?,
            w: w.on(gpu, "dora")?,
            a: update.a.on(gpu, "dora")?,
            b: update.b.on(gpu, "dora")?,
            scaling: update.scaling,
            n: n.write(gpu, "dora")?,
        })
    });
    let mut table = DoraLayers::new(driver, operands.collect::<Result<_>>()?)?;
    launch::dora_gram(&**driver, &mut table)?;
    launch::dora_norms(&**driver, &mut table)?;
    drop(table);
    Ok(norms)
}

/// Gradients of x, A, B, m and b.
pub(super) fn backward(gpu: Cuda, op: Dora, dy: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
    let Dora { x, h, output, weight, bias, update, magnitude, norms, norm_gradient: _ } = op;
    let (x, w, driver) = (x.get()?, weight.materialized()?, &**gpu.driver());
    let ((rows, width), dtype) = (dy.dims2("dora", "dy")?, dy.dtype());
    let (value, from_output) = match &output {
        Kept::Output(y) => (y.lock().expect("no pass panicked").get()?, true),
        Kept::Dropped(z) => (z.clone(), false),
    };
    // z has no bias in it.
    let bias = bias.filter(|_| from_output);
    let bias = bias.as_ref().map(|b| b.on(gpu, "dora")).transpose()?;
    let columns = DoraColumns { m: magnitude.on(gpu, "dora")?, n: norms.on(gpu, "dora")?, bias };
    let mut dz = gpu.room(dtype, dy.shape())?;
    let mut rest = update.dropout.map(|_| gpu.room(dtype, dy.shape())).transpose()?;
    let rank = update.a.shape()[0];
    let mut dh = dora_backward_projects(rows, rank).then(|| gpu.room(dtype, &[rows, rank])).transpose()?;
    let mut partial = Buffer::new(gpu.driver(), Element::F32, dora_strips(rows) * width)?;
    let operands = DoraBackward {
        dy: Some(dy.on(gpu, "dora")?),
        value: value.on(gpu, "dora")?,
        columns,
        dz: dz.write(gpu, "dora")?,
        rest: rest.as_mut().map(|rest| rest.write(gpu, "dora")).transpose()?,
        partial: partial.view_mut(),
        h: match &mut dh {
            Some(dh) => {
                let (b, scaling) = (update.b.on(gpu, "dora")?, update.scaling);
                Some(DoraProjection { b, rank, scaling, dh: dh.write(gpu, "dora")? })
            }
            None => None,
        },
    };
    launch::dora_backward(driver, operands)?;
    let mut dm = gpu.room(DType::F32, &[width])?;
    let output = match from_output {
        true => Some(DoraOutput {
            dy: dy.on(gpu, "dora")?,
            x: x.on(gpu, "dora")?,
            h: h.on(gpu, "dora")?,
            w: w.on(gpu, "dora")?,
            b: update.b.on(gpu, "dora")?,
            scaling: update.scaling,
        }),
        false => None,
    };
    let operands = DoraMagnitude { partial: partial.view(), columns, output, dm: dm.write(gpu, "dora")? };
    launch::dora_magnitude(driver, operands)?;
    let Gradients { a, b, h: dh } = gradients(gpu, &update, &x, &h, &dz, dh)?;
    let dx = match (needs[0], rest) {
        (false, _) => None,
        (true, None) => {
            let dx = product(gpu, dz.plain(), w.plain(), 1.0, dtype)?;
            Some(add_low_rank(gpu, &update, &dh, dx, None)?)
        }
        (true, Some(rest)) => {
            let dx = product(gpu, dy.plain(), w.plain(), 1.0, dtype)?;
            let through = product(gpu, rest.plain(), w.plain(), 1.0, dtype)?;
            Some(add_low_rank(gpu, &update, &dh, dx, Some(through))?)
        }
    };
    let dbias = needs[4].then(|| row_sum(gpu, &dy)).transpose()?;
    Ok(vec![dx, Some(a), Some(b), Some(dm), dbias])
}

/// w (out, in) of `f32` becomes w + sBA, or g ⊙ (w + sBA) for magnitudes.
pub(super) fn merge(gpu: Cuda, w: &mut Tensor, update: &LowRank, magnitude: Option<&Tensor>) -> Result<()> {
    accumulate(gpu, update.b.plain(), update.a.plain(), update.scaling, w)?;
    if let Some(m) = magnitude {
        m.expect_shape("merge", "magnitude", &w.shape()[..1])?;
        launch::dora_merge(&**gpu.driver(), w.write(gpu, "merge")?, m.on(gpu, "merge")?)?;
    }
    Ok(())
}
