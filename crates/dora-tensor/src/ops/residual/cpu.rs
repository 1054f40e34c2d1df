//! Residual connection on the CPU.

use crate::cpu::{Floats, buffer, for_row_blocks, simd};

/// a − b.
pub(super) fn difference(a: &[f32], b: &[f32]) -> Floats {
    let mut y = buffer(a.len());
    for_row_blocks(&mut y, 1, |start, y| {
        simd(|| y.iter_mut().zip(&a[start..]).zip(&b[start..]).for_each(|((y, a), b)| *y = a - b));
    });
    y
}
