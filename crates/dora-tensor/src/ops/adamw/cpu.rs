//! AdamW on the CPU.

use super::AdamW;
use crate::cpu::{map_blocks, simd};
use rayon::prelude::*;

pub(super) fn update(settings: &AdamW, p: &mut [f32], g: &[f32], first: &mut [f32], second: &mut [f32]) {
    const BLOCK: usize = 16_384;
    let [beta1, beta2] = settings.betas;
    let t = settings.step as f64;
    let keep = (1.0 - settings.lr * settings.weight_decay) as f32;
    let size = (settings.lr / (1.0 - beta1.powf(t))) as f32;
    let root = (1.0 - beta2.powf(t)).sqrt() as f32;
    let (eps, scale) = (settings.eps as f32, settings.gradient_scale);
    let (beta1, beta2, rest1, rest2) = (beta1 as f32, beta2 as f32, (1.0 - beta1) as f32, (1.0 - beta2) as f32);
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

/// f64 in 8 lanes a block.
pub(super) fn sum_of_squares(x: &[f32]) -> f64 {
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
