//! Cross-entropy on a device. The sum of the losses stays there.

use super::Rows as Labelled;
use crate::cuda::overwrite;
use crate::{Cuda, DType, Result, Tensor};
use dora_kernels::{Buffer, Element, launch};

/// Rows of hidden and their targets.
pub(super) struct Rows {
    pub(super) ids: Buffer,
    targets: Buffer,
}

/// Their copy on the device.
pub(super) fn rows<'a>(gpu: Cuda, labelled: &'a Labelled) -> Result<&'a Rows> {
    labelled.on_device.get(gpu, || {
        let (ids, targets): (Vec<u32>, Vec<u32>) = labelled.pairs.iter().map(|&(r, t)| (r as u32, t as u32)).unzip();
        Ok(Rows { ids: gpu.words(&ids)?, targets: gpu.words(&targets)? })
    })
}

/// Losses of the rows; with `scale`, logits become their gradient times it.
pub(super) fn losses(gpu: Cuda, logits: &mut Tensor, labelled: &Labelled, scale: Option<f32>) -> Result<Tensor> {
    let (driver, targets) = (&**gpu.driver(), rows(gpu, labelled)?.targets.view());
    let mut losses = gpu.room(DType::F32, &[labelled.pairs.len()])?;
    let to = losses.write(gpu, "cross_entropy")?;
    match scale {
        Some(scale) => launch::cross_entropy(driver, logits.write(gpu, "cross_entropy")?, targets, scale, to)?,
        None => launch::cross_entropy_losses(driver, logits.on(gpu, "cross_entropy")?, targets, to)?,
    }
    Ok(losses)
}

/// Sum of all losses over the denominator.
pub(super) fn mean(gpu: Cuda, chunks: &[Tensor], denominator: f32) -> Result<Tensor> {
    let mut sum = gpu.zeros(DType::F32, &[])?;
    let driver = &**gpu.driver();
    for losses in chunks {
        let rows = losses.numel();
        let mut parts = Buffer::new(gpu.driver(), Element::F32, launch::parts_of_rows(rows))?;
        launch::column_parts(driver, losses.on(gpu, "cross_entropy")?, rows, parts.view_mut())?;
        launch::column_sum(driver, parts.view(), true, sum.write(gpu, "cross_entropy")?)?;
    }
    scale(gpu, sum, 1.0 / denominator)
}

/// x times a factor.
pub(super) fn scale(gpu: Cuda, x: Tensor, factor: f32) -> Result<Tensor> {
    overwrite(gpu, "cross_entropy", x, |driver, x, y| launch::scale(driver, x, factor, y))
}
