//! A weight stored as it came from the checkpoint (`f32`, `bf16` or `f16`), perhaps straight from the mapped file.

use super::Weight;
use crate::cpu::{self, Half};
use crate::{DType, Elements, Error, Result, Tensor};
use ndarray::{ArrayView2, ArrayViewMut2};

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

impl Weight for DenseWeight {
    fn shape(&self) -> (usize, usize) {
        (self.0.shape()[0], self.0.shape()[1])
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (out, inner) = self.shape();
        let x = x.view2("weight", "x")?;
        if x.ncols() != inner {
            return Err(Error::shape("weight", "x", &[x.nrows(), x.ncols()], format!("(n, in) = (n, {inner})")));
        }
        let mut y = vec![0.0; x.nrows() * out];
        let view = ArrayViewMut2::from_shape((x.nrows(), out), &mut y).expect("sized above");
        match self.0.elements() {
            Elements::F32(w) => cpu::matmul(x, matrix(w, (out, inner)).t(), view, 1.0, 0.0),
            Elements::BF16(w) => cpu::matmul_half_nt(x, matrix(w, (out, inner)), view),
            Elements::F16(w) => cpu::matmul_half_nt(x, matrix(w, (out, inner)), view),
        }
        Ok(Tensor::of(y, &[x.nrows(), out]))
    }

    fn apply_transposed(&self, dy: &Tensor) -> Result<Tensor> {
        let (out, inner) = self.shape();
        let dy = dy.view2("weight", "dy")?;
        if dy.ncols() != out {
            return Err(Error::shape("weight", "dy", &[dy.nrows(), dy.ncols()], format!("(n, out) = (n, {out})")));
        }
        let mut dx = vec![0.0; dy.nrows() * inner];
        let view = ArrayViewMut2::from_shape((dy.nrows(), inner), &mut dx).expect("sized above");
        match self.0.elements() {
            Elements::F32(w) => cpu::matmul(dy, matrix(w, (out, inner)), view, 1.0, 0.0),
            Elements::BF16(w) => cpu::matmul_half_nn(dy, matrix(w, (out, inner)), view),
            Elements::F16(w) => cpu::matmul_half_nn(dy, matrix(w, (out, inner)), view),
        }
        Ok(Tensor::of(dx, &[dy.nrows(), inner]))
    }

    fn row_norms_squared(&self) -> Result<Tensor> {
        let (out, inner) = self.shape();
        let norms = match self.0.elements() {
            Elements::F32(w) => norms(w, inner, |x| x),
            Elements::BF16(w) => norms(w, inner, Half::widen),
            Elements::F16(w) => norms(w, inner, Half::widen),
        };
        Ok(Tensor::of(if inner == 0 { vec![0.0; out] } else { norms }, &[out]))
    }

    fn dense(&self) -> Result<Tensor> {
        Ok(self.0.to_dtype(DType::F32))
    }
}

fn matrix<T>(elements: &[T], shape: (usize, usize)) -> ArrayView2<'_, T> {
    ArrayView2::from_shape(shape, elements).expect("a weight has as many elements as its shape")
}

/// Squared row norms, summed in f64: this happens once, when a weight loads.
fn norms<T: Copy + Sync>(w: &[T], inner: usize, widen: impl Fn(T) -> f32 + Sync) -> Vec<f32> {
    let rows = if inner == 0 { 0 } else { w.len() / inner };
    let square = |row: &[T]| row.iter().map(|&x| f64::from(widen(x)).powi(2)).sum::<f64>() as f32;
    cpu::map_blocks(rows, inner, |range| range.map(|r| square(&w[r * inner..(r + 1) * inner])).collect::<Vec<_>>()).concat()
}
