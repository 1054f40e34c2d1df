//! Cross-entropy on the CPU, one row of logits at a time.

use crate::Tensor;
use crate::cpu::{buffer, for_row_blocks, simd, softmax_in_place};
use rayon::prelude::*;

/// Losses of the rows; with `scale`, logits become their gradient times it.
pub(super) fn losses(logits: &mut [f32], rows: &[(usize, usize)], scale: Option<f32>) -> Vec<f32> {
    let vocab = logits.len() / rows.len().max(1);
    let row = |(z, &(_, target)): (&mut [f32], &(usize, usize))| {
        let at_target = z[target];
        let (max, sum) = softmax_in_place(z);
        if let Some(scale) = scale {
            simd(|| z.iter_mut().for_each(|p| *p *= scale / sum));
            z[target] -= scale;
        }
        max - at_target + sum.ln()
    };
    logits.par_chunks_exact_mut(vocab.max(1)).zip(rows).map(row).collect()
}

/// Rows of x (n, width) as a matrix of their own.
pub(super) fn gather(x: &[f32], width: usize, rows: &[(usize, usize)]) -> Tensor {
    let mut picked = buffer(rows.len() * width);
    for (to, &(row, _)) in picked.chunks_exact_mut(width.max(1)).zip(rows) {
        to.copy_from_slice(&x[row * width..(row + 1) * width]);
    }
    Tensor::of(picked, &[rows.len(), width])
}

/// Puts rows back where they came from.
pub(super) fn scatter(from: &[f32], rows: &[(usize, usize)], width: usize, to: &mut [f32]) {
    for (i, &(row, _)) in rows.iter().enumerate() {
        to[row * width..(row + 1) * width].copy_from_slice(&from[i * width..(i + 1) * width]);
    }
}

/// x times a factor.
pub(super) fn scale(x: &mut [f32], factor: f32) {
    for_row_blocks(x, 1, |_, x| simd(|| x.iter_mut().for_each(|x| *x *= factor)));
}
