//! Embedding on the CPU: gather, and scatter-add in token order.

use crate::Elements;
use crate::cpu::{Floats, Widen, buffer, zeros};

pub(super) fn forward(ids: &[u32], table: Elements, width: usize) -> Floats {
    let mut y = buffer(ids.len() * width);
    for (out, &id) in y.chunks_exact_mut(width.max(1)).zip(ids) {
        let row = id as usize * width..(id as usize + 1) * width;
        match table {
            Elements::F32(t) => out.copy_from_slice(&t[row]),
            Elements::BF16(t) => out.iter_mut().zip(&t[row]).for_each(|(o, x)| *o = x.widen()),
            Elements::F16(t) => out.iter_mut().zip(&t[row]).for_each(|(o, x)| *o = x.widen()),
        }
    }
    y
}

pub(super) fn backward(ids: &[u32], dy: &[f32], vocab: usize, width: usize) -> Floats {
    let mut table = zeros(vocab * width);
    for (dy, &id) in dy.chunks_exact(width.max(1)).zip(ids) {
        let row = &mut table[id as usize * width..(id as usize + 1) * width];
        row.iter_mut().zip(dy).for_each(|(t, d)| *t += d);
    }
    table
}
