//! Into lanes and back, for any vector. Rows of x are cut into blocks of a few vectors' lanes; in a block the elements of a column
//! lie side by side, the last block filled up with zeros to whole vectors.

use super::Finish;
use super::kernel::Ahead;
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

/// `count` elements from `start` on, if there are any.
///
/// # Safety
/// The processor must have the vector's instruction set.
#[inline(always)]
#[expect(clippy::manual_map, reason = "a closure is not sure to be compiled for the instruction set")]
unsafe fn load<V: Vector>(v: Option<&[f32]>, start: usize, count: usize) -> Option<V> {
    match v {
        // SAFETY: a slice of that length.
        Some(v) => Some(unsafe { V::load_first(count, v[start..start + count].as_ptr()) }),
        None => None,
    }
}

/// Floats of a line of a cache.
pub const LINE: usize = 16;

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
        for start in columns.clone().step_by(V::LANES) {
            let width = (columns.end - start).min(V::LANES);
            if start.is_multiple_of(LINE) {
                let from = rows.as_ptr().wrapping_add(start + AHEAD);
                Ahead::new(from, rows.nrows(), rows.strides()[0] as usize, 1).within(1).ask();
            }
            // SAFETY: `width` keeps loads inside of the gain, and of a row that is there and contiguous; what is stored is a
            // slice of a vector's length.
            unsafe {
                let gain = load(gain, start, width);
                for lane in (0..lanes).step_by(V::LANES) {
                    let mut square = [V::zero(); MOST_LANES];
                    for (i, row) in square.iter_mut().enumerate().take(V::LANES) {
                        let at = first + lane + i;
                        if at < x.nrows() {
                            let from = x.as_ptr().offset(at as isize * x.strides()[0]).add(start);
                            let loaded = match width == V::LANES {
                                true => V::load(from),
                                false => V::load_first(width, from),
                            };
                            *row = if let Some(gain) = gain { loaded.mul(gain) } else { loaded };
                        }
                    }
                    V::turn(&mut square);
                    for (i, column) in square.into_iter().enumerate().take(width) {
                        let to = &mut data[(start - columns.start + i) * lanes + lane..][..V::LANES];
                        column.store(to.as_mut_ptr());
                    }
                }
            }
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
        for line in (0..width).step_by(LINE) {
            // SAFETY: `columns` keeps stores inside of rows that are there and contiguous; sums are read by slices of a vector's
            // length.
            unsafe {
                let mut squares = [[V::zero(); MOST_LANES]; 2];
                let starts = || (line..width.min(line + LINE)).step_by(V::LANES);
                for (square, start) in squares.iter_mut().zip(starts()) {
                    for (row, column) in square.iter_mut().zip(start..width).take(V::LANES) {
                        *row = V::load(sums[column * lanes + lane..][..V::LANES].as_ptr());
                        if let Some(scale) = finish.scale {
                            *row = row.mul(V::spread(scale[column]));
                        }
                        if let Some(bias) = finish.bias {
                            *row = row.add(V::spread(bias[column]));
                        }
                    }
                    V::turn(square);
                }
                for i in 0..rows {
                    for (square, start) in squares.iter().zip(starts()) {
                        let (mut row, columns) = (square[i], (width - start).min(V::LANES));
                        let to = y.as_mut_ptr().offset((first + lane + i) as isize * stride).add(start);
                        if finish.add {
                            row = row.add(V::load_first(columns, to));
                        }
                        match columns == V::LANES {
                            true => row.store(to),
                            false => row.store_first(columns, to),
                        }
                    }
                }
            }
        }
    }
}
