//! Where a tensor lives and where its operations run.

use crate::{Cuda, Error, Result};
use std::fmt;

/// A device. The variant decides which body of an operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The processor; the rayon pool is its width.
    #[default]
    Cpu,
    /// A GPU, or whatever else runs the kernels.
    Cuda(Cuda),
}

impl Device {
    /// Device of the name `cpu`, `cuda` or `cuda:N`; an error where this machine does not have it.
    pub fn parse(name: &str) -> Result<Self> {
        let ordinal = match name {
            "cpu" => return Ok(Device::Cpu),
            "cuda" => Some(0),
            _ => name.strip_prefix("cuda:").and_then(|n| n.parse::<usize>().ok()),
        };
        match ordinal {
            Some(ordinal) => Ok(Device::Cuda(Cuda::open(ordinal)?)),
            None => Err(Error::Device(format!("unknown device '{name}': expected cpu, cuda or cuda:N"))),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(gpu) => f.write_str(gpu.name()),
        }
    }
}
