//! Embedding on a device: gather, and sums by token in the order of the rows.

use crate::{Cuda, DType, Result, Tensor};
use dora_kernels::launch::{self, RowsById};

pub(super) fn forward(gpu: Cuda, ids: &[u32], table: &Tensor) -> Result<Tensor> {
    let (vocab, width) = table.dims2("embedding", "table")?;
    let mut y = gpu.room(gpu.activations(), &[ids.len(), width])?;
    let (ids, table) = (gpu.words(ids)?, table.on(gpu, "embedding")?);
    launch::embedding(&**gpu.driver(), ids.view(), table, vocab, y.write(gpu, "embedding")?)?;
    Ok(y)
}

/// Gradient of the table, in `f32`.
pub(super) fn backward(gpu: Cuda, ids: &[u32], dy: &Tensor, shape: [usize; 2]) -> Result<Tensor> {
    let mut table = gpu.zeros(DType::F32, &shape)?;
    let rows = RowsById::new(gpu.driver(), ids)?;
    let to = table.write(gpu, "embedding")?;
    launch::embedding_backward(&**gpu.driver(), &rows, dy.on(gpu, "embedding")?, shape[0], to)?;
    Ok(table)
}
