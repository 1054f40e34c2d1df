//! AdamW on a device. The settings of a step and the clipping factor are read from its memory.

use super::{AdamW, Moments};
use crate::{Cuda, DType, Result, Tensor};
use dora_kernels::{Buffer, Element, launch};

/// Norm of all gradients and clipping factor (2); the factor is NaN where the norm is not finite.
pub(super) fn clip(gpu: Cuda, gradients: &[Tensor], most: f64) -> Result<Tensor> {
    let driver = &**gpu.driver();
    // Parts of two gradients may not share sixteen bytes; what is left over stays 0.
    let room = |g: &Tensor| launch::parts_of_squares(g.numel()).next_multiple_of(2);
    let mut parts = Buffer::zeros(gpu.driver(), Element::F64, gradients.iter().map(room).sum())?;
    let mut start = 0;
    for gradient in gradients {
        let own = start..start + launch::parts_of_squares(gradient.numel());
        launch::sum_of_squares(driver, gradient.on(gpu, "clip")?, parts.view_mut().slice(own))?;
        start += room(gradient);
    }
    let mut out = gpu.room(DType::F32, &[2])?;
    launch::clip(driver, parts.view(), most as f32, out.write(gpu, "clip")?)?;
    Ok(out)
}

pub(super) fn update(
    gpu: Cuda,
    settings: &AdamW,
    clip: &Tensor,
    p: &mut Tensor,
    gradient: &Tensor,
    moments: &mut Moments,
) -> Result<()> {
    let factors = gpu.constant(Element::F32, &settings.factors().map(f32::to_bits))?;
    let (p, g, clip) = (p.write(gpu, "adamw")?, gradient.on(gpu, "adamw")?, clip.on(gpu, "adamw")?);
    let moments = [moments.first.write(gpu, "adamw")?, moments.second.write(gpu, "adamw")?];
    Ok(launch::adamw(&**gpu.driver(), p, g, moments, factors.view(), clip)?)
}
