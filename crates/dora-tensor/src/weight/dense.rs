//! A weight stored as it came from the checkpoint (`f32`, `bf16` or `f16`), perhaps straight from the mapped file.

use super::Weight;
use crate::cpu::{self, Half};
use crate::profile;
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

    fn apply_each(&self, xs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (out, inner) = self.shape();
        profile::bytes(self.0.numel() * self.0.dtype().size());
        products(xs, ("x", "in"), inner, out, |xs, ys| match self.0.elements() {
            Elements::F32(w) => {
                let w = matrix(w, (out, inner));
                xs.iter().zip(ys).for_each(|(x, y)| cpu::matmul(*x, w.t(), y, 1.0, 0.0));
            }
            Elements::BF16(w) => cpu::matmul_stored_nt(xs, &matrix(w, (out, inner)), ys),
            Elements::F16(w) => cpu::matmul_stored_nt(xs, &matrix(w, (out, inner)), ys),
        })
    }

    fn apply_transposed_each(&self, dys: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (out, inner) = self.shape();
        profile::bytes(self.0.numel() * self.0.dtype().size());
        products(dys, ("dy", "out"), out, inner, |dys, dxs| match self.0.elements() {
            Elements::F32(w) => {
                let w = matrix(w, (out, inner));
                dys.iter().zip(dxs).for_each(|(dy, dx)| cpu::matmul(*dy, w, dx, 1.0, 0.0));
            }
            Elements::BF16(w) => cpu::matmul_stored_nn(dys, &matrix(w, (out, inner)), dxs),
            Elements::F16(w) => cpu::matmul_stored_nn(dys, &matrix(w, (out, inner)), dxs),
        })
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

/// Checks that every operand is (n, from), and has `f` write the products, (n, to) each.
pub(super) fn products(
    operands: &[&Tensor],
    (operand, dimension): (&'static str, &str),
    from: usize,
    to: usize,
    f: impl FnOnce(&[ArrayView2<f32>], Vec<ArrayViewMut2<f32>>),
) -> Result<Vec<Tensor>> {
    let views = operands.iter().map(|t| t.view2("weight", operand)).collect::<Result<Vec<_>>>()?;
    if let Some(view) = views.iter().find(|v| v.ncols() != from) {
        let expected = format!("(n, {dimension}) = (n, {from})");
        return Err(Error::shape("weight", operand, &[view.nrows(), view.ncols()], expected));
    }
    let mut outputs: Vec<Vec<f32>> = views.iter().map(|v| cpu::buffer(v.nrows() * to)).collect();
    let sized = |(y, x): (_, &ArrayView2<f32>)| ArrayViewMut2::from_shape((x.nrows(), to), y).expect("sized above");
    f(&views, outputs.iter_mut().map(Vec::as_mut_slice).zip(&views).map(sized).collect());
    Ok(outputs.into_iter().zip(&views).map(|(y, x)| Tensor::of(y, &[x.nrows(), to])).collect())
}

fn matrix<T>(elements: &[T], shape: (usize, usize)) -> ArrayView2<'_, T> {
    ArrayView2::from_shape(shape, elements).expect("a weight has as many elements as its shape")
}

/// Squared row norms, summed in f64: this happens once, when a weight loads.
fn norms<T: Copy + Sync>(w: &[T], inner: usize, widen: impl Fn(T) -> f32 + Sync) -> Vec<f32> {
    let rows = w.len().checked_div(inner).unwrap_or(0);
    let square = |row: &[T]| row.iter().map(|&x| f64::from(widen(x)).powi(2)).sum::<f64>() as f32;
    cpu::map_blocks(rows, inner, |range| range.map(|r| square(&w[r * inner..(r + 1) * inner])).collect::<Vec<_>>())
        .concat()
}
