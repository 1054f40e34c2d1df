//! Rows on a device: the kernel that looks up embeddings picks them.

use crate::{Cuda, Result, Tensor};
use dora_kernels::{Buffer, launch};

/// So many rows of x (n, width), one behind another.
pub(in crate::ops) fn gather(gpu: Cuda, x: &Tensor, ids: &Buffer, count: usize) -> Result<Tensor> {
    let (n, width) = x.dims2("index_select", "x")?;
    let mut picked = gpu.room(x.dtype(), &[count, width])?;
    let to = picked.write(gpu, "index_select")?;
    launch::embedding(&**gpu.driver(), ids.view(), x.on(gpu, "index_select")?, n, to)?;
    Ok(picked)
}

/// Puts rows back where they came from.
pub(in crate::ops) fn scatter(gpu: Cuda, from: &Tensor, ids: &Buffer, to: &mut Tensor) -> Result<()> {
    let (n, from) = (to.shape()[0], from.on(gpu, "index_select")?);
    Ok(launch::scatter_rows(&**gpu.driver(), ids.view(), from, n, to.write(gpu, "index_select")?)?)
}
