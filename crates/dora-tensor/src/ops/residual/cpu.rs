//! Residual connection on the CPU.

use crate::cpu::{buffer, for_row_blocks, simd};

/// a − b.
pub(super) fn difference(a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut y = buffer(a.len());
    for_row_blocks(&mut y, 1, |start, y| {
        simd(|| y.iter_mut().zip(&a[start..]).zip(&b[start..]).for_each(|((y, a), b)| *y = a - b));
    });
    y
}
