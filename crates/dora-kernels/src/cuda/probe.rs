//! Whether a GPU can be used: the driver library, its release, the device, and the generation of the card.

use std::ffi::c_int;

use cudarc::driver::{result, sys};

use crate::{Error, Result};

/// The release of CUDA whose PTX the kernels are, as `cuDriverGetVersion` counts.
const LEAST_VERSION: c_int = 13_000;
/// The least compute capability that the PTX is for.
const LEAST_CAPABILITY: (c_int, c_int) = (8, 0);

/// Checks that the GPU of that number can be used.
pub fn probe(ordinal: usize) -> Result<()> {
    find(ordinal).map(drop)
}

/// The device of that number, if the driver, its version and the card will do.
pub(super) fn find(ordinal: usize) -> Result<sys::CUdevice> {
    // SAFETY: only asks the loader whether the library opens; cudarc would panic later where it does not.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::NoDriver);
    }
    let refused = |reason: String| Error::NoDevice { ordinal, reason };
    result::init().map_err(|e| refused(e.to_string()))?;
    let mut version = 0;
    // SAFETY: writes one integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(|e| refused(e.to_string()))?;
    if version < LEAST_VERSION {
        return Err(Error::OldDriver { found: (version / 1000, version % 1000 / 10) });
    }
    let number = c_int::try_from(ordinal).map_err(|_| refused("no such number".into()))?;
    let device = result::device::get(number).map_err(|e| refused(e.to_string()))?;
    let attribute = |which| {
        // SAFETY: the device exists.
        unsafe { result::device::get_attribute(device, which) }.map_err(|e| refused(e.to_string()))
    };
    let capability = (
        attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    if capability < LEAST_CAPABILITY {
        return Err(Error::OldDevice { ordinal, found: capability });
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::CudaDriver;

    #[test]
    fn a_missing_device_is_an_error_and_no_panic() {
        for error in [probe(9_999).expect_err("no machine has ten thousand GPUs"), CudaDriver::open(9_999).unwrap_err()]
        {
            let text = error.to_string();
            assert!(text.contains("libcuda") || text.contains("cuda:9999") || text.contains("580"), "{text}");
        }
    }
}
