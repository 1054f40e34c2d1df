//! Some rows of a matrix: row i of y (k, C) is row ids[i] of x (n, C). Backward: dy's rows go back where they came from, and the
//! others get no gradient.

pub(super) mod cpu;
pub(super) mod cuda;
#[cfg(test)]
mod tests;

use crate::cuda::Copied;
use crate::profile::{self, Direction};
use crate::{Device, Error, Op, Result, Tensor, record};
use dora_kernels::Buffer;
use std::sync::Arc;

/// Rows to be picked, each below the next.
#[derive(Debug)]
pub struct RowIds {
    ids: Vec<u32>,
    on_device: Copied<Buffer>,
}

impl RowIds {
    /// Those rows; an error if one is not below the next.
    pub fn new(ids: Vec<u32>) -> Result<Self> {
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
            let found = format!("row {} before row {}, expected rising ones", pair[0], pair[1]);
            return Err(Error::argument("index_select", found));
        }
        Ok(RowIds { ids, on_device: Copied::default() })
    }

    /// Their number.
    pub fn count(&self) -> usize {
        self.ids.len()
    }
}

/// Rows of x (n, C), of which there is one at least, as a matrix of their own.
pub fn index_select(x: &Tensor, rows: &Arc<RowIds>) -> Result<Tensor> {
    let _running = profile::operation("index_select", Direction::Forward);
    let (n, width) = x.dims2("index_select", "x")?;
    match rows.ids.last() {
        Some(&last) if (last as usize) < n => {}
        Some(last) => return Err(Error::argument("index_select", format!("row {last} of {n}"))),
        None => return Err(Error::argument("index_select", "no row, expected at least one")),
    }
    let y = match x.device() {
        Device::Cpu => {
            let picked = cpu::gather(x.as_f32("index_select")?, width, rows.ids.iter().map(|&id| id as usize));
            Tensor::of(picked, &[rows.count(), width])
        }
        Device::Cuda(gpu) => cuda::gather(gpu, x, rows.on(gpu)?, rows.count())?,
    };
    Ok(record(y, &[x], || IndexSelect { rows: rows.clone(), n }))
}

impl RowIds {
    fn on(&self, gpu: crate::Cuda) -> Result<&Buffer> {
        self.on_device.get(gpu, || gpu.words(&self.ids))
    }
}

struct IndexSelect {
    rows: Arc<RowIds>,
    n: usize,
}

impl Op for IndexSelect {
    fn name(&self) -> &'static str {
        "index_select"
    }

    fn backward(self: Box<Self>, grad: Tensor, _needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let (_, width) = grad.dims2("index_select", "dy")?;
        let shape = [self.n, width];
        let dx = match grad.device() {
            Device::Cpu => {
                let mut dx = Tensor::zeros(&shape);
                let ids = self.rows.ids.iter().map(|&id| id as usize);
                cpu::scatter(grad.as_f32("index_select")?, width, ids, dx.make_mut());
                dx
            }
            Device::Cuda(gpu) => {
                let mut dx = gpu.zeros(grad.dtype(), &shape)?;
                cuda::scatter(gpu, &grad, self.rows.on(gpu)?, &mut dx)?;
                dx
            }
        };
        Ok(vec![Some(dx)])
    }
}
