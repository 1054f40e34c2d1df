//! Asking memory for what is wanted next.

use ndarray::ArrayView2;
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

/// Floats of a line of a cache.
pub const LINE: usize = 16;

/// Rows of `width` elements, each `stride` behind the one before. They may lie beyond what is there: asking reads nothing.
#[derive(Clone, Copy)]
pub struct Ahead {
    from: *const f32,
    rows: usize,
    stride: usize,
    width: usize,
    column: usize,
    /// Whether two lines are asked for at a time.
    pairs: bool,
}

// SAFETY: the address is asked for, never read.
unsafe impl Send for Ahead {}
// SAFETY: as above.
unsafe impl Sync for Ahead {}

impl Ahead {
    /// Such rows.
    pub fn new(from: *const f32, rows: usize, stride: usize, width: usize) -> Self {
        Ahead { from, rows: if width == 0 { 0 } else { rows }, stride, width, column: 0, pairs: false }
    }

    /// Nothing.
    pub fn nothing() -> Self {
        Self::new(std::ptr::null(), 0, 0, 0)
    }

    /// What lies so many elements behind w, whose rows or columns are contiguous.
    pub fn behind(w: &ArrayView2<f32>, elements: isize) -> Self {
        let ((rows, columns), strides) = (w.dim(), w.strides());
        let from = w.as_ptr().wrapping_offset(elements);
        match strides[1] {
            1 => Self::new(from, rows, strides[0] as usize, columns),
            along => Self::new(from, columns, along as usize, rows),
        }
    }

    /// Some of its rows, as parts of a whole.
    pub fn part(&self, part: Range<usize>, whole: usize) -> Self {
        let row = |at: usize| self.rows * at.min(whole) / whole.max(1);
        let (first, end) = (row(part.start), row(part.end));
        Ahead { from: self.from.wrapping_add(first * self.stride), rows: end - first, ..*self }
    }

    /// So that asking so many times asks for all of it, or for twice as many lines at least.
    pub fn within(self, times: usize) -> Self {
        Ahead { pairs: self.rows * self.width.div_ceil(LINE) > times, ..self }
    }

    /// Asks for the next line, or two.
    #[inline(always)]
    pub fn ask(&mut self) {
        if self.rows > 0 {
            let at = self.from.wrapping_add(self.column);
            // SAFETY: every x86-64 processor has it, and it takes any address.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(at.cast());
                self.column += LINE;
                if self.pairs {
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(LINE).cast());
                    self.column += LINE;
                }
            }
            if self.column >= self.width {
                (self.from, self.rows, self.column) = (self.from.wrapping_add(self.stride), self.rows - 1, 0);
            }
        }
    }

    /// Asks for all of it.
    #[inline(always)]
    pub fn ask_all(mut self) {
        while self.rows > 0 {
            self.ask();
        }
    }
}
