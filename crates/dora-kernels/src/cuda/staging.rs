//! Pinned host memory through which copies to the device go: a ring of pieces. The caller's bytes are copied into a piece and the
//! device fetches them while the caller goes on; a piece is filled again once its last copy is done.

use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::CUevent_flags;

use super::handles::{Context, Mark, Pinned, Stream};
use crate::Address;

/// A step's small copies, such as token ids, take a piece each, and none of them may have to wait.
const PIECES: usize = 32;
const PIECE: usize = 1 << 20;

/// The ring of one stream.
#[derive(Debug)]
pub(super) struct Staging {
    memory: Pinned,
    /// Behind the last copy of each piece.
    copied: Vec<Mark>,
    next: usize,
}

impl Staging {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DriverError> {
        let mark = |_| Mark::new(context, CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let copied = (0..PIECES).map(mark).collect::<Result<_, _>>()?;
        Ok(Staging { memory: Pinned::new(context, PIECES * PIECE)?, copied, next: 0 })
    }

    /// Queues a copy of `from` to the device.
    ///
    /// # Safety
    /// The stream is the one of all copies of this ring, and `from.len()` bytes at `to` lie in one allocation.
    pub(super) unsafe fn upload(&mut self, to: Address, from: &[u8], stream: &Stream) -> Result<(), DriverError> {
        for (i, part) in from.chunks(PIECE).enumerate() {
            let piece = self.next;
            self.next = (piece + 1) % PIECES;
            self.copied[piece].wait()?;
            // SAFETY: a piece has PIECE bytes, and the device has read what it held before: its mark was reached, which also
            // made the context current.
            unsafe {
                let pinned = self.memory.start.cast::<u8>().add(piece * PIECE);
                std::ptr::copy_nonoverlapping(part.as_ptr(), pinned, part.len());
                let pinned = std::slice::from_raw_parts(pinned, part.len());
                result::memcpy_htod_async(to + (i * PIECE) as Address, pinned, stream.handle)?;
            }
            self.copied[piece].record(stream)?;
        }
        Ok(())
    }
}
