//! Rotary embedding on the CPU, in place.

use super::RopeTable;
use crate::cpu::{for_row_blocks, simd};
use crate::{Result, Tensor};

pub(super) fn turn(mut x: Tensor, positions: &[u32], table: &RopeTable, direction: f32) -> Result<Tensor> {
    x.as_f32("rope")?;
    let (half, width) = (table.half, x.shape()[1]);
    let (cos, sin) = (table.cos.as_f32("rope")?, table.sin.as_f32("rope")?);
    for_row_blocks(x.make_mut(), width, |first, rows| {
        for (row, &position) in rows.chunks_exact_mut(width).zip(&positions[first..]) {
            let angles = position as usize * half..(position as usize + 1) * half;
            let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
            for head in row.chunks_exact_mut(2 * half) {
                let (low, high) = head.split_at_mut(half);
                simd(|| {
                    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                        let s = s * direction;
                        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                    }
                });
            }
        }
    });
    Ok(x)
}
