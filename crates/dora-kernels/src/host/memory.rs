//! Device memory of the host driver: each allocation lies against a page that cannot be touched, with another in front, so an
//! access behind it faults at once. What the page's grain leaves over in front, and up to 15 bytes behind, holds a pattern that
//! is compared after every launch. Fresh memory is 0xFF: NaN in every float format.

use std::collections::BTreeMap;
use std::ptr::null_mut;

use crate::{Address, Error, Result};

const PAGE: usize = 4096;
const POISON: u8 = 0xFF;
/// As f32 and bf16 it is −1.7e38, so that reading it spoils any result.
const CANARY: u8 = 0xFE;

/// Allocations by address.
#[derive(Debug, Default)]
pub(super) struct Memory {
    live: BTreeMap<Address, Block>,
    free: BTreeMap<usize, Vec<Block>>,
}

/// One allocation and its pages.
#[derive(Debug, Clone, Copy)]
struct Block {
    pages: Address,
    mapped: usize,
    address: Address,
    bytes: usize,
}

impl Memory {
    pub(super) fn alloc(&mut self, bytes: usize) -> Result<Address> {
        let block = match self.free.get_mut(&bytes).and_then(Vec::pop) {
            Some(block) => block,
            None => Block::map(bytes)?,
        };
        // SAFETY: the block is mapped and in no list.
        unsafe { block.fill() };
        self.live.insert(block.address, block);
        Ok(block.address)
    }

    pub(super) fn free(&mut self, address: Address) {
        let block = self.live.remove(&address).expect("freed memory was allocated once");
        self.free.entry(block.bytes).or_default().push(block);
    }

    /// Whether `bytes` bytes at an address lie in one live allocation.
    pub(super) fn holds(&self, address: Address, bytes: usize) -> bool {
        let block = self.live.range(..=address).next_back().map(|(_, block)| block);
        block.is_some_and(|b| address + bytes as Address <= b.address + b.bytes as Address)
    }

    /// Where an address lies with respect to the allocation nearest to it.
    pub(super) fn describe(&self, address: Address) -> String {
        let before = self.live.range(..=address).next_back().map(|(_, block)| block);
        let after = self.live.range(address..).next().map(|(_, block)| block);
        let behind =
            before.map(|b| (address - b.address, b)).filter(|(offset, b)| *offset < (b.bytes + PAGE) as Address);
        match (behind, after) {
            (Some((offset, block)), _) => format!("{offset} bytes from the start of a buffer of {} bytes", block.bytes),
            (None, Some(block)) if block.address - address < 2 * PAGE as Address => {
                format!("{} bytes in front of a buffer of {} bytes", block.address - address, block.bytes)
            }
            _ => format!("address {address:#x}, near no buffer"),
        }
    }

    /// What was written beside the allocations that these addresses lie in.
    pub(super) fn damage(&self, addresses: impl Iterator<Item = Address>) -> Option<String> {
        addresses.filter_map(|a| self.live.range(..=a).next_back()).find_map(|(_, block)| {
            // SAFETY: a live block's pages are mapped, and no launch is running on it.
            let intact = unsafe { block.margins().iter().all(|margin| margin.iter().all(|b| *b == CANARY)) };
            (!intact).then(|| format!("wrote beside a buffer of {} bytes", block.bytes))
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for block in self.live.values().chain(self.free.values().flatten()) {
            // SAFETY: the pages were mapped by `map`, and nothing refers to them any more.
            unsafe { libc::munmap(block.pages as *mut _, block.mapped) };
        }
    }
}

impl Block {
    fn map(bytes: usize) -> Result<Block> {
        let inner = bytes.next_multiple_of(16).next_multiple_of(PAGE);
        let mapped = inner + 2 * PAGE;
        let (protection, flags) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh mapping, and a change of protection within it.
        let pages = unsafe {
            let pages = libc::mmap(null_mut(), mapped, protection, flags, -1, 0);
            let usable = pages != libc::MAP_FAILED
                && libc::mprotect(pages.byte_add(PAGE), inner, libc::PROT_READ | libc::PROT_WRITE) == 0;
            usable.then_some(pages as Address)
        };
        let failed = || Error::driver(format!("allocating {bytes} bytes"), std::io::Error::last_os_error());
        let pages = pages.ok_or_else(failed)?;
        let address = pages + (PAGE + inner - bytes.next_multiple_of(16)) as Address;
        Ok(Block { pages, mapped, address, bytes })
    }

    unsafe fn fill(&self) {
        // SAFETY: the caller's promise; all three ranges lie within the usable pages.
        unsafe {
            for margin in self.margins() {
                margin.fill(CANARY);
            }
            std::slice::from_raw_parts_mut(self.address as *mut u8, self.bytes).fill(POISON);
        }
    }

    /// What lies on the usable pages in front of the allocation and behind it.
    unsafe fn margins(&self) -> [&'static mut [u8]; 2] {
        let start = self.pages + PAGE as Address;
        let end = self.pages + (self.mapped - PAGE) as Address;
        let behind = self.address + self.bytes as Address;
        // SAFETY: both ranges lie within the usable pages, beside the allocation.
        unsafe {
            [
                std::slice::from_raw_parts_mut(start as *mut u8, (self.address - start) as usize),
                std::slice::from_raw_parts_mut(behind as *mut u8, (end - behind) as usize),
            ]
        }
    }
}
