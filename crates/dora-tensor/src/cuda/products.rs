//! Matrix products of tensors on a device, and launches that change a tensor's elements.

use crate::{Cuda, DType, Device, Error, Result, Tensor};
use dora_kernels::{Driver, Operand, View, ViewMut, gemm};

/// A matrix of a product, or its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    matrix: &'a Tensor,
    transposed: bool,
}

impl Tensor {
    /// As it is, in a product.
    pub(crate) fn plain(&self) -> Factor<'_> {
        Factor { matrix: self, transposed: false }
    }

    /// Its transpose, in a product.
    pub(crate) fn transposed(&self) -> Factor<'_> {
        Factor { matrix: self, transposed: true }
    }
}

impl<'a> Factor<'a> {
    fn dims(self) -> Result<(usize, usize)> {
        let (rows, columns) = self.matrix.dims2("gemm", "operand")?;
        Ok(if self.transposed { (columns, rows) } else { (rows, columns) })
    }

    fn operand(self, gpu: Cuda) -> Result<Operand<'a>> {
        let view = self.matrix.on(gpu, "gemm")?;
        Ok(if self.transposed { view.transposed() } else { view.plain() })
    }
}

/// alpha · a · b as a new tensor.
pub(crate) fn product(gpu: Cuda, a: Factor, b: Factor, alpha: f32, dtype: DType) -> Result<Tensor> {
    let mut d = gpu.room(dtype, &[a.dims()?.0, b.dims()?.1])?;
    into(gpu, a, b, alpha, false, &mut d)?;
    Ok(d)
}

/// d += alpha · a · b.
pub(crate) fn accumulate(gpu: Cuda, a: Factor, b: Factor, alpha: f32, d: &mut Tensor) -> Result<()> {
    into(gpu, a, b, alpha, true, d)
}

fn into(gpu: Cuda, a: Factor, b: Factor, alpha: f32, accumulate: bool, d: &mut Tensor) -> Result<()> {
    let ((m, k), (inner, n)) = (a.dims()?, b.dims()?);
    if inner != k {
        return Err(Error::shape("gemm", "B", b.matrix.shape(), format!("an inner dimension of {k}")));
    }
    d.expect_shape("gemm", "D", &[m, n])?;
    let (a, b) = (a.operand(gpu)?, b.operand(gpu)?);
    Ok(gemm(&**gpu.driver(), [m, n, k], alpha, a, b, accumulate, &mut d.write(gpu, "gemm")?)?)
}

/// Has `launch(driver, source, target)` turn x into something of its shape and type: in its own memory, where nobody else holds
/// that and the source is then `None`, or else in new memory.
pub(crate) fn overwrite(
    gpu: Cuda,
    op: &'static str,
    mut x: Tensor,
    launch: impl FnOnce(&dyn Driver, Option<View<'_>>, ViewMut<'_>) -> dora_kernels::Result<()>,
) -> Result<Tensor> {
    if x.device() == Device::Cuda(gpu) && x.is_exclusive() {
        launch(&**gpu.driver(), None, x.write(gpu, op)?)?;
        return Ok(x);
    }
    let mut y = gpu.room(x.dtype(), x.shape())?;
    launch(&**gpu.driver(), Some(x.on(gpu, op)?), y.write(gpu, op)?)?;
    Ok(y)
}
