//! Rows of w as a tile reads them: one stream, in place of as many as it has rows.

use super::kernel::{ROWS, tile_rows};
use super::vector::{MOST_LANES, Run, Vector};
use ndarray::ArrayView2;

/// Packs `width` columns of a strip of rows, which begin `stride` behind each other, as rows of w: those of a tile lie together,
/// [columns of w][rows of the tile], and begin at their first row times `depth`. The strip's rows are columns `column..` of w, of
/// `depth` in all.
pub struct Pack<'a> {
    pub strip: &'a [f32],
    pub stride: usize,
    pub width: usize,
    pub column: usize,
    pub depth: usize,
    pub packed: &'a mut [f32],
}

impl Run for Pack<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Pack { strip, stride, width, column, depth, packed } = self;
        let mut row = 0;
        while row < width {
            let count = tile_rows(width - row);
            let tile = &mut packed[row * depth..(row + count) * depth][column * count..];
            match count {
                ROWS => pack_tile::<ROWS>(strip, stride, row, tile),
                4 => pack_tile::<4>(strip, stride, row, tile),
                2 => pack_tile::<2>(strip, stride, row, tile),
                _ => pack_tile::<1>(strip, stride, row, tile),
            }
            row += count;
        }
    }
}

/// A tile's elements from the strip's first row on.
#[inline(always)]
fn pack_tile<const J: usize>(strip: &[f32], stride: usize, row: usize, tile: &mut [f32]) {
    /// Moved at once: those behind J are written anew with the next row.
    const WIDE: usize = 8;
    let mut to = 0;
    for from in (row..strip.len()).step_by(stride) {
        match J == ROWS && from + WIDE <= strip.len() && to + WIDE <= tile.len() {
            true => tile[to..to + WIDE].copy_from_slice(&strip[from..from + WIDE]),
            false => tile[to..to + J].copy_from_slice(&strip[from..from + J]),
        }
        to += J;
    }
}

/// Packs w (rows, columns), whose rows are contiguous, in the same way; `packed` has a vector's room behind them.
pub struct PackRows<'a> {
    pub w: ArrayView2<'a, f32>,
    pub packed: &'a mut [f32],
}

impl Run for PackRows<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let PackRows { w, packed } = self;
        let ((rows, columns), stride) = (w.dim(), w.strides()[0]);
        assert!(columns <= 1 || w.strides()[1] == 1, "contiguous rows");
        assert!(packed.len() >= w.len() + V::LANES, "room for all and a vector");
        let mut row = 0;
        while row < rows {
            let count = tile_rows(rows - row);
            for start in (0..columns).step_by(V::LANES) {
                let some = (columns - start).min(V::LANES);
                // SAFETY: these rows are there, and `some` of their columns; a vector is stored over the room of elements that
                // come later, the last one over the room behind them.
                unsafe {
                    let mut square = [V::zero(); MOST_LANES];
                    for (j, of_row) in square.iter_mut().enumerate().take(count) {
                        let from = w.as_ptr().offset((row + j) as isize * stride).add(start);
                        *of_row = if some == V::LANES { V::load(from) } else { V::load_first(some, from) };
                    }
                    V::turn(&mut square);
                    for (i, of_column) in square.into_iter().enumerate().take(some) {
                        of_column.store(packed.as_mut_ptr().add(row * columns + (start + i) * count));
                    }
                }
            }
            row += count;
        }
    }
}
