//! Linear layer: y (n, out) = x (n, in) · Wᵀ + b, over a frozen weight of any precision or a trained matrix.
//! Backward: dx = dy·W; where trained, dW = dyᵀ·x and db = Σ_rows dy.

pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
mod tests;

use crate::profile::{self, Direction};
use crate::saved::Saved;
use crate::{Device, Error, Op, Result, Tensor, Weight, record};
use std::sync::Arc;

/// A matrix W (out, in) of a product: frozen behind its seam, or trained as an `f32` tensor on the tape.
#[derive(Debug, Clone)]
pub enum Matrix {
    /// Frozen.
    Frozen(Arc<dyn Weight>),
    /// Trained.
    Trained(Tensor),
}

impl Matrix {
    /// (out, in).
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Matrix::Frozen(w) => Ok(w.shape()),
            Matrix::Trained(w) => w.dims2("linear", "weight"),
        }
    }

    /// x·Wᵀ, off the tape.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::Frozen(w) => w.apply(x),
            Matrix::Trained(w) => crate::DenseWeight::new(w.detach())?.apply(x),
        }
    }

    /// dy·W, off the tape.
    pub fn apply_transposed(&self, dy: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::Frozen(w) => w.apply_transposed(dy),
            Matrix::Trained(w) => crate::DenseWeight::new(w.detach())?.apply_transposed(dy),
        }
    }
}

/// x·Wᵀ + b.
pub fn linear(x: &Tensor, weight: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
    let _running = profile::operation("linear", Direction::Forward);
    let mut y = weight.apply(x)?;
    let width = y.shape()[1];
    match y.device() {
        Device::Cpu => cpu::add_bias(cpu::matrix(&mut y), self::bias(bias, width)?),
        Device::Cuda(gpu) => y = cuda::add_bias(gpu, y, bias)?,
    }
    let none = Tensor::zeros(&[0]);
    let trained = match weight {
        Matrix::Frozen(_) => &none,
        Matrix::Trained(w) => w,
    };
    let saved = || Linear { x: trained.requires_grad().then(|| x.saved()), weight: weight.clone() };
    Ok(record(y, &[x, trained, bias.unwrap_or(&none)], saved))
}

/// The elements of b (out), where there is one.
pub(crate) fn bias(bias: Option<&Tensor>, width: usize) -> Result<Option<&[f32]>> {
    match bias {
        Some(b) if b.shape() != [width] => Err(Error::shape("linear", "bias", b.shape(), format!("(out) = ({width})"))),
        Some(b) => Ok(Some(b.as_f32("linear")?)),
        None => Ok(None),
    }
}

struct Linear {
    x: Option<Saved>,
    weight: Matrix,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(self: Box<Self>, grad: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let dx = needs[0].then(|| self.weight.apply_transposed(&grad)).transpose()?;
        let (dw, db) = match grad.device() {
            Device::Cpu => (
                self.x.filter(|_| needs[1]).map(|x| cpu::outer(&grad, &x.get()?, 1.0)).transpose()?,
                needs[2].then(|| cpu::row_sum(&grad)).transpose()?,
            ),
            Device::Cuda(gpu) => (
                self.x.filter(|_| needs[1]).map(|x| cuda::outer(gpu, &grad, &x.get()?, 1.0)).transpose()?,
                needs[2].then(|| cuda::row_sum(gpu, &grad)).transpose()?,
            ),
        };
        Ok(vec![dx, dw, db])
    }
}
