//! What can go wrong between a launch and its device, with the kernel, the operand, what was found and what was expected.

use crate::Element;

/// Result of work on a device.
pub type Result<T> = std::result::Result<T, Error>;

/// Error of the CUDA seam.
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
    /// A call of the driver failed.
    #[error("{call}: {reason}")]
    Driver {
        /// What was asked.
        call: String,
        /// What came back.
        reason: String,
    },
    /// A kernel that is not there.
    #[error("kernel {name} is not in module {module}")]
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
