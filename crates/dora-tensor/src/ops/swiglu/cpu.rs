//! SwiGLU on the CPU.

use crate::cpu::{Floats, buffer, exp, for_row_blocks, simd};
use rayon::prelude::*;

#[inline(always)]
fn sigmoid(g: f32) -> f32 {
    1.0 / (1.0 + exp(-g))
}

pub(super) fn forward(gate: &[f32], up: &[f32]) -> Floats {
    let mut y = buffer(gate.len());
    for_row_blocks(&mut y, 1, |first, y| {
        simd(|| {
            for ((y, &g), u) in y.iter_mut().zip(&gate[first..]).zip(&up[first..]) {
                *y = g * sigmoid(g) * u;
            }
        });
    });
    y
}

/// Gives dgate and turns dy into dup.
pub(super) fn backward(gate: &[f32], up: &[f32], dy: &mut [f32]) -> Floats {
    const BLOCK: usize = 16_384;
    let mut dgate = buffer(gate.len());
    let blocks = dgate.par_chunks_mut(BLOCK).zip(dy.par_chunks_mut(BLOCK));
    blocks.zip(gate.par_chunks(BLOCK)).zip(up.par_chunks(BLOCK)).for_each(|(((dgate, dy), gate), up)| {
        simd(|| {
            for (((dg, dy), &g), u) in dgate.iter_mut().zip(dy).zip(gate).zip(up) {
                let s = sigmoid(g);
                *dg = *dy * u * s * (1.0 + g * (1.0 - s));
                *dy *= g * s;
            }
        });
    });
    dgate
}
