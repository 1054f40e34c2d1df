//! Root-mean-square norm on the CPU.

use crate::cpu::{Floats, buffer, column_sums, dot, for_row_blocks, map_blocks, simd};

/// 1/√(mean(x²) + eps) of every row.
pub(super) fn rstd(x: &[f32], width: usize, eps: f32) -> Vec<f32> {
    let rows = x.len().checked_div(width).unwrap_or(0);
    map_blocks(rows, width, |range| {
        let one = |row: usize| {
            let x = &x[row * width..(row + 1) * width];
            1.0 / (dot(x, x) / width as f32 + eps).sqrt()
        };
        range.map(one).collect::<Vec<_>>()
    })
    .concat()
}

pub(super) fn forward(x: &[f32], weight: &[f32], rstd: &[f32]) -> Floats {
    let width = weight.len();
    let mut y = buffer(x.len());
    for_row_blocks(&mut y, width, |first, y| {
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            let (x, rstd) = (&x[(first + i) * width..(first + i + 1) * width], rstd[first + i]);
            simd(|| y.iter_mut().zip(x).zip(weight).for_each(|((y, x), w)| *y = w * (x * rstd)));
        }
    });
    y
}

/// Turns dy into dx in place.
pub(super) fn input_gradient(x: &[f32], weight: &[f32], rstd: &[f32], dy: &mut [f32]) {
    let width = weight.len();
    for_row_blocks(dy, width, |first, dy| {
        for (i, dy) in dy.chunks_exact_mut(width).enumerate() {
            let (x, rstd) = (&x[(first + i) * width..(first + i + 1) * width], rstd[first + i]);
            simd(|| dy.iter_mut().zip(weight).for_each(|(d, w)| *d *= w));
            let mean = dot(dy, x) * rstd / width as f32;
            simd(|| dy.iter_mut().zip(x).for_each(|(d, x)| *d = rstd * (*d - x * rstd * mean)));
        }
    });
}

pub(super) fn weight_gradient(x: &[f32], rstd: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
    column_sums(rstd.len(), width, |row, sums| {
        let range = row * width..(row + 1) * width;
        let rstd = rstd[row];
        sums.iter_mut().zip(&x[range.clone()]).zip(&dy[range]).for_each(|((s, x), d)| *s += d * x * rstd);
    })
}
