//! The norm's part of the gradients of A and B, where the norm is no constant. With v = W + sBA and n = ‖v‖ per output row, and
//! dm = Σ_rows dy ⊙ z/n as ever: dn = −g ⊙ dm, and ∂n/∂v = v/n, so dv = c ⊙ v with c (out) = −g ⊙ dm/n. Hence
//!
//! dB += s·dv·Aᵀ = s·c ⊙ (W·Aᵀ + s·B·A·Aᵀ), dA += s·Bᵀ·dv = s·(c ⊙ B)ᵀ·W + s²·(c ⊙ B)ᵀ·B·A:
//!
//! two products of r rows with W; v is never formed. A row of norm 0 adds nothing. On the CPU.

use super::super::LowRank;
use super::super::linear::cpu::{accumulate, matrix, product};
use crate::cpu::scale_each_row;
use crate::{Result, Tensor, Weight};

/// Adds it to dA (r, in) and dB (out, r).
pub(super) fn add_norm_gradient(
    (da, db): (&mut Tensor, &mut Tensor),
    weight: &dyn Weight,
    update: &LowRank,
    dm: &Tensor,
    gain: &[f32],
    norms: &[f32],
) -> Result<()> {
    let (s, dm) = (update.scaling, dm.as_f32("dora")?);
    let c = dm.iter().zip(gain).zip(norms);
    let c: Vec<f32> = c.map(|((dm, g), &n)| if n == 0.0 { 0.0 } else { -g * dm / n }).collect();
    let (a, b) = (update.a.view2("dora", "A")?, update.b.view2("dora", "B")?);
    // W·Aᵀ + s·B·A·Aᵀ (out, r).
    let gram = product(a, a.t(), 1.0)?;
    let mut through = product(b, gram.view2("dora", "G")?, s)?;
    matrix(&mut through).scaled_add(1.0, &weight.apply(&update.a)?.view2("dora", "U")?.t());
    scale_each_row(matrix(&mut through), &c);
    matrix(db).scaled_add(s, &through.view2("dora", "dB")?);
    // (c ⊙ B)ᵀ (r, out).
    let mut scaled = update.b.detach();
    scale_each_row(matrix(&mut scaled), &c);
    let scaled = scaled.view2("dora", "B")?;
    let transposed = Tensor::of(scaled.t().iter().copied().collect::<Vec<_>>(), &[a.nrows(), b.nrows()]);
    matrix(da).scaled_add(s, &weight.apply_transposed(&transposed)?.view2("dora", "dA")?);
    accumulate(product(scaled.t(), b, 1.0)?.view2("dora", "BᵀB")?, a, da, s * s)
}
