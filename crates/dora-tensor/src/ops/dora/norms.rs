//! Row norms n (out) of W + sBA without forming it: n² = ‖W‖² + 2s·Σ(B ∘ U) + s²·Σ((BG) ∘ B) over the rank, with
//! U (out, r) = W·Aᵀ and G (r, r) = A·Aᵀ; sums in f64, clamped at 0.
//!
//! Where the terms all but cancel, rounding is as large as n² itself; such rows are computed from W's row and B·A's.

use super::super::LowRank;
use super::super::linear::cpu::product;
use crate::profile::{self, Direction};
use crate::{Device, Result, Tensor, Weight};
use std::sync::Arc;

/// A row whose n² is below this part of the sum of its terms' sizes is computed exactly. The terms carry f32 rounding (1e-7
/// of their size), so n keeps 5 digits above it.
const CANCELLED: f64 = 0.01;
/// Rows computed exactly at a time.
const TILE: usize = 64;

/// The norms, where `base` holds ‖W‖² (out).
pub fn dora_norms(weight: &Arc<dyn Weight>, update: &LowRank, base: &Tensor) -> Result<Tensor> {
    update.check(weight.shape())?;
    from_cross(weight, update, base, &weight.apply(&update.a.detach())?)
}

/// The norms from Uᵀ (r, out).
pub(super) fn from_cross(weight: &Arc<dyn Weight>, update: &LowRank, base: &Tensor, cross: &Tensor) -> Result<Tensor> {
    let _running = profile::operation("dora_norms", Direction::Forward);
    let (out, _) = weight.shape();
    base.expect_shape("dora", "base norms", &[out])?;
    let (mut n, cancelled) = match base.device() {
        Device::Cpu => from_terms(update, base.as_f32("dora")?, cross.as_f32("dora")?)?,
    };
    for rows in cancelled.chunks(TILE) {
        for (&row, norm) in rows.iter().zip(exact(weight, update, rows)?) {
            n[row] = norm;
        }
    }
    Ok(Tensor::of(n, &[out]))
}

/// Norms of all rows, and which of them cancelled.
fn from_terms(update: &LowRank, base: &[f32], cross: &[f32]) -> Result<(Vec<f32>, Vec<usize>)> {
    let (a, b) = (update.a.view2("dora", "A")?, update.b.view2("dora", "B")?);
    let gram = product(a, a.t(), 1.0)?;
    let spread = product(b, gram.view2("dora", "G")?, 1.0)?;
    let (spread, b, out) = (spread.as_f32("dora")?, update.b.as_f32("dora")?, base.len());
    let (rank, s) = (a.nrows(), f64::from(update.scaling));
    let mut cancelled = Vec::new();
    let norm = |o: usize| {
        let row = o * rank..(o + 1) * rank;
        let (mut twice, mut square) = (0.0, 0.0);
        for (k, (&b, &bg)) in b[row.clone()].iter().zip(&spread[row]).enumerate() {
            twice += f64::from(b) * f64::from(cross[k * out + o]);
            square += f64::from(b) * f64::from(bg);
        }
        let terms = [f64::from(base[o]), 2.0 * s * twice, s * s * square];
        let (sum, sizes) = (terms.iter().sum::<f64>(), terms.iter().map(|t| t.abs()).sum::<f64>());
        if sizes > 0.0 && sum < CANCELLED * sizes {
            cancelled.push(o);
        }
        // NaN stays NaN, so that a base that is not finite shows in the loss.
        (if sum < 0.0 { 0.0 } else { sum }).sqrt() as f32
    };
    Ok(((0..out).map(norm).collect(), cancelled))
}

/// Norms of a few rows, from the rows themselves.
fn exact(weight: &Arc<dyn Weight>, update: &LowRank, rows: &[usize]) -> Result<Vec<f32>> {
    let (out, inner) = weight.shape();
    let mut pick = vec![0.0; rows.len() * out];
    rows.iter().enumerate().for_each(|(i, row)| pick[i * out + row] = 1.0);
    let w = weight.apply_transposed(&Tensor::of(pick, &[rows.len(), out]))?;
    let (w, a, b) = (w.as_f32("dora")?, update.a.as_f32("dora")?, update.b.as_f32("dora")?);
    let (rank, s) = (update.a.shape()[0], f64::from(update.scaling));
    let norm = |(i, &row): (usize, &usize)| {
        let mut sum: Vec<f64> = w[i * inner..(i + 1) * inner].iter().map(|&x| f64::from(x)).collect();
        for k in 0..rank {
            let factor = s * f64::from(b[row * rank + k]);
            sum.iter_mut().zip(&a[k * inner..]).for_each(|(sum, &a)| *sum += factor * f64::from(a));
        }
        sum.iter().map(|x| x * x).sum::<f64>().sqrt() as f32
    };
    Ok(rows.iter().enumerate().map(norm).collect())
}
