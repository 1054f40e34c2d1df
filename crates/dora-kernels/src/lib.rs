//! The CUDA seam: devices, their memory, and one typed launcher per kernel of `kernels/*.cu`. The driver library is found at run
//! time: nothing is linked, so one binary serves machines with and without a GPU. This crate knows no tensors.

mod buffer;
pub mod cuda;
mod driver;
mod element;
mod error;
mod gemm;
pub mod host;
mod kernel;
pub mod launch;
mod pool;
mod timed;

pub use buffer::{Buffer, View, ViewMut};
pub use driver::{Address, Arg, Driver, Event, Shape};
pub use element::Element;
pub use error::{Error, Result};
pub use gemm::{Gemm, Operand, gemm};
pub use kernel::{Kernel, Kind, Parameter};
pub use pool::Pool;
pub use timed::{Timed, Work};
