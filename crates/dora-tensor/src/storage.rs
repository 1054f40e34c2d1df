//! Bytes behind a tensor: owned vectors, or a slice of a file that is mapped into memory and never copied.

use crate::cpu::{Floats, recycle};
use crate::{Cuda, DType, Device};
use dora_kernels::Buffer;
use half::{bf16, f16};
use std::sync::Arc;

/// Bytes that somebody else keeps alive, such as a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Elements of a tensor, by type.
#[derive(Debug, Clone, Copy)]
pub enum Elements<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// bfloat16.
    BF16(&'a [bf16]),
    /// Half precision.
    F16(&'a [f16]),
}

/// Storage of one tensor on one device.
pub(crate) enum Storage {
    Cpu(CpuStorage),
    /// `buffer` came from the device's driver, and its elements are of `dtype`.
    Cuda {
        gpu: Cuda,
        dtype: DType,
        buffer: Buffer,
    },
}

pub(crate) enum CpuStorage {
    F32(Floats),
    BF16(Vec<bf16>),
    F16(Vec<f16>),
    /// `bytes` are aligned to `dtype` and hold a whole number of its elements (checked by `mapped`).
    Mapped {
        bytes: SharedBytes,
        dtype: DType,
    },
}

impl Drop for CpuStorage {
    fn drop(&mut self) {
        if let CpuStorage::F32(elements) = self {
            recycle(std::mem::take(elements));
        }
    }
}

impl Storage {
    /// Storage over shared bytes; copied only where they are not aligned for their type.
    pub(crate) fn mapped(bytes: SharedBytes, dtype: DType) -> Self {
        let slice = (*bytes).as_ref();
        let aligned = slice.as_ptr().align_offset(dtype.size()) == 0;
        Storage::Cpu(match (aligned, dtype) {
            (true, _) => CpuStorage::Mapped { bytes, dtype },
            (false, DType::F32) => CpuStorage::F32(bytemuck::allocation::pod_collect_to_vec(slice).into()),
            (false, DType::BF16) => CpuStorage::BF16(bytemuck::allocation::pod_collect_to_vec(slice)),
            (false, DType::F16) => CpuStorage::F16(bytemuck::allocation::pod_collect_to_vec(slice)),
        })
    }

    pub(crate) fn device(&self) -> Device {
        match self {
            Storage::Cpu(_) => Device::Cpu,
            Storage::Cuda { gpu, .. } => Device::Cuda(*gpu),
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            Storage::Cpu(CpuStorage::F32(_)) => DType::F32,
            Storage::Cpu(CpuStorage::BF16(_)) => DType::BF16,
            Storage::Cpu(CpuStorage::F16(_)) => DType::F16,
            Storage::Cpu(CpuStorage::Mapped { dtype, .. }) | Storage::Cuda { dtype, .. } => *dtype,
        }
    }

    /// The elements, where the processor can read them.
    pub(crate) fn elements(&self) -> Option<Elements<'_>> {
        Some(match self {
            Storage::Cpu(CpuStorage::F32(v)) => Elements::F32(v),
            Storage::Cpu(CpuStorage::BF16(v)) => Elements::BF16(v),
            Storage::Cpu(CpuStorage::F16(v)) => Elements::F16(v),
            Storage::Cpu(CpuStorage::Mapped { bytes, dtype }) => {
                let slice = (**bytes).as_ref();
                match dtype {
                    DType::F32 => Elements::F32(bytemuck::cast_slice(slice)),
                    DType::BF16 => Elements::BF16(bytemuck::cast_slice(slice)),
                    DType::F16 => Elements::F16(bytemuck::cast_slice(slice)),
                }
            }
            Storage::Cuda { .. } => return None,
        })
    }
}
