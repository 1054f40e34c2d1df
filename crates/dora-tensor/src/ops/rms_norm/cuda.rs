//! Root-mean-square norm on a device.

use super::RmsNorm;
use crate::cuda::overwrite;
use crate::{Cuda, DType, Result, Tensor};
use dora_kernels::launch::{self, RmsNormBackward, parts_of_rows};
use dora_kernels::{Buffer, Element};

/// Gives y and rstd.
pub(super) fn forward(gpu: Cuda, x: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
    let mut y = gpu.room(x.dtype(), x.shape())?;
    let mut rstd = gpu.room(DType::F32, &x.shape()[..1])?;
    let operands = launch::RmsNorm {
        x: x.on(gpu, "rms_norm")?,
        residual: None,
        w: weight.on(gpu, "rms_norm")?,
        y: y.write(gpu, "rms_norm")?,
        rstd: rstd.write(gpu, "rms_norm")?,
        eps,
    };
    launch::rms_norm_forward(&**gpu.driver(), operands)?;
    Ok((y, rstd))
}

/// Gradients of x and w.
pub(super) fn backward(gpu: Cuda, op: &RmsNorm, dy: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
    let h = op.x.on(gpu, "rms_norm")?;
    let (w, rstd) = (op.weight.on(gpu, "rms_norm")?, op.rstd.on(gpu, "rms_norm")?);
    let dw = match needs[1] {
        true => {
            let mut parts = Buffer::new(gpu.driver(), Element::F32, parts_of_rows(dy.shape()[0]) * op.weight.numel())?;
            let mut dw = gpu.zeros(DType::F32, op.weight.shape())?;
            let (driver, dy) = (&**gpu.driver(), dy.on(gpu, "rms_norm")?);
            launch::rms_norm_backward_weight(driver, h, rstd, dy, parts.view_mut())?;
            launch::column_sum(driver, parts.view(), true, dw.write(gpu, "rms_norm")?)?;
            Some(dw)
        }
        false => None,
    };
    if !needs[0] {
        return Ok(vec![None, dw]);
    }
    let dx = overwrite(gpu, "rms_norm", dy, |driver, dy, dx| {
        launch::rms_norm_backward(driver, RmsNormBackward { h, w, rstd, dy, skip: None, dx })
    })?;
    Ok(vec![Some(dx), dw])
}
