//! Pinned host memory through which copies to the device go: a ring of pieces. The caller's bytes are copied into a piece and the
//! device fetches them while the caller goes on; a piece is filled again once its last copy is done.

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::driver::{result, sys};

use crate::Address;

/// A step's small copies, such as token ids, take a piece each, and none of them may have to wait.
const PIECES: usize = 32;
const PIECE: usize = 1 << 20;

/// The ring of one stream.
#[derive(Debug)]
pub(super) struct Staging {
    memory: *mut c_void,
    copied: [sys::CUevent; PIECES],
    next: usize,
}

// SAFETY: the memory and the events belong to the context, and are used under a lock.
unsafe impl Send for Staging {}

impl Staging {
    /// # Safety
    /// A context is current.
    pub(super) unsafe fn new() -> Result<Self, result::DriverError> {
        let mut copied = [null_mut(); PIECES];
        for event in &mut copied {
            *event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        }
        // SAFETY: the caller's promise.
        let memory = unsafe { result::malloc_host(PIECES * PIECE, 0)? };
        Ok(Staging { memory, copied, next: 0 })
    }

    /// Queues a copy of `from` to the device.
    ///
    /// # Safety
    /// The context is current, the stream is the one of all copies, and `from.len()` bytes at `to` lie in one allocation.
    pub(super) unsafe fn upload(
        &mut self,
        to: Address,
        from: &[u8],
        stream: sys::CUstream,
    ) -> Result<(), result::DriverError> {
        for (i, part) in from.chunks(PIECE).enumerate() {
            let piece = self.next;
            self.next = (piece + 1) % PIECES;
            // SAFETY: a piece has PIECE bytes, and its event says that the device has read what it held before. An event that
            // was never recorded is done.
            unsafe {
                result::event::synchronize(self.copied[piece])?;
                let pinned = self.memory.cast::<u8>().add(piece * PIECE);
                std::ptr::copy_nonoverlapping(part.as_ptr(), pinned, part.len());
                let pinned = std::slice::from_raw_parts(pinned, part.len());
                result::memcpy_htod_async(to + (i * PIECE) as Address, pinned, stream)?;
                result::event::record(self.copied[piece], stream)?;
            }
        }
        Ok(())
    }

    /// # Safety
    /// The context is current, and the stream is done.
    pub(super) unsafe fn free(&mut self) {
        // A context that is already broken cannot free anything, and there is nobody to tell.
        // SAFETY: made by `new`, and freed once.
        unsafe {
            let _ = result::free_host(self.memory);
            for event in self.copied {
                let _ = result::event::destroy(event);
            }
        }
    }
}
