//! AdamW on a device. The settings of a step and the clipping factor are read from its memory.

use super::{AdamW, Update};
use crate::{Cuda, Parameter, Result, Tensor};
use dora_kernels::launch::{self, Gradients, Slot, Slots};
use dora_kernels::{Buffer, Element};

/// Norm of all gradients, clipping factor and sum of the losses (3) in f64; the factor is NaN where norm or loss is not finite.
pub(super) fn clip(gpu: Cuda, losses: &[Tensor], gradients: &[Tensor], most: f64) -> Result<Buffer> {
    let driver = &**gpu.driver();
    let views = gradients.iter().map(|g| g.on(gpu, "clip")).collect::<Result<Vec<_>>>()?;
    let gradients = Gradients::new(gpu.driver(), &views)?;
    let mut parts = Buffer::new(gpu.driver(), Element::F64, gradients.parts())?;
    launch::sum_of_squares(driver, &gradients, parts.view_mut())?;
    let mut passes = Buffer::new(gpu.driver(), Element::F32, losses.len())?;
    for (pass, loss) in losses.iter().enumerate() {
        loss.expect_shape("clip", "loss", &[])?;
        loss.copy_into(&mut passes, pass)?;
    }
    let mut out = Buffer::new(gpu.driver(), Element::F64, 3)?;
    launch::clip(driver, parts.view(), Some(passes.view()), most as f32, out.view_mut())?;
    Ok(out)
}

pub(super) fn update(gpu: Cuda, updates: &mut [Update], clip: &Buffer) -> Result<()> {
    // The few kinds of settings that there are, and which is whose.
    let mut kinds: Vec<AdamW> = Vec::new();
    let kind_of = |settings: AdamW| {
        kinds.iter().position(|kind| *kind == settings).unwrap_or_else(|| {
            kinds.push(settings);
            kinds.len() - 1
        })
    };
    let owns: Vec<usize> = updates.iter().map(|update| update.settings).map(kind_of).collect();
    let words: Vec<u32> = kinds.iter().flat_map(AdamW::factors).map(f32::to_bits).collect();
    let settings = gpu.constant(Element::F32, &words)?;
    let parameters: Vec<&Parameter> = updates.iter().map(|update| update.parameter).collect();
    Parameter::change_together(&parameters, |values| {
        let mut slots = Vec::with_capacity(values.len());
        for ((p, update), settings) in values.into_iter().zip(updates).zip(owns) {
            let Update { gradient, moments, .. } = update;
            let moments = [moments.first.write(gpu, "adamw")?, moments.second.write(gpu, "adamw")?];
            slots.push(Slot { p: p.write(gpu, "adamw")?, g: gradient.on(gpu, "adamw")?, moments, settings });
        }
        let slots = Slots::new(gpu.driver(), slots)?;
        Ok(launch::adamw(&**gpu.driver(), slots, settings.view(), clip.view())?)
    })
}
