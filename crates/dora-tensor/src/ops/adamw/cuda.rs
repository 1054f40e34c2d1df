//! AdamW on a device. The settings of a step and the clipping factor are read from its memory.

use super::{AdamW, Moments};
use crate::{Cuda, Result, Tensor};
use dora_kernels::{Buffer, Element, launch};

/// Norm of all gradients, clipping factor and sum of the losses (3) in f64; the factor is NaN where norm or loss is not finite.
pub(super) fn clip(gpu: Cuda, losses: &[Tensor], gradients: &[Tensor], most: f64) -> Result<Buffer> {
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
    let mut passes = Buffer::new(gpu.driver(), Element::F32, losses.len())?;
    for (pass, loss) in losses.iter().enumerate() {
        loss.expect_shape("clip", "loss", &[])?;
        loss.copy_into(&mut passes, pass)?;
    }
    let mut out = Buffer::new(gpu.driver(), Element::F64, 3)?;
    launch::clip(driver, parts.view(), Some(passes.view()), most as f32, out.view_mut())?;
    Ok(out)
}

pub(super) fn update(
    gpu: Cuda,
    settings: &AdamW,
    clip: &Buffer,
    p: &mut Tensor,
    gradient: &Tensor,
    moments: &mut Moments,
) -> Result<()> {
    let factors = gpu.constant(Element::F32, &settings.factors().map(f32::to_bits))?;
    let (p, g) = (p.write(gpu, "adamw")?, gradient.on(gpu, "adamw")?);
    let moments = [moments.first.write(gpu, "adamw")?, moments.second.write(gpu, "adamw")?];
    Ok(launch::adamw(&**gpu.driver(), p, g, moments, factors.view(), clip.view())?)
}
