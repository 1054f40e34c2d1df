//! Tensors with tape autograd over fused operations.
//!
//! * [`Tensor`]: a contiguous array on a device (`f32`, `bf16` or `f16` storage, `f32` arithmetic), perhaps recorded on the tape.
//! * [`Parameter`]: a trainable tensor with its gradient.
//! * [`Op`]: what an operation owes the tape: its backward pass, which has no default.
//! * [`Weight`]: a frozen matrix of any precision, seen only through its products.
//! * [`ops`]: one folder per operation.
//!
//! There are no optimizers, layers or files here.

pub mod cpu;
mod cuda;
mod device;
mod dtype;
mod error;
pub mod gradcheck;
pub mod ops;
mod parameter;
pub mod profile;
pub mod rng;
mod saved;
mod storage;
mod tape;
mod tensor;
mod weight;

pub use cuda::Cuda;
pub use device::Device;
pub use dtype::DType;
pub use error::{Error, Result};
pub use parameter::{Parameter, Role};
pub use storage::{Elements, SharedBytes};
pub use tape::{Op, checkpoint, no_grad, record};
pub use tensor::Tensor;
pub use weight::{DenseWeight, Nf4Options, Nf4Parts, Nf4Scales, Nf4Weight, QUANT_MAP, Weight, nested_quant_map};
