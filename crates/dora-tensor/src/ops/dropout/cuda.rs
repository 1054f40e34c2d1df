//! Dropout on a device. Seed and step are read from device memory, where all layers of a pass share them.

use crate::cuda::overwrite;
use crate::rng::Stream;
use crate::{Cuda, Result, Tensor};
use dora_kernels::{Element, launch};

pub(super) fn apply(gpu: Cuda, x: Tensor, p: f32, stream: Stream) -> Result<Tensor> {
    let Stream { seed, step, op } = stream;
    let address = gpu.constant(Element::U32, &[seed as u32, (seed >> 32) as u32, step as u32, (step >> 32) as u32])?;
    overwrite(gpu, "dropout", x, |driver, x, y| launch::dropout(driver, x, p, address.view(), op, y))
}
