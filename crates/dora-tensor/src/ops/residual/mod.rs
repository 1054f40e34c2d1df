//! Residual connection: x + y of one shape, in y's own memory where nobody else holds it. Backward: dy to both.
//!
//! DoRA's backward pass needs its output y again, for dm. Where y only goes into a residual stream, whose values before and
//! after are kept anyway, y is not: it is their difference, to f32 rounding of the stream. A device rounds its stream to bf16,
//! which y would not survive: there y is kept.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::profile::{self, Direction};
use crate::saved::Saved;
use crate::{Device, Op, Result, Tensor, record};

/// x + y.
pub fn residual(x: &Tensor, mut y: Tensor) -> Result<Tensor> {
    let _running = profile::operation("residual", Direction::Forward);
    y.expect_shape("residual", "y", x.shape())?;
    let output = y.take_output().filter(|_| y.device() == Device::Cpu);
    if let Some(output) = &output {
        *output.lock().expect("no pass panicked") = Saved::Kept(Tensor::zeros(&[0]));
    }
    let origin = y.take_origin();
    let y = add_in_place(y, x)?;
    if let Some(output) = output {
        *output.lock().expect("no pass panicked") = Saved::Difference(y.clone(), x.detach());
    }
    let branch = Tensor::zeros(&[0]).with_origin(origin);
    Ok(record(y, &[x, &branch], || Residual))
}

/// sum + part, in the sum's own memory where nobody else holds it; off the tape.
pub(crate) fn add_in_place(mut sum: Tensor, part: &Tensor) -> Result<Tensor> {
    match sum.device() {
        Device::Cpu => {
            let part = part.as_f32("add")?;
            crate::cpu::add_assign(sum.make_mut(), part);
            Ok(sum)
        }
        Device::Cuda(gpu) => cuda::add(gpu, part, sum),
    }
}

/// after − before, on the CPU.
pub(crate) fn difference(after: &Tensor, before: &Tensor) -> Result<Tensor> {
    let y = cpu::difference(after.as_f32("residual")?, before.as_f32("residual")?);
    Ok(Tensor::of(y, after.shape()))
}

struct Residual;

impl Op for Residual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn backward(self: Box<Self>, grad: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        Ok(needs.iter().map(|needed| needed.then(|| grad.clone())).collect())
    }
}
