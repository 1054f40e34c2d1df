//! Owned floats that begin where a line of the cache does: a vector of AVX-512 is a line long, and one that lies across two takes
//! two reads.

use std::ops::{Deref, DerefMut};

/// Floats of a line.
const LINE: usize = 16;

/// A run of floats.
#[derive(Default)]
pub struct Floats {
    /// They and, before them, what the first line lacks.
    all: Vec<f32>,
    start: usize,
    capacity: usize,
}

impl Floats {
    /// `len` zeros at the start of a line.
    pub fn zeros(len: usize) -> Self {
        let mut all = vec![0.0; len + LINE - 1];
        let start = all.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE - 1);
        all.truncate(start + len);
        Floats { all, start, capacity: len }
    }

    /// How many there may be where they lie.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes them so many, at most the capacity, the new ones zeros.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity, "they stay where they lie");
        self.all.resize(self.start + len, 0.0);
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.all[self.start..]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.all[self.start..]
    }
}

/// As they lie, wherever that is.
impl From<Vec<f32>> for Floats {
    fn from(all: Vec<f32>) -> Self {
        Floats { start: 0, capacity: all.capacity(), all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_begin_at_a_line() {
        for len in [0, 1, 15, 16, 17, 4099] {
            let mut floats = Floats::zeros(len);
            assert!(floats.as_ptr().addr().is_multiple_of(64) && floats.len() == len && floats.capacity() == len);
            floats.fill(3.0);
            floats.resize(len / 2);
            floats.resize(len);
            assert!(floats.as_ptr().addr().is_multiple_of(64));
            assert!(floats.iter().enumerate().all(|(i, &x)| x == if i < len / 2 { 3.0 } else { 0.0 }));
        }
        assert_eq!(Floats::from(vec![1.0, 2.0])[..], [1.0, 2.0]);
    }
}
