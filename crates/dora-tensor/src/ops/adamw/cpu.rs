//! AdamW on the CPU.

use super::AdamW;
use crate::cpu::{map_blocks, simd};
use crate::{Result, Tensor};
use rayon::prelude::*;

pub(super) fn update(settings: &AdamW, scale: f32, p: &mut [f32], g: &[f32], first: &mut [f32], second: &mut [f32]) {
    const BLOCK: usize = 16_384;
    let [keep, size, root, eps, beta1, beta2, rest1, rest2] = settings.factors();
    let blocks = p.par_chunks_mut(BLOCK).zip(g.par_chunks(BLOCK));
    let blocks = blocks.zip(first.par_chunks_mut(BLOCK)).zip(second.par_chunks_mut(BLOCK));
    blocks.for_each(|(((p, g), first), second)| {
        simd(|| {
            for (((p, g), u), v) in p.iter_mut().zip(g).zip(first).zip(second) {
                let g = g * scale;
                *u = beta1 * *u + rest1 * g;
                *v = beta2 * *v + rest2 * g * g;
                *p = *p * keep - size * (*u / (v.sqrt() / root + eps));
            }
        });
    });
}

/// √(Σ x²) over all tensors.
pub(super) fn norm(tensors: &[Tensor]) -> Result<f64> {
    let squares = tensors.par_iter().map(|t| Ok(sum_of_squares(t.as_f32("clip")?))).collect::<Result<Vec<_>>>()?;
    Ok(squares.iter().sum::<f64>().sqrt())
}

/// Σ x² in f64, in 8 lanes a block.
fn sum_of_squares(x: &[f32]) -> f64 {
    let block = |range: std::ops::Range<usize>| {
        let mut lanes = [0.0f64; 8];
        simd(|| {
            for chunk in x[range].chunks(8) {
                lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane += f64::from(x) * f64::from(x));
            }
        });
        lanes.into_iter().sum::<f64>()
    };
    map_blocks(x.len(), 1, block).into_iter().sum()
}
