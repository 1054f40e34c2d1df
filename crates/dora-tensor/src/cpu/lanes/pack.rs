//! Factors as a tile reads them: one stream, in place of as many as it has rows or columns.

use super::kernel::{ROWS, tile_rows};
use super::vector::{MOST_LANES, Run, Vector};
use ndarray::ArrayView2;

/// Packs `width` columns of a strip of `depth` rows, which begin `stride` behind each other, as rows of w: those of a tile lie
/// together, [columns of w][rows of the tile], and begin at their first row times `depth`.
pub struct Pack<'a> {
    pub strip: &'a [f32],
    pub stride: usize,
    pub width: usize,
    pub depth: usize,
    pub packed: &'a mut [f32],
}

impl Run for Pack<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Pack { strip, stride, width, depth, packed } = self;
        let mut row = 0;
        while row < width {
            let count = tile_rows(width - row);
            let tile = &mut packed[row * depth..(row + count) * depth];
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

/// Packs w (rows, columns), of any strides, its rows times `by_row` and all of it times `factor`, for
/// [`PackedProduct`](super::kernel::PackedProduct): in tiles of so many columns, a tile as [row][its columns], the last one filled
/// up with zeros to whole vectors.
pub struct PackColumns<'a> {
    pub w: ArrayView2<'a, f32>,
    pub by_row: Option<&'a [f32]>,
    pub factor: f32,
    pub tile: usize,
    pub packed: &'a mut [f32],
}

impl Run for PackColumns<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let PackColumns { w, by_row, factor, tile, packed } = self;
        let (rows, columns) = w.dim();
        assert!(
            packed.len() == rows * columns.next_multiple_of(V::LANES) && tile.is_multiple_of(V::LANES),
            "room for all"
        );
        assert!(by_row.is_none_or(|by| by.len() == rows), "a value each");
        let (down, along) = (w.strides()[0], w.strides()[1]);
        let by_row = |row: usize| factor * by_row.map_or(1.0, |by| by[row]);
        let (from, to) = (w.as_ptr(), packed.as_mut_ptr());
        // SAFETY: `some` and `there` keep loads within rows, columns and values, and the room is as large as was asked for.
        unsafe {
            if columns <= 1 || along == 1 {
                for row in 0..rows {
                    let (from, by) = (from.offset(row as isize * down), V::spread(by_row(row)));
                    for start in (0..columns).step_by(tile) {
                        let width = tile.min(columns - start).next_multiple_of(V::LANES);
                        let to = to.add(start * rows + row * width);
                        for lane in (0..width).step_by(V::LANES) {
                            let (column, some) = (start + lane, (columns - start - lane).min(V::LANES));
                            load::<V>(some, from.add(column)).mul(by).store(to.add(lane));
                        }
                    }
                }
                return;
            }
            assert!(rows <= 1 || down == 1, "rows or columns are contiguous");
            for start in (0..columns).step_by(tile) {
                let width = tile.min(columns - start).next_multiple_of(V::LANES);
                for lane in (0..width).step_by(V::LANES) {
                    let (column, some) = (start + lane, (columns - start - lane).min(V::LANES));
                    let from = from.offset(column as isize * along);
                    for row in (0..rows).step_by(V::LANES) {
                        let there = (rows - row).min(V::LANES);
                        // Sizes that are known when this is compiled leave no branch.
                        let mut square = match some == V::LANES && there == V::LANES {
                            true => square::<V>((from.add(row), along), (V::LANES, V::LANES)),
                            false => square::<V>((from.add(row), along), (some, there)),
                        };
                        V::turn(&mut square);
                        for (i, x) in square.into_iter().enumerate().take(there) {
                            let to = to.add(start * rows + (row + i) * width + lane);
                            x.mul(V::spread(by_row(row + i))).store(to);
                        }
                    }
                }
            }
        }
    }
}

/// The first elements of a vector.
///
/// # Safety
/// As for [`Vector::load_first`].
#[inline(always)]
unsafe fn load<V: Vector>(some: usize, from: *const f32) -> V {
    // SAFETY: by the caller's word.
    unsafe { if some == V::LANES { V::load(from) } else { V::load_first(some, from) } }
}

/// Some vectors, of which some elements count, each `stride` behind the one before.
///
/// # Safety
/// They must be there.
#[inline(always)]
pub unsafe fn square<V: Vector>((from, stride): (*const f32, isize), (some, there): (usize, usize)) -> [V; MOST_LANES] {
    // SAFETY: by the caller's word.
    unsafe {
        let mut square = [V::zero(); MOST_LANES];
        for (i, vector) in square.iter_mut().enumerate().take(some) {
            let from = from.offset(i as isize * stride);
            *vector = load(there, from);
        }
        square
    }
}
