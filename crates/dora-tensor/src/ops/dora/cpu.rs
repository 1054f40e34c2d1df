//! Pieces of DoRA on the CPU, all over rows of width out.

use crate::cpu::{column_sums, for_row_blocks, simd};
use crate::{Result, Tensor};
use rayon::prelude::*;

/// m/n, and 1 where n is 0.
pub(super) fn gain(m: &[f32], n: &[f32]) -> Vec<f32> {
    m.iter().zip(n).map(|(m, &n)| if n == 0.0 { 1.0 } else { m / n }).collect()
}

/// Every row of x times gain.
pub(super) fn scale_rows(x: &mut [f32], gain: &[f32]) {
    for_row_blocks(x, gain.len(), |_, rows| {
        for row in rows.chunks_exact_mut(gain.len()) {
            simd(|| row.iter_mut().zip(gain).for_each(|(x, g)| *x *= g));
        }
    });
}

/// y = x·Wᵀ becomes y − (z − low) + g ⊙ z, where low = s·h·Bᵀ, so that z − low = x̃·Wᵀ.
pub(super) fn compose(y: &mut [f32], z: &[f32], low: &[f32], gain: &[f32]) {
    let width = gain.len();
    for_row_blocks(y, width, |first, rows| {
        for (i, y) in rows.chunks_exact_mut(width).enumerate() {
            let range = (first + i) * width..(first + i + 1) * width;
            let (z, low) = (&z[range.clone()], &low[range]);
            simd(|| {
                for (((y, z), low), g) in y.iter_mut().zip(z).zip(low).zip(gain) {
                    *y += low + (g - 1.0) * z;
                }
            });
        }
    });
}

/// Whether a row of norm n > 0 has an m too small to divide by.
pub(super) fn vanishes(m: &[f32], n: &[f32]) -> bool {
    m.iter().zip(n).any(|(m, &n)| n > 0.0 && m.abs() <= 1e-6 * n)
}

/// Σ_rows dy ⊙ (y − b)/by, and 0 where n is 0.
pub(super) fn magnitude_gradient(
    dy: &Tensor,
    y: &Tensor,
    bias: Option<&[f32]>,
    by: &[f32],
    n: &[f32],
) -> Result<Tensor> {
    let (rows, width) = dy.dims2("dora", "dy")?;
    let (dy, y) = (dy.as_f32("dora")?, y.as_f32("dora")?);
    let mut sums = column_sums(rows, width, |row, sums| {
        let range = row * width..(row + 1) * width;
        let (dy, y) = (&dy[range.clone()], &y[range]);
        match bias {
            None => sums.iter_mut().zip(dy).zip(y).for_each(|((s, d), y)| *s += d * y),
            Some(b) => sums.iter_mut().zip(dy).zip(y).zip(b).for_each(|(((s, d), y), b)| *s += d * (y - b)),
        }
    });
    sums.iter_mut().zip(by).zip(n).for_each(|((s, by), &n)| *s = if n == 0.0 { 0.0 } else { *s / by });
    Ok(Tensor::of(sums, &[width]))
}

/// Norm of every row of w (rows, inner), summed in f64.
pub(super) fn row_norms(w: &[f32], inner: usize) -> Vec<f32> {
    let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt() as f32;
    w.par_chunks_exact(inner.max(1)).map(norm).collect()
}

/// Row i of w times gain[i].
pub(super) fn scale_each_row(w: &mut [f32], gain: &[f32]) {
    let inner = w.len().checked_div(gain.len()).unwrap_or(0);
    let rows = w.par_chunks_exact_mut(inner.max(1)).zip(gain);
    rows.for_each(|(row, g)| simd(|| row.iter_mut().for_each(|x| *x *= g)));
}
