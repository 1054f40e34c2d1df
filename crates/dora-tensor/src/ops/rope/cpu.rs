//! Rotary embedding on the CPU, in place.

use super::RopeTable;
use crate::cpu::{for_row_blocks, simd};

pub(super) fn turn(x: &mut [f32], width: usize, positions: &[u32], table: &RopeTable, direction: f32) {
    let half = table.half;
    for_row_blocks(x, width, |first, rows| {
        for (row, &position) in rows.chunks_exact_mut(width).zip(&positions[first..]) {
            let angles = position as usize * half..(position as usize + 1) * half;
            let (cos, sin) = (&table.cos[angles.clone()], &table.sin[angles]);
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
}
