//! The CUDA seam: devices, their memory, and one typed launcher per kernel of `kernels/*.cu`. The driver library is found at run
//! time: nothing is linked, so one binary serves machines with and without a GPU. This crate knows no tensors.

mod buffer;
mod driver;
mod element;
mod error;
mod gemm;
pub mod host;
mod kernel;
pub mod launch;

pub use buffer::{Buffer, View, ViewMut};
pub use driver::{Address, Arg, Driver, Event, Shape};
pub use element::Element;
pub use error::{Error, Result};
pub use gemm::{Gemm, Operand, gemm};
pub use kernel::{Kernel, Kind, Parameter};

use cudarc::driver::{CudaContext, sys};

/// Checks that the GPU of that number can be opened.
pub fn probe(ordinal: usize) -> Result<()> {
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
