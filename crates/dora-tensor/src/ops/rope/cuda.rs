//! Rotary embedding on a device.

use super::{Positions, RopeTable};
use crate::cuda::overwrite;
use crate::{Cuda, Result, Tensor};
use dora_kernels::launch::{self, Angles};

pub(super) fn turn(gpu: Cuda, x: Tensor, positions: &Positions, table: &RopeTable, direction: f32) -> Result<Tensor> {
    let of_rows = positions.on_device.get(gpu, || gpu.words(&positions.of_rows))?.view();
    let (cosines, sines) = (table.cos.on(gpu, "rope")?, table.sin.on(gpu, "rope")?);
    let angles = Angles { cosines, sines, half: table.half };
    overwrite(gpu, "rope", x, |driver, x, y| launch::rope(driver, x, of_rows, angles, direction, y))
}
