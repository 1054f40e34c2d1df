//! The CUDA driver, found at run time: nothing is linked, so one binary serves machines with and without a GPU. This crate
//! knows no tensors.

use cudarc::driver::{CudaContext, sys};

/// Why a GPU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The driver library cannot be loaded.
    #[error("no NVIDIA driver on this machine (libcuda cannot be loaded); use --device cpu")]
    NoDriver,
    /// The driver is there but does not give the device.
    #[error("cuda:{ordinal}: the driver says {reason}")]
    NoDevice {
        /// Number of the device asked for.
        ordinal: usize,
        /// The driver's words.
        reason: String,
    },
}

/// Checks that the GPU of that number can be opened.
pub fn probe(ordinal: usize) -> Result<(), Error> {
    // SAFETY: only asks the loader whether the library opens; cudarc would panic later where it does not.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::NoDriver);
    }
    CudaContext::new(ordinal).map(drop).map_err(|e| Error::NoDevice { ordinal, reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_an_error_and_no_panic() {
        let error = probe(9_999).expect_err("no machine has ten thousand GPUs").to_string();
        assert!(error.contains("libcuda") || error.contains("cuda:9999"), "{error}");
    }
}
