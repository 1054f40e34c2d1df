//! Inverted dropout (Srivastava et al., 2014): every element is 0 with probability p and x/(1 − p) otherwise. The mask is
//! not kept: it is drawn again from its address in the Philox stream, element i from word i.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::rng::Stream;
use crate::{Device, Error, Op, Result, Tensor, record};

/// A probability and the address of the mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    p: f32,
    stream: Stream,
}

impl Dropout {
    /// Dropout of probability `p` in [0, 1).
    pub fn new(p: f32, stream: Stream) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::argument("dropout", format!("probability {p}, expected at least 0 and below 1")));
        }
        Ok(Dropout { p, stream })
    }

    /// The mask times x, off the tape. Its own adjoint, so it serves the backward pass too.
    pub fn apply(&self, x: Tensor) -> Result<Tensor> {
        match x.device() {
            Device::Cpu => cpu::apply(x, self.p, self.stream),
            Device::Cuda(gpu) => cuda::apply(gpu, x, self.p, self.stream),
        }
    }
}

/// Drops elements of x.
pub fn dropout(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    Ok(record(dropout.apply(x.detach())?, &[x], || dropout))
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn backward(self: Box<Self>, grad: Tensor, _needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(self.apply(grad)?)])
    }
}
