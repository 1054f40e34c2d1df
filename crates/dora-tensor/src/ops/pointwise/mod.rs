//! Pointwise operations of two tensors of one shape: a table row each.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::profile::{self, Direction};
use crate::{Device, Op, Result, Tensor, record};
use dora_kernels::launch;

/// A row of the table: y = f(a, b).
pub struct Pointwise {
    /// Name for errors and profiles.
    pub name: &'static str,
    f: fn(&[f32], &[f32], &mut [f32]),
    /// ∂f/∂a and ∂f/∂b times dy, in place of dy; `None` is the identity, which needs neither operand.
    by: [Option<Partial>; 2],
    /// The kernel of f.
    launch: cuda::Forward,
}

/// A derivative times dy: on the CPU, and on a device.
type Partial = (fn(&[f32], &[f32], &mut [f32]), cuda::Partial);

impl Pointwise {
    /// a + b.
    pub const ADD: Pointwise = Pointwise {
        name: "add",
        f: |a, b, y| cpu::map(a, b, y, |a, b, _| a + b),
        by: [None, None],
        launch: launch::add,
    };
    /// a − b.
    pub const SUB: Pointwise = Pointwise {
        name: "sub",
        f: |a, b, y| cpu::map(a, b, y, |a, b, _| a - b),
        by: [None, Some((|a, b, dy| cpu::map(a, b, dy, |_, _, dy| -dy), cuda::Partial::Times(-1.0)))],
        launch: launch::sub,
    };
    /// a · b.
    pub const MUL: Pointwise = Pointwise {
        name: "mul",
        f: |a, b, y| cpu::map(a, b, y, |a, b, _| a * b),
        by: [
            Some((|a, b, dy| cpu::map(a, b, dy, |_, b, dy| dy * b), cuda::Partial::TimesB)),
            Some((|a, b, dy| cpu::map(a, b, dy, |a, _, dy| dy * a), cuda::Partial::TimesA)),
        ],
        launch: launch::mul,
    };
}

/// y = f(a, b), element by element.
pub fn pointwise(row: &'static Pointwise, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let _running = profile::operation(row.name, Direction::Forward);
    b.expect_shape(row.name, "b", a.shape())?;
    let y = match a.device() {
        Device::Cpu => Tensor::of(cpu::forward(row.f, a.as_f32(row.name)?, b.as_f32(row.name)?), a.shape()),
        Device::Cuda(gpu) => cuda::forward(gpu, row, a, b)?,
    };
    let operands = || row.by.iter().any(Option::is_some).then(|| (a.detach(), b.detach()));
    Ok(record(y, &[a, b], || Saved { row, operands: operands() }))
}

struct Saved {
    row: &'static Pointwise,
    operands: Option<(Tensor, Tensor)>,
}

impl Op for Saved {
    fn name(&self) -> &'static str {
        self.row.name
    }

    fn backward(self: Box<Self>, grad: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let part = |i: usize| -> Result<Option<Tensor>> {
            let mut grad = grad.clone();
            if let (Some((partial, launch)), Some((a, b))) = (self.row.by[i], &self.operands) {
                match grad.device() {
                    Device::Cpu => {
                        cpu::backward(partial, a.as_f32(self.row.name)?, b.as_f32(self.row.name)?, grad.make_mut());
                    }
                    Device::Cuda(gpu) => grad = cuda::backward(gpu, launch, [a, b], grad)?,
                }
            }
            Ok(needs[i].then_some(grad))
        };
        Ok(vec![part(0)?, part(1)?])
    }
}
