//! Loops over rows in parallel. Blocks are fixed by the shape alone, never by the number of threads, and partial results are
//! added in the order of the blocks, so results are the same from run to run.

use super::floats::Floats;
use rayon::prelude::*;

/// Rows that make a block of about 16,384 elements: enough to pay for handing it out.
fn rows_per_block(width: usize) -> usize {
    (16_384 / width.max(1)).max(1)
}

/// Calls `f(first_row, rows)` for blocks of whole rows of `out` (each `width` wide), in parallel.
pub fn for_row_blocks(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if width == 0 {
        return;
    }
    let rows = rows_per_block(width);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(block, chunk)| f(block * rows, chunk));
}

/// Calls `f(rows)` for blocks of rows in parallel and gives the results in order.
pub fn map_blocks<T: Send>(rows: usize, width: usize, f: impl Fn(std::ops::Range<usize>) -> T + Sync) -> Vec<T> {
    let block = rows_per_block(width);
    (0..rows.div_ceil(block)).into_par_iter().map(|i| f(i * block..rows.min((i + 1) * block))).collect()
}

/// Column sums of `f(row, sums)` over blocks of rows: `f` adds its row to the block's sums.
pub fn column_sums(rows: usize, width: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let partial = map_blocks(rows, width, |range| {
        let mut sums = vec![0.0; width];
        super::simd(|| range.for_each(|row| f(row, &mut sums)));
        sums
    });
    let mut total = vec![0.0; width];
    for part in partial {
        total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
    total
}

/// sum += part.
pub fn add_assign(sum: &mut [f32], part: &[f32]) {
    for_row_blocks(sum, 1, |start, sum| {
        super::simd(|| sum.iter_mut().zip(&part[start..]).for_each(|(s, p)| *s += p));
    });
}

/// Lends `f` a slice of `len` floats of unspecified content, kept by this thread from call to call.
pub fn scratch<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    thread_local! {
        static SCRATCH: std::cell::RefCell<Vec<Floats>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let mut buffer = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        drop(buffer);
        buffer = Floats::zeros(len);
    }
    let result = f(&mut buffer[..len]);
    SCRATCH.with_borrow_mut(|pool| pool.push(buffer));
    result
}
