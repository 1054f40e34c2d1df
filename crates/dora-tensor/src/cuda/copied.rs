//! What the host made and a device reads, such as positions: copied at the first use, and kept beside the original.

use crate::{Cuda, Error, Result};
use std::fmt;
use std::sync::OnceLock;

/// A device's copy, or none yet.
pub(crate) struct Copied<T>(OnceLock<(Cuda, T)>);

impl<T> Copied<T> {
    /// The copy; made where there is none.
    pub(crate) fn get(&self, gpu: Cuda, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        if self.0.get().is_none() {
            // Where two threads made one, the first stays.
            let _ = self.0.set((gpu, make()?));
        }
        match self.0.get().expect("just set") {
            (at, copy) if *at == gpu => Ok(copy),
            (at, _) => Err(Error::Device(format!(
                "what was copied to {at:?} is asked for by {gpu:?}, expected one device a pass"
            ))),
        }
    }
}

impl<T> Default for Copied<T> {
    fn default() -> Self {
        Copied(OnceLock::new())
    }
}

impl<T> fmt::Debug for Copied<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.get().map(|(gpu, _)| gpu))
    }
}
