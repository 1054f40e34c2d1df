//! A frozen matrix, seen only through its products: precision and layout are its own affair.

mod dense;
mod nf4;

pub use dense::DenseWeight;
pub use nf4::{Nf4Options, Nf4Parts, Nf4Scales, Nf4Weight, QUANT_MAP, nested_quant_map};

use crate::{Result, Tensor};
use std::fmt;

/// A frozen matrix W (out, in). Its product never includes a bias, and nothing here is recorded on the tape.
pub trait Weight: Send + Sync + fmt::Debug {
    /// (out, in).
    fn shape(&self) -> (usize, usize);

    /// Each x (n, in) → (n, out): x·Wᵀ, all in one pass over W, so that it is read and widened once.
    fn apply_each(&self, xs: &[&Tensor]) -> Result<Vec<Tensor>>;

    /// Each dy (n, out) → (n, in): dy·W, all in one pass over W.
    fn apply_transposed_each(&self, dys: &[&Tensor]) -> Result<Vec<Tensor>>;

    /// (out): Σ over in of W², tiled, never dense.
    fn row_norms_squared(&self) -> Result<Tensor>;

    /// W itself in `f32`, for merging and tests only.
    fn dense(&self) -> Result<Tensor>;

    /// (n, in) → (n, out): x·Wᵀ.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.apply_each(&[x])?.remove(0))
    }

    /// (n, out) → (n, in): dy·W.
    fn apply_transposed(&self, dy: &Tensor) -> Result<Tensor> {
        Ok(self.apply_transposed_each(&[dy])?.remove(0))
    }
}
