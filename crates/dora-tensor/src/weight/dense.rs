//! A weight stored as it came from the checkpoint (`f32`, `bf16` or `f16`), perhaps straight from the mapped file.

use super::{Weight, elsewhere, row_norms_squared_on_device};
use crate::cpu::{self, Stored, Widen};
use crate::profile;
use crate::{DType, Device, Elements, Result, Tensor};
use std::ops::Range;

/// A dense frozen matrix.
#[derive(Debug, Clone)]
pub struct DenseWeight(Tensor);

impl DenseWeight {
    /// Weight of a matrix (out, in).
    pub fn new(matrix: Tensor) -> Result<Self> {
        matrix.dims2("weight", "matrix")?;
        Ok(DenseWeight(matrix.detach()))
    }

    /// The matrix as stored.
    pub fn stored(&self) -> &Tensor {
        &self.0
    }
}

impl Stored for DenseWeight {
    fn dim(&self) -> (usize, usize) {
        (self.0.shape()[0], self.0.shape()[1])
    }

    fn widen_into(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        let width = self.0.shape()[1];
        profile::bytes(rows.len() * columns.len() * self.0.dtype().size());
        match self.0.elements() {
            Elements::F32(w) => cpu::widen_rectangle(w, width, rows, columns, out),
            Elements::BF16(w) => cpu::widen_rectangle(w, width, rows, columns, out),
            Elements::F16(w) => cpu::widen_rectangle(w, width, rows, columns, out),
        }
    }

    fn in_place(&self) -> Option<&[f32]> {
        match self.0.elements() {
            Elements::F32(w) => Some(w),
            Elements::BF16(_) | Elements::F16(_) => None,
        }
    }
}

impl Weight for DenseWeight {
    fn shape(&self) -> (usize, usize) {
        self.dim()
    }

    fn device(&self) -> Device {
        self.0.device()
    }

    fn stored(&self) -> Result<&dyn Stored> {
        match self.0.device() {
            Device::Cpu => Ok(self),
            found => Err(elsewhere(found, "cpu")),
        }
    }

    fn materialized(&self) -> Result<Tensor> {
        match self.0.device() {
            Device::Cpu => Err(elsewhere(Device::Cpu, "a device")),
            Device::Cuda(gpu) => self.0.cast(gpu.activations()),
        }
    }

    fn resident(&self) -> Option<&Tensor> {
        match self.0.device() {
            Device::Cuda(gpu) if self.0.dtype() == gpu.activations() => Some(&self.0),
            _ => None,
        }
    }

    fn row_norms_squared(&self) -> Result<Tensor> {
        if self.0.device() != Device::Cpu {
            return row_norms_squared_on_device(&self.materialized()?);
        }
        let (out, inner) = self.shape();
        let norms = match self.0.elements() {
            Elements::F32(w) => norms(w, inner, |x| x),
            Elements::BF16(w) => norms(w, inner, Widen::widen),
            Elements::F16(w) => norms(w, inner, Widen::widen),
        };
        Ok(Tensor::of(if inner == 0 { vec![0.0; out] } else { norms }, &[out]))
    }

    fn dense(&self) -> Result<Tensor> {
        self.0.cast(DType::F32)
    }
}

/// Squared row norms, summed in f64: this happens once, when a weight loads.
fn norms<T: Copy + Sync>(w: &[T], inner: usize, widen: impl Fn(T) -> f32 + Sync) -> Vec<f32> {
    let rows = w.len().checked_div(inner).unwrap_or(0);
    let square = |row: &[T]| row.iter().map(|&x| f64::from(widen(x)).powi(2)).sum::<f64>() as f32;
    cpu::map_blocks(rows, inner, |range| range.map(|r| square(&w[r * inner..(r + 1) * inner])).collect::<Vec<_>>())
        .concat()
}
