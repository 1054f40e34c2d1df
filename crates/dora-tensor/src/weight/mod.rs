//! A frozen matrix, seen only through its products: precision and layout are its own affair.

mod dense;
mod nf4;

pub use dense::DenseWeight;
pub use nf4::{Nf4Options, Nf4Parts, Nf4Scales, Nf4Weight, QUANT_MAP, nested_quant_map};

use crate::cpu::{self, Stored};
use crate::{Error, Result, Tensor};
use ndarray::ArrayViewMut2;
use std::fmt;

/// A frozen matrix W (out, in). Its product never includes a bias, and nothing here is recorded on the tape.
pub trait Weight: Send + Sync + fmt::Debug {
    /// (out, in).
    fn shape(&self) -> (usize, usize);

    /// W as products on the CPU read it, a panel at a time.
    fn stored(&self) -> &dyn Stored;

    /// (out): Σ over in of W², tiled, never dense.
    fn row_norms_squared(&self) -> Result<Tensor>;

    /// W itself in `f32`, for merging and tests only.
    fn dense(&self) -> Result<Tensor>;

    /// (n, in) → (n, out): x·Wᵀ.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (out, inner) = self.shape();
        let rows = x.rows_of("x", "in", inner)?;
        let mut y = cpu::buffer(rows * out);
        let view = ArrayViewMut2::from_shape((rows, out), &mut y).expect("sized above");
        cpu::matmul_stored_nt(x.view2("weight", "x")?, self.stored(), view);
        Ok(Tensor::of(y, &[rows, out]))
    }

    /// (n, out) → (n, in): dy·W.
    fn apply_transposed(&self, dy: &Tensor) -> Result<Tensor> {
        let (out, inner) = self.shape();
        let rows = dy.rows_of("dy", "out", out)?;
        let mut dx = cpu::buffer(rows * inner);
        let view = ArrayViewMut2::from_shape((rows, inner), &mut dx).expect("sized above");
        cpu::matmul_stored_nn(dy.view2("weight", "dy")?, self.stored(), view);
        Ok(Tensor::of(dx, &[rows, inner]))
    }
}

impl Tensor {
    /// The rows of an operand (n, width) of a weight's product.
    pub(crate) fn rows_of(&self, operand: &'static str, dimension: &str, width: usize) -> Result<usize> {
        match self.dims2("weight", operand)? {
            (rows, found) if found == width => Ok(rows),
            _ => Err(Error::shape("weight", operand, self.shape(), format!("(n, {dimension}) = (n, {width})"))),
        }
    }
}
