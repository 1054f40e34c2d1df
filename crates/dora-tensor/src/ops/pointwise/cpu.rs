//! Pointwise operations on the CPU.

use crate::cpu::{Floats, buffer, for_row_blocks, simd};

#[inline(always)]
pub(super) fn map(a: &[f32], b: &[f32], y: &mut [f32], f: impl Fn(f32, f32, f32) -> f32) {
    simd(|| y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = f(a, b, *y)));
}

pub(super) fn forward(f: fn(&[f32], &[f32], &mut [f32]), a: &[f32], b: &[f32]) -> Floats {
    let mut y = buffer(a.len());
    backward(f, a, b, &mut y);
    y
}

pub(super) fn backward(f: fn(&[f32], &[f32], &mut [f32]), a: &[f32], b: &[f32], dy: &mut [f32]) {
    for_row_blocks(dy, 1, |start, dy| f(&a[start..start + dy.len()], &b[start..start + dy.len()], dy));
}
