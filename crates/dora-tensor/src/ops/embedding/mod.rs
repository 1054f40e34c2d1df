//! Embedding: row t of y (n, C) is row ids[t] of the table (V, C), stored in any precision.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::profile::{self, Direction};
use crate::{Device, Error, Op, Result, Tensor, record};

/// Rows of `table` (V, C) by token id: (n, C) in `f32`, or in the type of the device's activations.
pub fn embedding(ids: &[u32], table: &Tensor) -> Result<Tensor> {
    let _running = profile::operation("embedding", Direction::Forward);
    let (vocab, width) = table.dims2("embedding", "table")?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        return Err(Error::argument("embedding", format!("token id {id} is beyond the embedding's {vocab} rows")));
    }
    let y = match table.device() {
        Device::Cpu => Tensor::of(cpu::forward(ids, table.elements(), width), &[ids.len(), width]),
        Device::Cuda(gpu) => cuda::forward(gpu, ids, table)?,
    };
    let saved = || Embedding { ids: ids.to_vec(), vocab, width };
    Ok(record(y, &[table], saved))
}

struct Embedding {
    ids: Vec<u32>,
    vocab: usize,
    width: usize,
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn backward(self: Box<Self>, grad: Tensor, _needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let table = match grad.device() {
            Device::Cpu => {
                let table = cpu::backward(&self.ids, grad.as_f32("embedding")?, self.vocab, self.width);
                Tensor::of(table, &[self.vocab, self.width])
            }
            Device::Cuda(gpu) => cuda::backward(gpu, &self.ids, &grad, [self.vocab, self.width])?,
        };
        Ok(vec![Some(table)])
    }
}
