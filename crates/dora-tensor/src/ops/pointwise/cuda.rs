//! Pointwise operations on a device.

use super::Pointwise;
use crate::cuda::overwrite;
use crate::{Cuda, Device, Result, Tensor};
use dora_kernels::{Driver, View, ViewMut, launch};

/// Queues y = f(a, b).
pub(super) type Forward = fn(&dyn Driver, Option<View<'_>>, View<'_>, ViewMut<'_>) -> dora_kernels::Result<()>;

/// What dy is multiplied by.
#[derive(Clone, Copy)]
pub(super) enum Partial {
    /// A number.
    Times(f32),
    /// a.
    TimesA,
    /// b.
    TimesB,
}

pub(super) fn forward(gpu: Cuda, row: &Pointwise, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut y = gpu.room(a.dtype(), a.shape())?;
    (row.launch)(&**gpu.driver(), Some(a.on(gpu, row.name)?), b.on(gpu, row.name)?, y.write(gpu, row.name)?)?;
    Ok(y)
}

pub(super) fn backward(gpu: Cuda, partial: Partial, [a, b]: [&Tensor; 2], dy: Tensor) -> Result<Tensor> {
    // The gradient of a loss by itself, 1, comes from the host.
    let dy = dy.to_device(Device::Cuda(gpu))?;
    let other = match partial {
        Partial::Times(factor) => {
            return overwrite(gpu, "scale", dy, |driver, x, y| launch::scale(driver, x, factor, y));
        }
        Partial::TimesA => a.on(gpu, "mul")?,
        Partial::TimesB => b.on(gpu, "mul")?,
    };
    overwrite(gpu, "mul", dy, |driver, x, y| launch::mul(driver, x, other, y))
}
