//! Asking memory for what is wanted next.

use ndarray::ArrayView2;
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

/// Floats of a line of a cache.
pub const LINE: usize = 16;

/// Rows in memory that are wanted next, asked for a few lines at a time meanwhile.
pub struct Ahead {
    from: *const f32,
    rows: usize,
    stride: usize,
    width: usize,
    /// Asked for with every tile.
    lines: usize,
    row: usize,
    column: usize,
}

impl Ahead {
    /// So many rows of `width` elements, each `stride` behind the one before.
    pub fn new(from: *const f32, rows: usize, stride: usize, width: usize) -> Self {
        Ahead { from, rows, stride, width, lines: 0, row: 0, column: 0 }
    }

    /// Nothing.
    pub fn nothing() -> Self {
        Self::new(std::ptr::null(), 0, 0, 0)
    }

    /// The rows of y, to be written soon.
    pub fn of(y: &ArrayView2<f32>) -> Self {
        Self::new(y.as_ptr(), y.nrows(), y.strides()[0] as usize, y.ncols())
    }

    /// As many rows of memory as w has behind it.
    pub fn behind(w: &ArrayView2<f32>) -> Self {
        let (rows, stride) = (w.nrows(), w.strides()[0]);
        Self::new(w.as_ptr().wrapping_offset(rows as isize * stride), rows, stride as usize, w.ncols())
    }

    /// All of it is to be asked for within so many tiles.
    pub fn within(mut self, tiles: usize) -> Self {
        self.lines = (self.rows * self.width.div_ceil(LINE)).div_ceil(tiles.max(1));
        self
    }

    /// Asks for the next few lines, which may lie beyond what is there: that reads nothing.
    #[inline(always)]
    pub fn ask(&mut self) {
        for _ in 0..self.lines {
            if self.row == self.rows {
                return;
            }
            let at = self.from.wrapping_add(self.row * self.stride + self.column);
            // SAFETY: every x86-64 processor has it, and it takes any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
            self.column += LINE;
            if self.column >= self.width {
                (self.row, self.column) = (self.row + 1, 0);
            }
        }
    }
}
