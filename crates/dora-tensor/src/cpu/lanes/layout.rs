//! Into lanes and back, for any vector. Rows of x are cut into blocks of a few vectors' lanes; in a block the elements of a column
//! lie side by side, the last block filled up with zeros to whole vectors.

use super::Finish;
use super::ahead::{Ahead, LINE};
use super::vector::{Isa, MOST_LANES, Run, Vector};
use crate::cpu::{buffer, recycle};
use ndarray::{ArrayView2, ArrayViewMut2, s};
use rayon::prelude::*;
use std::ops::Range;

/// x (n, k) in lanes.
pub struct Lanes {
    isa: Isa,
    n: usize,
    k: usize,
    /// The block that begins at row `first` is at first·k, as [k][lanes].
    data: Vec<f32>,
}

impl Drop for Lanes {
    fn drop(&mut self) {
        recycle(std::mem::take(&mut self.data));
    }
}

/// Lanes of the block that begins at row `first` of n.
fn lanes(isa: Isa, n: usize, first: usize) -> usize {
    (n - first).next_multiple_of(isa.lanes()).min(isa.block())
}

impl Lanes {
    /// Lays out x, its columns times `gain`.
    pub fn new(isa: Isa, x: ArrayView2<f32>, gain: Option<&[f32]>) -> Self {
        /// Columns that are laid out together, and elements, at least, by one task.
        const PART: (usize, usize) = (256, 1 << 14);
        let (n, k) = x.dim();
        if n > 0 && k > 1 && x.strides()[1] != 1 {
            return Self::new(isa, x.as_standard_layout().view(), gain);
        }
        assert!(gain.is_none_or(|gain| gain.len() == k), "a gain for each column");
        let mut data = buffer(n.next_multiple_of(isa.lanes()) * k);
        data.par_chunks_mut((isa.block() * k).max(1)).enumerate().for_each(|(block, data)| {
            let first = block * isa.block();
            let lanes = lanes(isa, n, first);
            let parts = data.par_chunks_mut(PART.0 * lanes).with_min_len(PART.1 / (PART.0 * lanes)).enumerate();
            parts.for_each(|(part, data)| {
                let columns = part * PART.0..k.min((part + 1) * PART.0);
                isa.run(LayOut { x, first, columns, gain, lanes, data });
            });
        });
        Lanes { isa, n, k, data }
    }

    /// The instruction set that they are for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Lanes of the block that begins at row `first`.
    pub fn lanes(&self, first: usize) -> usize {
        lanes(self.isa, self.n, first)
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.n
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.k
    }

    /// Some columns of the block that begins at row `first`, as [columns][lanes].
    pub fn part(&self, first: usize, columns: Range<usize>) -> &[f32] {
        let lanes = self.lanes(first);
        &self.data[first * self.k + columns.start * lanes..][..columns.len() * lanes]
    }

    /// Whether `rows` are blocks of these.
    pub fn in_blocks(&self, rows: &Range<usize>) -> bool {
        let block = self.isa.block();
        rows.start.is_multiple_of(block) && (rows.end == self.n || rows.end < self.n && rows.end.is_multiple_of(block))
    }
}

/// Lays out some columns of the rows from `first` on, as [columns][lanes]; rows of x are contiguous.
pub struct LayOut<'a> {
    pub x: ArrayView2<'a, f32>,
    pub first: usize,
    pub columns: Range<usize>,
    pub gain: Option<&'a [f32]>,
    pub lanes: usize,
    pub data: &'a mut [f32],
}

impl Run for LayOut<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        /// Columns that are asked for ahead of their turn: of so many rows at once, the processor does not notice by itself.
        const AHEAD: usize = 4 * LINE;
        let LayOut { x, first, columns, gain, lanes, data } = self;
        let rows = x.slice(s![first..x.nrows().min(first + lanes), ..]);
        let stride = rows.strides()[0];
        for start in columns.clone().step_by(V::LANES) {
            let width = (columns.end - start).min(V::LANES);
            if start.is_multiple_of(LINE) {
                let from = rows.as_ptr().wrapping_add(start + AHEAD);
                Ahead::new(from, rows.nrows(), stride as usize, 1).within(1).ask();
            }
            // SAFETY: `width` keeps loads inside of the gain, and of `there` rows that are there and contiguous.
            unsafe {
                let gain = match gain {
                    Some(gain) => V::load_first(width, gain[start..start + width].as_ptr()),
                    None => V::spread(1.0),
                };
                for lane in (0..lanes).step_by(V::LANES) {
                    let there = (rows.nrows() - lane.min(rows.nrows())).min(V::LANES);
                    let from = (rows.as_ptr().wrapping_offset(lane as isize * stride).wrapping_add(start), stride);
                    let to = &mut data[(start - columns.start) * lanes + lane..];
                    // Sizes that are known when this is compiled leave no branch.
                    match there == V::LANES && width == V::LANES {
                        true => lay_out::<V>(from, (V::LANES, V::LANES), gain, to, lanes),
                        false => lay_out::<V>(from, (there, width), gain, to, lanes),
                    }
                }
            }
        }
    }
}

