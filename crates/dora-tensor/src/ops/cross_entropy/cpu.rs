//! Cross-entropy on the CPU, one row of logits at a time.

use crate::cpu::{for_row_blocks, simd, softmax_in_place};
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

/// x times a factor.
pub(super) fn scale(x: &mut [f32], factor: f32) {
    for_row_blocks(x, 1, |_, x| simd(|| x.iter_mut().for_each(|x| *x *= factor)));
}
