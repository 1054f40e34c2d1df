//! Where a tensor lives and where its operations run.

use crate::{Error, Result};
use std::fmt;

/// A device. The variant decides which body of an operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor; the rayon pool is its width.
    Cpu,
}

impl Device {
    /// Device of the name `cpu`, `cuda` or `cuda:N`; an error where this machine or this build does not have it.
    pub fn parse(name: &str) -> Result<Self> {
        let ordinal = match name {
            "cpu" => return Ok(Device::Cpu),
            "cuda" => Some(0),
            _ => name.strip_prefix("cuda:").and_then(|n| n.parse::<usize>().ok()),
        };
        match ordinal {
            Some(ordinal) => Device::cuda(ordinal),
            None => Err(Error::Device(format!("unknown device '{name}': expected cpu, cuda or cuda:N"))),
        }
    }

    /// The NVIDIA GPU of that number, probed through the driver.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        dora_kernels::cuda::probe(ordinal).map_err(|e| Error::Device(e.to_string()))?;
        Err(Error::Device(format!("cuda:{ordinal} is present, but this version has no CUDA kernels; use --device cpu")))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
        }
    }
}
