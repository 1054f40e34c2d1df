//! Buffers that operations hand on: a tensor's vector comes back here when the tensor goes, so that a training step in steady
//! state asks the system for nothing, and touches no fresh pages (a page fault costs more than filling the page).
//!
//! Memory does not grow by it: where no buffer fits, as much as is asked for is given back to the system first.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Floats of the smallest buffer that is kept.
const SMALLEST: usize = 4096;

/// Free buffers by capacity.
static FREE: Mutex<BTreeMap<usize, Vec<Vec<f32>>>> = Mutex::new(BTreeMap::new());

/// A vector of `len` floats of unspecified content.
pub fn buffer(len: usize) -> Vec<f32> {
    take(len).unwrap_or_else(|| vec![0.0; len])
}

/// A vector of `len` zeros.
pub fn zeros(len: usize) -> Vec<f32> {
    match take(len) {
        Some(mut buffer) => {
            super::for_row_blocks(&mut buffer, 1, |_, part| part.fill(0.0));
            buffer
        }
        None => vec![0.0; len],
    }
}

/// Takes the smallest free buffer that holds `len` floats and is at most an eighth too large; else frees as much.
fn take(len: usize) -> Option<Vec<f32>> {
    if len < SMALLEST {
        return None;
    }
    let mut free = FREE.lock().expect("nothing here panics");
    let fitting = free.range(len..=len + len / 8).next().map(|(&capacity, _)| capacity);
    if let Some(mut buffer) = fitting.and_then(|capacity| pop(&mut free, capacity)) {
        buffer.resize(len, 0.0);
        return Some(buffer);
    }
    let mut freed = 0;
    while let Some(buffer) =
        free.last_key_value().map(|(&c, _)| c).filter(|_| freed < len).and_then(|c| pop(&mut free, c))
    {
        freed += buffer.capacity();
    }
    None
}

fn pop(free: &mut BTreeMap<usize, Vec<Vec<f32>>>, capacity: usize) -> Option<Vec<f32>> {
    let list = free.get_mut(&capacity)?;
    let buffer = list.pop();
    if list.is_empty() {
        free.remove(&capacity);
    }
    buffer
}

/// Gives a buffer back.
pub fn recycle(buffer: Vec<f32>) {
    if buffer.capacity() >= SMALLEST {
        FREE.lock().expect("nothing here panics").entry(buffer.capacity()).or_default().push(buffer);
    }
}

/// Gives every free buffer back to the system, where tensors of other sizes are to come.
pub fn release_buffers() {
    FREE.lock().expect("nothing here panics").clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes that no other test of this crate uses, since the pool is the process's.
    #[test]
    fn a_buffer_comes_back_where_it_fits() {
        recycle(vec![7.0; 1_000_003]);
        assert_eq!(buffer(500_009)[0], 0.0);
        assert_eq!(zeros(1_000_001).iter().filter(|&&x| x != 0.0).count(), 0);
        recycle(vec![7.0; 900_001]);
        let again = buffer(900_000);
        assert_eq!((again[0], again.len()), (7.0, 900_000));
        recycle(again);
        assert_eq!(zeros(899_999).iter().filter(|&&x| x != 0.0).count(), 0);
    }
}
