//! Device memory that was given back and waits to be used again. All work is queued on one stream, so a block may be handed out
//! while work that used it before is still queued. Once a training step has run, another of the same sizes
//! allocates nothing.

use std::collections::{BTreeMap, HashMap};

use crate::Address;

/// Blocks by size, and the size of every block.
#[derive(Debug, Default)]
pub struct Pool {
    free: BTreeMap<usize, Vec<Address>>,
    sizes: HashMap<Address, usize>,
}

impl Pool {
    /// Bytes to ask the driver for when no block fits: requests of nearly one size then share blocks.
    pub fn rounded(bytes: usize) -> usize {
        let grain = if bytes < 1 << 20 { 512 } else { 1 << 19 };
        bytes.max(1).next_multiple_of(grain)
    }

    /// The smallest free block that holds `bytes` and wastes no more than a quarter of them.
    pub fn take(&mut self, bytes: usize) -> Option<Address> {
        let wanted = Pool::rounded(bytes);
        let (&size, blocks) = self.free.range_mut(wanted..=wanted + wanted / 4).next()?;
        let address = blocks.pop();
        if blocks.is_empty() {
            self.free.remove(&size);
        }
        address
    }

    /// Remembers a block that the driver gave.
    pub fn adopt(&mut self, address: Address, size: usize) {
        self.sizes.insert(address, size);
    }

    /// Puts a block back.
    pub fn give(&mut self, address: Address) {
        let size = self.sizes[&address];
        self.free.entry(size).or_default().push(address);
    }

    /// Forgets the free blocks, to be given back to the driver.
    pub fn drain(&mut self) -> Vec<Address> {
        let blocks: Vec<Address> = std::mem::take(&mut self.free).into_values().flatten().collect();
        for address in &blocks {
            self.sizes.remove(address);
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_serves_requests_of_about_its_size() {
        let mut pool = Pool::default();
        assert_eq!(pool.take(1000), None);
        for (address, bytes) in [(1, 1000), (2, 1100), (3, 4 << 20)] {
            pool.adopt(address, Pool::rounded(bytes));
            pool.give(address);
        }
        assert_eq!(pool.take(1), None, "1024 bytes for one would waste them");
        assert_eq!(pool.take(900), Some(1));
        assert_eq!(pool.take(900), None, "1536 bytes are more than a quarter above 1024");
        assert_eq!(pool.take(1500), Some(2));
        assert_eq!(pool.take(2 << 20), None);
        assert_eq!(pool.take((4 << 20) - 5), Some(3));
        pool.give(3);
        pool.give(1);
        let mut left = pool.drain();
        left.sort_unstable();
        assert_eq!((left, pool.take(900)), (vec![1, 3], None));
        pool.give(2);
        assert_eq!(pool.take(1100), Some(2));
    }
}
