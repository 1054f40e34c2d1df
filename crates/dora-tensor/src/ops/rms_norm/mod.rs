//! Root-mean-square norm (Zhang and Sennrich, 2019): y = w ⊙ x̂ with x̂ = x · rstd, rstd = 1/√(mean(x²) + eps) per row of
//! x (n, C). Backward: dx = rstd · (w ⊙ dy − x̂ · mean(w ⊙ dy ⊙ x̂)), dw = Σ_rows dy ⊙ x̂.

mod cpu;
#[cfg(test)]
mod tests;

use crate::{Device, Op, Result, Tensor, record};

/// y (n, C) from x (n, C) and weight (C).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let (n, width) = x.dims2("rms_norm", "x")?;
    weight.expect_shape("rms_norm", "weight", &[width])?;
    let (y, rstd) = match x.device() {
        Device::Cpu => cpu::forward(x.as_f32("rms_norm")?, weight.as_f32("rms_norm")?, eps),
    };
    let saved = || RmsNorm { x: x.detach(), weight: weight.detach(), rstd: Tensor::of(rstd, &[n]) };
    Ok(record(Tensor::of(y, x.shape()), &[x, weight], saved))
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
        let (x, weight, rstd) =
            (self.x.as_f32("rms_norm")?, self.weight.as_f32("rms_norm")?, self.rstd.as_f32("rms_norm")?);
        let dw = match (grad.device(), needs[1]) {
            (_, false) => None,
            (Device::Cpu, true) => Some(cpu::weight_gradient(x, rstd, grad.as_f32("rms_norm")?, weight.len())),
        };
        let dx = needs[0].then(|| {
            match grad.device() {
                Device::Cpu => cpu::input_gradient(x, weight, rstd, grad.make_mut()),
            }
            grad
        });
        Ok(vec![dx, dw.map(|dw| Tensor::of(dw, self.weight.shape()))])
    }
}
