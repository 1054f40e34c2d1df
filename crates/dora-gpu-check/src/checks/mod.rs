//! Operations on a device against the same operations on the processor, from the same inputs: values and gradients, relative to the
//! largest element; codes, scales, masks and casts bit by bit.

mod bits;
mod operations;

use std::sync::Arc;

use anyhow::{Context, Result};
use dora_kernels::Driver;
use dora_tensor::ops::embedding;
use dora_tensor::rng::Philox;
use dora_tensor::{Cuda, DType, Device, Parameter, Role, Tensor};
use serde::Serialize;

/// Most that elements may be off, relative to the largest: f32 in another order of summation, or rounded to bf16 on the way.
const TOLERANCES: [(DType, f64); 2] = [(DType::F32, 2e-5), (DType::BF16, 2e-2)];

/// Numbers of rows, columns and tokens of the checks.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Rows of a batch; more than a tile of attention.
    pub rows: usize,
    /// Elements of a row of activations; a multiple of 128.
    pub width: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
}

impl Size {
    /// What the host driver gets through in seconds.
    pub const SMALL: Size = Size { rows: 67, width: 128, vocab: 203 };
    /// What the processor gets through in seconds, beside a GPU.
    pub const LARGE: Size = Size { rows: 517, width: 2048, vocab: 8_003 };
}

/// A comparison and its outcome.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// The operation.
    pub name: String,
    /// Activations on the device.
    pub activations: String,
    /// Largest difference, relative to the largest element; of bits, the share that differs.
    pub error: f64,
    /// Most that is allowed.
    pub tolerance: f64,
}

impl Check {
    /// Whether it held.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// All checks on a driver, with activations of f32 and of bf16; `report` is told of each.
pub fn all(driver: &Arc<dyn Driver>, size: Size, seed: u64, report: fn(&Check)) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (activations, tolerance) in TOLERANCES {
        let gpu = Cuda::new(driver.device(), driver.clone(), activations);
        let mut suite = Suite { driver: driver.clone(), gpu, size, seed, tolerance, report, checks: Vec::new() };
        operations::run(&mut suite)?;
        bits::run(&mut suite)?;
        checks.append(&mut suite.checks);
    }
    Ok(checks)
}

/// Checks under way.
struct Suite {
    driver: Arc<dyn Driver>,
    gpu: Cuda,
    size: Size,
    seed: u64,
    tolerance: f64,
    report: fn(&Check),
    checks: Vec<Check>,
}

/// What an input is, which decides its type on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Activation,
    /// Activations whose products with rows of normal draws have a deviation of 2, as logits have.
    Hidden,
    Trained,
    /// Trained, and about the norm of a row of W: y and b in bf16 leave little of (y − b)/m where m is far smaller.
    Magnitude,
}

impl Suite {
    /// Normal draws, a stream an operand.
    fn normal(&self, stream: u64, shape: &[usize]) -> Tensor {
        let mut rng = Philox::new(self.seed, stream);
        let elements = (0..shape.iter().product::<usize>()).map(|_| rng.normal()).collect();
        Tensor::from_vec(elements, shape).expect("as many as the shape has")
    }

    /// The numbers that activations on the device hold once rounded.
    fn rounded(&self, tensor: &Tensor) -> Tensor {
        tensor.to_dtype(self.gpu.activations()).to_dtype(DType::F32)
    }

    /// Normal draws as magnitudes of rows of normal draws.
    fn about_norm(&self, drawn: &Tensor) -> dora_tensor::Result<Tensor> {
        let norm = (self.size.width as f32).sqrt();
        Tensor::from_vec(drawn.to_vec().iter().map(|x| norm * (1.0 + 0.1 * x)).collect(), drawn.shape())
    }

    fn push(&mut self, name: &str, error: f64, tolerance: f64) {
        let activations = self.gpu.activations().to_string();
        let check = Check { name: name.to_owned(), activations, error, tolerance };
        (self.report)(&check);
        self.checks.push(check);
    }

    /// Compares the result of `f` and its gradient by every input. Activations are rows of a trained table, so that they have a
    /// gradient; the processor sees them as they are once rounded.
    fn agree(
        &mut self,
        name: &str,
        inputs: &[(Kind, &[usize])],
        f: impl Fn(Device, &[Tensor]) -> dora_tensor::Result<Tensor>,
    ) -> Result<()> {
        let value = |(i, (kind, shape)): (usize, &(Kind, &[usize]))| -> Result<Tensor> {
            let drawn = self.normal(i as u64, shape);
            Ok(match kind {
                Kind::Activation => self.rounded(&drawn),
                Kind::Hidden => self.rounded(&scaled(&drawn, 2.0 / (self.size.width as f32).sqrt())?),
                Kind::Trained => drawn,
                Kind::Magnitude => self.about_norm(&drawn)?,
            })
        };
        let values = inputs.iter().enumerate().map(value).collect::<Result<Vec<_>>>()?;
        let run = |device: Device| -> Result<Vec<Vec<f32>>> {
            let (mut parameters, mut leaves) = (Vec::new(), Vec::new());
            for (i, ((kind, shape), value)) in inputs.iter().zip(&values).enumerate() {
                // Each run has parameters of its own.
                let value = Tensor::from_vec(value.to_vec(), shape)?.to_device(device)?;
                let parameter = Parameter::new(format!("input {i}"), Role::Matrix, value)?;
                leaves.push(match kind {
                    Kind::Activation | Kind::Hidden => {
                        embedding(&(0..shape[0] as u32).collect::<Vec<_>>(), &parameter.tensor())?
                    }
                    Kind::Trained | Kind::Magnitude => parameter.tensor(),
                });
                parameters.push(parameter);
            }
            let y = f(device, &leaves)?;
            match y.numel() {
                1 => y.backward()?,
                _ => {
                    let dy = self.rounded(&self.normal(99, y.shape())).to_dtype(y.dtype());
                    y.backward_from(dy.to_device(device)?)?;
                }
            }
            let gradients = parameters.iter().map(|parameter| {
                let gradient = parameter.take_gradient();
                host(&gradient.with_context(|| format!("{name}: {} received no gradient", parameter.name()))?)
            });
            std::iter::once(host(&y)).chain(gradients).collect()
        };
        let (found, expected) = (run(Device::Cuda(self.gpu))?, run(Device::Cpu)?);
        let errors = found.iter().zip(&expected).map(|(found, expected)| difference(found, expected));
        let error = errors.fold(0.0, f64::max);
        self.push(name, error, self.tolerance);
        Ok(())
    }
}

/// x times a factor.
fn scaled(x: &Tensor, by: f32) -> dora_tensor::Result<Tensor> {
    Tensor::from_vec(x.to_vec().iter().map(|x| by * x).collect(), x.shape())
}

/// The elements of a tensor on any device.
fn host(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_device(Device::Cpu)?.to_vec())
}

/// Largest difference, relative to the largest element; infinite where numbers are missing or are none.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let largest = expected.iter().fold(1e-3f64, |m, x| m.max(f64::from(x.abs())));
    let of = |(a, b): (&f32, &f32)| f64::from((a - b).abs()) / largest;
    found.iter().zip(expected).map(of).fold(0.0, |m, e| if e.is_nan() { f64::INFINITY } else { m.max(e) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_no_number_is_off_without_bound() {
        assert_eq!(difference(&[1.0, 2.0], &[1.0, 4.0]), 0.5);
        assert_eq!(difference(&[1.0, f32::NAN, 4.0], &[1.0, 2.0, 4.0]), f64::INFINITY);
        assert_eq!(difference(&[1.0], &[1.0, 2.0]), f64::INFINITY);
    }
}
