//! SwiGLU on a device.

use crate::{Cuda, Result, Tensor};
use dora_kernels::launch;

pub(super) fn forward(gpu: Cuda, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let mut y = gpu.room(gate.dtype(), gate.shape())?;
    let (gate, up) = (gate.on(gpu, "swiglu")?, up.on(gpu, "swiglu")?);
    launch::swiglu_forward(&**gpu.driver(), gate, up, y.write(gpu, "swiglu")?)?;
    Ok(y)
}

/// Gives dgate and turns dy into dup.
pub(super) fn backward(gpu: Cuda, gate: &Tensor, up: &Tensor, dy: &mut Tensor) -> Result<Tensor> {
    let mut dgate = gpu.room(gate.dtype(), gate.shape())?;
    let (gate, up) = (gate.on(gpu, "swiglu")?, up.on(gpu, "swiglu")?);
    launch::swiglu_backward(&**gpu.driver(), gate, up, dgate.write(gpu, "swiglu")?, dy.write(gpu, "swiglu")?)?;
    Ok(dgate)
}
