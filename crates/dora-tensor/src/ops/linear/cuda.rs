//! Pieces of linear layers on a device.

use crate::cuda::{overwrite, product};
use crate::{Cuda, DType, Error, Result, Tensor};
use dora_kernels::{Buffer, Element, launch};

/// Every row of y plus b, where there is one.
pub(crate) fn add_bias(gpu: Cuda, y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let Some(bias) = bias else { return Ok(y) };
    let width = y.shape()[1];
    if bias.shape() != [width] {
        return Err(Error::shape("linear", "bias", bias.shape(), format!("(out) = ({width})")));
    }
    let b = bias.on(gpu, "linear")?;
    overwrite(gpu, "linear", y, |driver, x, y| launch::add_row(driver, x, b, y))
}

/// scale · dyᵀ·x in `f32`: (out, in) from (n, out) and (n, in).
pub(crate) fn outer(gpu: Cuda, dy: &Tensor, x: &Tensor, scale: f32) -> Result<Tensor> {
    product(gpu, dy.transposed(), x.plain(), scale, DType::F32)
}

/// Σ_rows dy in `f32`.
pub(crate) fn row_sum(gpu: Cuda, dy: &Tensor) -> Result<Tensor> {
    let (rows, width) = dy.dims2("linear", "dy")?;
    let mut parts = Buffer::new(gpu.driver(), Element::F32, launch::parts_of_rows(rows) * width)?;
    let mut sums = gpu.zeros(DType::F32, &[width])?;
    launch::column_parts(&**gpu.driver(), dy.on(gpu, "linear")?, rows, parts.view_mut())?;
    launch::column_sum(&**gpu.driver(), parts.view(), true, sums.write(gpu, "linear")?)?;
    Ok(sums)
}
