//! Owned floats that begin where a line of the cache does: a vector of AVX-512 is a line long, and one that lies across two takes
//! two reads. Large ones come from the [pool](super::pool) and go back to it.

use super::pool::{POOL, Span};
use std::ops::{Deref, DerefMut};

/// Floats of a line.
pub(super) const LINE: usize = 16;

/// A run of floats.
pub struct Floats(Home);

enum Home {
    /// `len` of a span that the pool has lent.
    Lent { span: Span, len: usize },
    /// Those from `start` on.
    Own { all: Vec<f32>, start: usize },
}

impl Floats {
    /// `len` zeros at the start of a line, not of the pool.
    pub fn zeros(len: usize) -> Self {
        let mut all = vec![0.0; len + LINE - 1];
        let start = all.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE - 1);
        all.truncate(start + len);
        Floats(Home::Own { all, start })
    }

    /// The first `len` of a span.
    pub(super) fn lent(span: Span, len: usize) -> Self {
        assert!(len <= span.len, "a part of it");
        Floats(Home::Lent { span, len })
    }
}

// SAFETY: a span is lent to one owner.
unsafe impl Send for Floats {}
// SAFETY: as above; what is shared is only read.
unsafe impl Sync for Floats {}

impl Drop for Floats {
    fn drop(&mut self) {
        if let Home::Lent { span, .. } = self.0 {
            POOL.lock().expect("nothing in the pool panics").give_back(span);
        }
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            // SAFETY: the span is lent to this owner, and holds floats from when its memory came from the system.
            Home::Lent { span, len } => unsafe { std::slice::from_raw_parts(span.at, *len) },
            Home::Own { all, start } => &all[*start..],
        }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            // SAFETY: as above; it is borrowed mutably.
            Home::Lent { span, len } => unsafe { std::slice::from_raw_parts_mut(span.at, *len) },
            Home::Own { all, start } => &mut all[*start..],
        }
    }
}

/// As they lie, wherever that is.
impl From<Vec<f32>> for Floats {
    fn from(all: Vec<f32>) -> Self {
        Floats(Home::Own { all, start: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::buffer;

    #[test]
    fn floats_begin_at_a_line() {
        for len in [0, 1, 15, 16, 17, 4099, 70_001] {
            for mut floats in [Floats::zeros(len), buffer(len)] {
                assert!(floats.as_ptr().addr().is_multiple_of(64) && floats.len() == len);
                floats.fill(3.0);
                assert!(floats.iter().all(|&x| x == 3.0));
            }
        }
        assert_eq!(Floats::from(vec![1.0, 2.0])[..], [1.0, 2.0]);
    }
}
