//! What can go wrong between a launch and its device, with the kernel, the operand, what was found and what was expected.

use crate::Element;

/// Result of work on a device.
pub type Result<T> = std::result::Result<T, Error>;

/// Error of the CUDA seam.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The driver library cannot be loaded.
    #[error(
        "no NVIDIA driver on this machine (libcuda cannot be loaded): install driver 580 or later, or use --device cpu"
    )]
    NoDriver,
    /// A driver that cannot read the kernels' PTX.
    #[error(
        "the NVIDIA driver serves CUDA {}.{}, expected at least 13.0: install driver 580 or later, or use --device cpu",
        found.0, found.1
    )]
    OldDriver {
        /// Release that the driver serves.
        found: (i32, i32),
    },
    /// A card before Ampere.
    #[error("cuda:{ordinal} has compute capability {}.{}, expected at least 8.0 (Ampere): use --device cpu", found.0, found.1)]
    OldDevice {
        /// Number of the device asked for.
        ordinal: usize,
        /// Its compute capability.
        found: (i32, i32),
    },
    /// The library of matrix products cannot be loaded.
    #[error(
        "libcublasLt cannot be loaded: install CUDA 13's cuBLAS (`pip install 'nvidia-cublas<14'`) and put its folder of \
         libraries on LD_LIBRARY_PATH, or use --device cpu"
    )]
    NoBlas,
    /// The driver is there but does not give the device.
    #[error("cuda:{ordinal}: the driver says {reason}")]
    NoDevice {
        /// Number of the device asked for.
        ordinal: usize,
        /// The driver's words.
        reason: String,
    },
    /// A call of the driver failed.
    #[error("{call}: {reason}")]
    Driver {
        /// What was asked.
        call: String,
        /// What came back.
        reason: String,
    },
    /// A kernel that is not part of this build.
    #[error("kernel {name} of {module}.cu is not part of this binary: run `cargo xtask build-kernels` and build again")]
    NoKernel {
        /// File of `kernels/` without its ending.
        module: String,
        /// Entry point.
        name: String,
    },
    /// A launch that ended early: only the host driver sees these.
    #[error("{0}")]
    Fault(String),
    /// An operand of the wrong length.
    #[error("{kernel}: {operand} has {found} elements, expected {expected}")]
    Length {
        /// The kernel.
        kernel: &'static str,
        /// Its operand.
        operand: &'static str,
        /// Elements found.
        found: usize,
        /// Elements expected.
        expected: usize,
    },
    /// An operand of the wrong element type.
    #[error("{kernel}: {operand} is {found}, expected {expected}")]
    Element {
        /// The kernel.
        kernel: &'static str,
        /// Its operand.
        operand: &'static str,
        /// Type found.
        found: Element,
        /// Type expected.
        expected: String,
    },
    /// An element type that a kernel was not built for.
    #[error("{kernel}: the kernel exists for {expected}, found {found}")]
    NotBuilt {
        /// The kernel.
        kernel: &'static str,
        /// Type found.
        found: Element,
        /// Types that there are.
        expected: String,
    },
    /// Another argument that the kernel cannot take.
    #[error("{kernel}: {message}")]
    Argument {
        /// The kernel.
        kernel: &'static str,
        /// What was found and what was expected.
        message: String,
    },
}

impl Error {
    /// An argument error.
    pub fn argument(kernel: &'static str, message: impl Into<String>) -> Self {
        Error::Argument { kernel, message: message.into() }
    }

    /// A failed call of the driver.
    pub fn driver(call: impl Into<String>, reason: impl ToString) -> Self {
        Error::Driver { call: call.into(), reason: reason.to_string() }
    }
}