/// Lays out a square: `rows` rows of `columns` elements, which begin `stride` behind each other, times `gain`, as
/// [columns][lanes] in steps of `step`.
///
/// # Safety
/// These rows must be there.
#[inline(always)]
unsafe fn lay_out<V: Vector>(
    (from, stride): (*const f32, isize),
    (rows, columns): (usize, usize),
    gain: V,
    to: &mut [f32],
    step: usize,
) {
    assert!(columns == 0 || to.len() >= (columns - 1) * step + V::LANES, "room for every column");
    // SAFETY: by the caller's word, and the room that was asked for.
    unsafe {
        let mut square = [V::zero(); MOST_LANES];
        for (i, row) in square.iter_mut().enumerate().take(rows) {
            let from = from.offset(i as isize * stride);
            *row = if columns == V::LANES { V::load(from) } else { V::load_first(columns, from) }.mul(gain);
        }
        V::turn(&mut square);
        for (i, column) in square.into_iter().enumerate().take(columns) {
            column.store(to.as_mut_ptr().add(i * step));
        }
    }
}

/// y becomes the sums [columns of y][lanes] of its rows, or they are added to it, as `finish` says.
pub struct Write<'a, 'b> {
    pub sums: &'a [f32],
    pub finish: &'a Finish<'a>,
    pub y: ArrayViewMut2<'b, f32>,
}

impl Run for Write<'_, '_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        // SAFETY: by the caller's word.
        unsafe { write::<V>(self.sums, 0, self.finish, &mut self.y) }
    }
}

/// Writes sums [rows of w][lanes] to the rows of y from `first` on.
///
/// # Safety
/// The processor must have the vector's instruction set.
#[inline(always)]
pub unsafe fn write<V: Vector>(sums: &[f32], first: usize, finish: &Finish, y: &mut ArrayViewMut2<f32>) {
    let (n, width) = y.dim();
    let (stride, lanes) = (y.strides()[0], sums.len() / width.max(1));
    assert!(width <= 1 || y.strides()[1] == 1, "rows of y are contiguous");
    assert!([finish.scale, finish.bias].into_iter().flatten().all(|v| v.len() == width), "a value for each column");
    for lane in (0..lanes).step_by(V::LANES) {
        let rows = V::LANES.min(n - (first + lane).min(n));
        for start in (0..width).step_by(LINE) {
            let columns = (width - start).min(LINE);
            // SAFETY: these rows and columns are there, and rows are contiguous.
            unsafe {
                let to = (y.as_mut_ptr().wrapping_offset((first + lane) as isize * stride).wrapping_add(start), stride);
                let from = (&sums[start * lanes + lane..], lanes);
                // Sizes that are known when this is compiled leave no branch.
                match rows == V::LANES && columns == LINE {
                    true => write_lines::<V>(from, start, finish, to, (V::LANES, LINE)),
                    false => write_lines::<V>(from, start, finish, to, (rows, columns)),
                }
            }
        }
    }
}

/// Writes a line of each of so many rows, which begin `stride` behind each other, from the columns of sums in steps of `step`;
/// the first is column `start` of y.
///
/// # Safety
/// So many columns of the rows must be there.
#[inline(always)]
unsafe fn write_lines<V: Vector>(
    (sums, step): (&[f32], usize),
    start: usize,
    finish: &Finish,
    (to, stride): (*mut f32, isize),
    (rows, columns): (usize, usize),
) {
    assert!(columns == 0 || sums.len() >= (columns - 1) * step + V::LANES, "a sum for every column");
    // SAFETY: by the caller's word, and the sums that were asked for.
    unsafe {
        let mut squares = [[V::zero(); MOST_LANES]; 2];
        for (part, square) in squares.iter_mut().enumerate().take(columns.div_ceil(V::LANES)) {
            for (i, row) in square.iter_mut().enumerate().take(V::LANES.min(columns - part * V::LANES)) {
                let column = part * V::LANES + i;
                *row = V::load(sums.as_ptr().add(column * step));
                if let Some(scale) = finish.scale {
                    *row = row.mul(V::spread(scale[start + column]));
                }
                if let Some(bias) = finish.bias {
                    *row = row.add(V::spread(bias[start + column]));
                }
            }
            V::turn(square);
        }
        for i in 0..rows {
            for (part, square) in squares.iter().enumerate().take(columns.div_ceil(V::LANES)) {
                let (mut row, some) = (square[i], V::LANES.min(columns - part * V::LANES));
                let to = to.offset(i as isize * stride).add(part * V::LANES);
                if finish.add {
                    row = row.add(V::load_first(some, to));
                }
                match some == V::LANES {
                    true => row.store(to),
                    false => row.store_first(some, to),
                }
            }
        }
    }
}
