//! Buffers that operations hand on: a tensor's floats come back here when the tensor goes, so that a training step in steady
//! state asks the system for nothing, and touches no fresh pages (a page fault costs more than filling the page).
//!
//! Memory does not grow by it: free buffers are kept only as far as they and those lent out stay below the most that was ever
//! lent out at a time. Where a new one would go beyond that, the largest free ones are given back to the system first.

use super::floats::Floats;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Floats of the smallest buffer that is kept.
const SMALLEST: usize = 4096;

/// Floats freed between two times that the system gets them: 16 MiB.
const HANDED_ON: usize = 4 << 20;

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// Sizes are in floats.
struct Pool {
    /// Free buffers by capacity.
    free: BTreeMap<usize, Vec<Floats>>,
    /// Size of all free ones.
    kept: usize,
    /// Size of those lent out; less where some came in that were never lent.
    lent: usize,
    /// The most that was lent out at a time.
    most: usize,
    /// Size of those freed since the C library was told to hand its own free memory on.
    freed: usize,
}

impl Pool {
    const fn new() -> Self {
        Pool { free: BTreeMap::new(), kept: 0, lent: 0, most: 0, freed: 0 }
    }

    fn pop(&mut self, capacity: usize) -> Option<Floats> {
        let list = self.free.get_mut(&capacity)?;
        let buffer = list.pop();
        if list.is_empty() {
            self.free.remove(&capacity);
        }
        self.kept -= capacity;
        buffer
    }

    /// Lends the smallest free buffer that holds `len` floats and is at most half too large (batches differ by less, a model's
    /// widths by more); without one, frees what a new one needs.
    fn take(&mut self, len: usize) -> Option<Floats> {
        let fitting = self.free.range(len..=len + len / 2).next().map(|(&capacity, _)| capacity);
        let buffer = fitting.and_then(|capacity| self.pop(capacity));
        self.lent += buffer.as_ref().map_or(len, Floats::capacity);
        self.most = self.most.max(self.lent);
        while self.kept + self.lent > self.most {
            let largest = self.free.last_key_value().map(|(&capacity, _)| capacity);
            self.freed += largest.and_then(|capacity| self.pop(capacity)).map_or(0, |buffer| buffer.capacity());
        }
        if self.freed > HANDED_ON {
            self.freed = 0;
            hand_on();
        }
        buffer
    }

    fn give_back(&mut self, buffer: Floats) {
        let capacity = buffer.capacity();
        self.lent = self.lent.saturating_sub(capacity);
        self.kept += capacity;
        self.free.entry(capacity).or_default().push(buffer);
    }
}

/// Hands what the C library holds free to the system: freed buffers leave holes between others, which it keeps.
fn hand_on() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// `len` floats of unspecified content.
pub fn buffer(len: usize) -> Floats {
    take(len).unwrap_or_else(|| Floats::zeros(len))
}

/// `len` zeros.
pub fn zeros(len: usize) -> Floats {
    match take(len) {
        Some(mut buffer) => {
            super::for_row_blocks(&mut buffer, 1, |_, part| part.fill(0.0));
            buffer
        }
        None => Floats::zeros(len),
    }
}

fn take(len: usize) -> Option<Floats> {
    if len < SMALLEST {
        return None;
    }
    let mut buffer = POOL.lock().expect("nothing here panics").take(len)?;
    buffer.resize(len);
    Some(buffer)
}

/// Gives a buffer back.
pub fn recycle(buffer: Floats) {
    if buffer.capacity() >= SMALLEST {
        POOL.lock().expect("nothing here panics").give_back(buffer);
    }
}

/// Gives every free buffer back to the system, where tensors of other sizes are to come.
pub fn release_buffers() {
    let mut pool = POOL.lock().expect("nothing here panics");
    pool.free.clear();
    pool.kept = 0;
    hand_on();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer of `len` floats, and whether it is a new one.
    fn lend(pool: &mut Pool, len: usize) -> (Floats, bool) {
        let found = pool.take(len);
        let new = found.is_none();
        (found.unwrap_or_else(|| Floats::zeros(len)), new)
    }

    #[test]
    fn a_buffer_comes_back_where_it_fits() {
        let mut pool = Pool::new();
        let (a, new) = lend(&mut pool, 9001);
        assert!(new);
        pool.give_back(a);
        assert!(lend(&mut pool, 9002).1, "too small");
        pool.give_back(Floats::zeros(9001));
        let (again, new) = lend(&mut pool, 6001);
        assert_eq!((again.capacity(), new), (9001, false));
        pool.give_back(again);
        assert!(lend(&mut pool, 6000).1, "more than half too large");
    }

    /// Sizes that take turns stay, below the most that was lent at a time; beyond it the largest go.
    #[test]
    fn no_more_is_kept_than_was_once_lent() {
        let mut pool = Pool::new();
        let lent: Vec<_> = [8000, 5000, 3000].map(|len| lend(&mut pool, len).0).into();
        lent.into_iter().for_each(|buffer| pool.give_back(buffer));
        assert_eq!((pool.kept, pool.lent, pool.most), (16_000, 0, 16_000));
        for len in [8000, 3000, 5000, 8000, 3000] {
            let (buffer, new) = lend(&mut pool, len);
            assert!(!new, "{len}");
            pool.give_back(buffer);
        }
        let (large, new) = lend(&mut pool, 13_000);
        assert!(new);
        assert_eq!((pool.kept, pool.lent, pool.most), (3000, 13_000, 16_000));
        pool.give_back(large);
        let (_larger, _) = lend(&mut pool, 20_000);
        assert_eq!((pool.kept, pool.lent, pool.most), (0, 20_000, 20_000));
    }

    #[test]
    fn zeros_are_zeros_in_a_used_buffer() {
        recycle(vec![7.0; 900_001].into());
        assert_eq!(zeros(899_999).iter().filter(|&&x| x != 0.0).count(), 0);
    }
}
