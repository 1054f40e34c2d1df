//! What can go wrong in a tensor operation, with the operation, shapes and types named.

use crate::DType;

/// Result of tensor operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Error of a tensor operation.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Operands whose shapes do not fit.
    #[error("{op}: {operand} has shape {found:?}, expected {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Which operand.
        operand: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have, with the meaning of each dimension.
        expected: String,
    },
    /// An operand of the wrong element type.
    #[error("{op}: found element type {found}, expected {expected}")]
    DType {
        /// The operation.
        op: &'static str,
        /// Type found.
        found: DType,
        /// Type expected.
        expected: DType,
    },
    /// Another argument that the operation cannot take.
    #[error("{op}: {message}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// What was found and what was expected.
        message: String,
    },
    /// A device that is not there.
    #[error("{0}")]
    Device(String),
    /// A kernel or its driver refused.
    #[error(transparent)]
    Kernel(#[from] dora_kernels::Error),
}

impl Error {
    /// A shape error; `expected` reads like `(n, in) = (7, 20)`.
    pub fn shape(op: &'static str, operand: &'static str, found: &[usize], expected: impl Into<String>) -> Self {
        Error::Shape { op, operand, found: found.to_vec(), expected: expected.into() }
    }

    /// An argument error.
    pub fn argument(op: &'static str, message: impl Into<String>) -> Self {
        Error::Argument { op, message: message.into() }
    }
}
