//! A frozen matrix, seen only through its products: precision and layout are its own affair.

mod cuda_nf4;
mod dense;
mod nf4;

pub use dense::DenseWeight;
pub use nf4::{Nf4Options, Nf4Parts, Nf4Scales, Nf4Weight, QUANT_MAP, nested_quant_map};

use crate::cpu::{self, Stored};
use crate::cuda::product;
use crate::{DType, Device, Error, Result, Tensor};
use dora_kernels::launch;
use ndarray::ArrayViewMut2;
use std::fmt;

/// A frozen matrix W (out, in). Its product never includes a bias, and nothing here is recorded on the tape.
pub trait Weight: Send + Sync + fmt::Debug {
    /// (out, in).
    fn shape(&self) -> (usize, usize);

    /// Where it lies.
    fn device(&self) -> Device;

    /// W as products on the CPU read it, a panel at a time; an error where it lies on a device.
    fn stored(&self) -> Result<&dyn Stored>;

    /// W (out, in) on its device in the type of the device's activations, as products there read it; an error where it lies on
    /// the CPU. A weight of another type is widened or rounded into memory that the next one uses again.
    fn materialized(&self) -> Result<Tensor>;

    /// What [`Weight::materialized`] gives, where it lies on a device as it is: then it costs nothing and stays.
    fn resident(&self) -> Option<&Tensor> {
        None
    }

    /// (out): Σ over in of W², tiled, never dense.
    fn row_norms_squared(&self) -> Result<Tensor>;

    /// W itself in `f32`, for merging and tests only.
    fn dense(&self) -> Result<Tensor>;

    /// (n, in) → (n, out): x·Wᵀ.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (out, inner) = self.shape();
        let rows = x.rows_of("x", "in", inner)?;
        match x.device() {
            Device::Cpu => {
                let mut y = cpu::buffer(rows * out);
                let view = ArrayViewMut2::from_shape((rows, out), &mut y).expect("sized above");
                cpu::matmul_stored_nt(x.view2("weight", "x")?, self.stored()?, view);
                Ok(Tensor::of(y, &[rows, out]))
            }
            Device::Cuda(gpu) => product(gpu, x.plain(), self.materialized()?.transposed(), 1.0, x.dtype()),
        }
    }

    /// (n, out) → (n, in): dy·W.
    fn apply_transposed(&self, dy: &Tensor) -> Result<Tensor> {
        let (out, inner) = self.shape();
        let rows = dy.rows_of("dy", "out", out)?;
        match dy.device() {
            Device::Cpu => {
                let mut dx = cpu::buffer(rows * inner);
                let view = ArrayViewMut2::from_shape((rows, inner), &mut dx).expect("sized above");
                cpu::matmul_stored_nn(dy.view2("weight", "dy")?, self.stored()?, view);
                Ok(Tensor::of(dx, &[rows, inner]))
            }
            Device::Cuda(gpu) => product(gpu, dy.plain(), self.materialized()?.plain(), 1.0, dy.dtype()),
        }
    }
}

/// The error of a weight that is asked for what only another device can do.
fn elsewhere(found: Device, expected: &str) -> Error {
    Error::argument("weight", format!("it lies on {found}, expected {expected}"))
}

/// Squared row norms of a matrix (out, in) on a device.
fn row_norms_squared_on_device(w: &Tensor) -> Result<Tensor> {
    let Device::Cuda(gpu) = w.device() else { return Err(elsewhere(w.device(), "a device")) };
    let mut norms = gpu.room(DType::F32, &w.shape()[..1])?;
    launch::dora_row_norms_squared(&**gpu.driver(), w.on(gpu, "weight")?, norms.write(gpu, "weight")?)?;
    Ok(norms)
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
