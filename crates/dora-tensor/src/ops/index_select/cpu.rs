//! Rows on the CPU.

use crate::cpu::{Floats, buffer};

/// Rows of x (n, width), one behind another.
pub(in crate::ops) fn gather(x: &[f32], width: usize, ids: impl ExactSizeIterator<Item = usize>) -> Floats {
    let mut picked = buffer(ids.len() * width);
    for (to, row) in picked.chunks_exact_mut(width.max(1)).zip(ids) {
        to.copy_from_slice(&x[row * width..(row + 1) * width]);
    }
    picked
}

/// Puts rows back where they came from.
pub(in crate::ops) fn scatter(from: &[f32], width: usize, ids: impl Iterator<Item = usize>, to: &mut [f32]) {
    for (from, row) in from.chunks_exact(width.max(1)).zip(ids) {
        to[row * width..(row + 1) * width].copy_from_slice(from);
    }
}
