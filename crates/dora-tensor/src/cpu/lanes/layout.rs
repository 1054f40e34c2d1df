//! Into lanes and back, for any vector: rows side by side in lanes, so that the elements of a column lie together.

use super::ahead::{Ahead, LINE};
use super::pack::square;
use super::vector::{MOST_LANES, Run, Vector};
use ndarray::{ArrayView2, ArrayViewMut2};

/// Lays out x, of contiguous rows, as [columns][lanes], filled up with zeros.
pub struct LayOut<'a> {
    pub x: ArrayView2<'a, f32>,
    pub lanes: usize,
    pub data: &'a mut [f32],
}

impl Run for LayOut<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        /// Columns that are asked for ahead of their turn: of so many rows at once, the processor does not notice by itself.
        const AHEAD: usize = 4 * LINE;
        let LayOut { x, lanes, data } = self;
        let ((rows, columns), stride) = (x.dim(), x.strides()[0]);
        for start in (0..columns).step_by(V::LANES) {
            let width = (columns - start).min(V::LANES);
            if start.is_multiple_of(LINE) {
                Ahead::new(x.as_ptr().wrapping_add(start + AHEAD), rows, stride as usize, 1).ask_all();
            }
            // SAFETY: `there` rows are there, and contiguous.
            unsafe {
                for lane in (0..lanes).step_by(V::LANES) {
                    let there = (rows - lane.min(rows)).min(V::LANES);
                    let from = (x.as_ptr().wrapping_offset(lane as isize * stride).wrapping_add(start), stride);
                    let to = &mut data[start * lanes + lane..];
                    // Sizes that are known when this is compiled leave no branch.
                    match there == V::LANES && width == V::LANES {
                        true => lay_out::<V>(from, (V::LANES, V::LANES), to, lanes),
                        false => lay_out::<V>(from, (there, width), to, lanes),
                    }
                }
            }
        }
    }
}

/// Lays out a square: `rows` rows of `columns` elements, which begin `stride` behind each other, as [columns][lanes] in steps
/// of `step`.
///
/// # Safety
/// These rows must be there.
#[inline(always)]
unsafe fn lay_out<V: Vector>(
    (from, stride): (*const f32, isize),
    (rows, columns): (usize, usize),
    to: &mut [f32],
    step: usize,
) {
    assert!(columns == 0 || to.len() >= (columns - 1) * step + V::LANES, "room for every column");
    // SAFETY: by the caller's word, and the room that was asked for.
    unsafe {
        let mut square = square::<V>((from, stride), (rows, columns));
        V::turn(&mut square);
        for (i, column) in square.into_iter().enumerate().take(columns) {
            column.store(to.as_mut_ptr().add(i * step));
        }
    }
}

/// Writes sums [columns of y][lanes] to the rows of y.
///
/// # Safety
/// The processor must have the vector's instruction set.
#[inline(always)]
pub unsafe fn write<V: Vector>(sums: &[f32], y: &mut ArrayViewMut2<f32>) {
    let (n, width) = y.dim();
    let (stride, lanes) = (y.strides()[0], sums.len() / width.max(1));
    assert!(width <= 1 || y.strides()[1] == 1, "rows of y are contiguous");
    for lane in (0..lanes).step_by(V::LANES) {
        let rows = V::LANES.min(n - lane.min(n));
        for start in (0..width).step_by(LINE) {
            let columns = (width - start).min(LINE);
            // SAFETY: these rows and columns are there, and rows are contiguous.
            unsafe {
                let to = (y.as_mut_ptr().wrapping_offset(lane as isize * stride).wrapping_add(start), stride);
                let from = (&sums[start * lanes + lane..], lanes);
                // Sizes that are known when this is compiled leave no branch.
                match rows == V::LANES && columns == LINE {
                    true => write_lines::<V>(from, to, (V::LANES, LINE)),
                    false => write_lines::<V>(from, to, (rows, columns)),
                }
            }
        }
    }
}

/// Writes a line of each of so many rows, which begin `stride` behind each other, from the columns of sums in steps of `step`.
///
/// # Safety
/// So many columns of the rows must be there.
#[inline(always)]
unsafe fn write_lines<V: Vector>(
    (sums, step): (&[f32], usize),
    (to, stride): (*mut f32, isize),
    (rows, columns): (usize, usize),
) {
    assert!(columns == 0 || sums.len() >= (columns - 1) * step + V::LANES, "a sum for every column");
    // SAFETY: by the caller's word, and the sums that were asked for.
    unsafe {
        let mut squares = [[V::zero(); MOST_LANES]; 2];
        for (part, square) in squares.iter_mut().enumerate().take(columns.div_ceil(V::LANES)) {
            for (i, row) in square.iter_mut().enumerate().take(V::LANES.min(columns - part * V::LANES)) {
                *row = V::load(sums.as_ptr().add((part * V::LANES + i) * step));
            }
            V::turn(square);
        }
        for i in 0..rows {
            for (part, square) in squares.iter().enumerate().take(columns.div_ceil(V::LANES)) {
                let (row, some) = (square[i], V::LANES.min(columns - part * V::LANES));
                let to = to.offset(i as isize * stride).add(part * V::LANES);
                match some == V::LANES {
                    true => row.store(to),
                    false => row.store_first(some, to),
                }
            }
        }
    }
}
