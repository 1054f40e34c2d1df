//! Root-mean-square norm (Zhang and Sennrich, 2019): y = w ⊙ x̂ with x̂ = x · rstd, rstd = 1/√(mean(x²) + eps) per row of
//! x (n, C). Backward: dx = rstd · (w ⊙ dy − x̂ · mean(w ⊙ dy ⊙ x̂)), dw = Σ_rows dy ⊙ x̂.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::profile::{self, Direction};
use crate::saved::Recipe;
use crate::{Device, Op, Result, Tensor, record};

/// y (n, C) from x (n, C) and weight (C).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let _running = profile::operation("rms_norm", Direction::Forward);
    let (n, width) = x.dims2("rms_norm", "x")?;
    weight.expect_shape("rms_norm", "weight", &[width])?;
    let (y, rstd) = match x.device() {
        Device::Cpu => {
            let rstd = Tensor::of(cpu::rstd(x.as_f32("rms_norm")?, width, eps), &[n]);
            (scaled(x, weight, &rstd)?, rstd)
        }
        Device::Cuda(gpu) => cuda::forward(gpu, x, weight, eps)?,
    };
    let saved = || RmsNorm { x: x.detach(), weight: weight.detach(), rstd: rstd.clone() };
    let recipe = || {
        let (x, weight, rstd) = (x.detach(), weight.detach(), rstd.clone());
        Recipe::new(move || match x.device() {
            Device::Cpu => scaled(&x, &weight, &rstd),
            Device::Cuda(gpu) => Ok(cuda::forward(gpu, &x, &weight, eps)?.0),
        })
    };
    Ok(record(y, &[x, weight], saved).with_recipe(recipe))
}

/// Widest row that a device has kernels for; `None`: any.
pub fn widest_norm(device: Device) -> Option<usize> {
    (device != Device::Cpu).then_some(dora_kernels::launch::RMS_NORM_COLUMNS)
}

/// w ⊙ x · rstd, on the CPU.
fn scaled(x: &Tensor, weight: &Tensor, rstd: &Tensor) -> Result<Tensor> {
    let (x_, weight, rstd) = (x.as_f32("rms_norm")?, weight.as_f32("rms_norm")?, rstd.as_f32("rms_norm")?);
    Ok(Tensor::of(cpu::forward(x_, weight, rstd), x.shape()))
}

struct RmsNorm {
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn backward(self: Box<Self>, mut grad: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        if let Device::Cuda(gpu) = grad.device() {
            return cuda::backward(gpu, &self, grad, needs);
        }
        let (x, weight, rstd) =
            (self.x.as_f32("rms_norm")?, self.weight.as_f32("rms_norm")?, self.rstd.as_f32("rms_norm")?);
        let dw = match needs[1] {
            true => Some(cpu::weight_gradient(x, rstd, grad.as_f32("rms_norm")?, weight.len())),
            false => None,
        };
        let dx = needs[0].then(|| {
            cpu::input_gradient(x, weight, rstd, grad.make_mut());
            grad
        });
        Ok(vec![dx, dw.map(|dw| Tensor::of(dw, self.weight.shape()))])
    }
}
