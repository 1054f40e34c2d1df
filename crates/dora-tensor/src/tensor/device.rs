//! Tensors on a device: copies to it and from it, and their elements as launchers take them.

use super::Tensor;
use crate::storage::{CpuStorage, Storage};
use crate::{Cuda, DType, Device, Elements, Error, Result};
use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};
use dora_kernels::{Buffer, View, ViewMut, launch};
use std::sync::Arc;

impl Tensor {
    /// The same tensor on another device, off the tape; shares the elements where it is there already. From a device it waits for
    /// all that is queued.
    pub fn to_device(&self, device: Device) -> Result<Tensor> {
        match (&*self.storage, device) {
            (Storage::Cpu(_), Device::Cpu) => Ok(self.detach()),
            (Storage::Cuda { gpu: at, .. }, Device::Cuda(gpu)) if *at == gpu => Ok(self.detach()),
            (Storage::Cpu(_), Device::Cuda(gpu)) => {
                let bytes = match self.elements() {
                    Elements::F32(v) => cast_slice(v),
                    Elements::BF16(v) => cast_slice(v),
                    Elements::F16(v) => cast_slice(v),
                };
                let buffer = Buffer::from_bytes(gpu.driver(), self.dtype().into(), bytes)?;
                Ok(Self::from_buffer(gpu, self.dtype(), buffer, &self.shape))
            }
            (Storage::Cuda { buffer, .. }, Device::Cpu) => {
                let storage = match self.dtype() {
                    DType::F32 => CpuStorage::F32(self.download(buffer)?.into()),
                    DType::BF16 => CpuStorage::BF16(self.download(buffer)?),
                    DType::F16 => CpuStorage::F16(self.download(buffer)?),
                };
                Ok(Self::over(Storage::Cpu(storage), &self.shape))
            }
            (Storage::Cuda { .. }, Device::Cuda(_)) => self.to_device(Device::Cpu)?.to_device(device),
        }
    }

    fn download<T: Pod + Zeroable>(&self, buffer: &Buffer) -> Result<Vec<T>> {
        let mut elements = vec![T::zeroed(); self.numel()];
        buffer.download_range(self.offset..self.offset + self.numel(), cast_slice_mut(&mut elements))?;
        Ok(elements)
    }

    /// Zeros of a device's activations, or of `f32` on the processor.
    pub fn zeros_on(device: Device, shape: &[usize]) -> Result<Tensor> {
        match device {
            Device::Cpu => Ok(Tensor::zeros(shape)),
            Device::Cuda(gpu) => gpu.zeros(gpu.activations(), shape),
        }
    }

    /// The same numbers stored as `dtype` on the tensor's own device.
    pub(crate) fn cast(&self, dtype: DType) -> Result<Tensor> {
        match self.device() {
            Device::Cuda(gpu) if dtype != self.dtype() => {
                let mut y = gpu.room(dtype, &self.shape)?;
                launch::cast(&**gpu.driver(), self.on(gpu, "cast")?, y.write(gpu, "cast")?)?;
                Ok(y)
            }
            _ => Ok(self.to_dtype(dtype)),
        }
    }

    /// Tensor over all of a buffer.
    pub(crate) fn from_buffer(gpu: Cuda, dtype: DType, buffer: Buffer, shape: &[usize]) -> Self {
        debug_assert_eq!(buffer.len(), shape.iter().product::<usize>());
        Self::over(Storage::Cuda { gpu, dtype, buffer }, shape)
    }

    /// The elements, to be read by a kernel.
    pub(crate) fn on(&self, gpu: Cuda, op: &'static str) -> Result<View<'_>> {
        match &*self.storage {
            Storage::Cuda { gpu: at, buffer, .. } if *at == gpu => {
                Ok(buffer.view().slice(self.offset..self.offset + self.numel()))
            }
            _ => Err(self.elsewhere(op, Device::Cuda(gpu))),
        }
    }

    /// Whether nobody else holds the elements, and there are no more than the tensor's.
    pub(crate) fn is_exclusive(&mut self) -> bool {
        let whole = matches!(&*self.storage, Storage::Cuda { buffer, .. } if buffer.len() == self.numel());
        whole && Arc::get_mut(&mut self.storage).is_some()
    }

    /// The elements, to be written by a kernel; copied first where another tensor shares them.
    pub(crate) fn write(&mut self, gpu: Cuda, op: &'static str) -> Result<ViewMut<'_>> {
        if self.device() != Device::Cuda(gpu) {
            return Err(self.elsewhere(op, Device::Cuda(gpu)));
        }
        Ok(self.buffer_mut()?.expect("a tensor on a device has a buffer").view_mut())
    }

    /// The tensor's own buffer where it is on a device, copied first where another tensor shares it.
    pub(super) fn buffer_mut(&mut self) -> Result<Option<&mut Buffer>> {
        if let (false, Storage::Cuda { gpu, dtype, buffer }) = (self.is_exclusive(), &*self.storage) {
            let mut copy = Buffer::new(gpu.driver(), (*dtype).into(), self.numel())?;
            copy.write(0, buffer, self.offset..self.offset + self.numel())?;
            let origin = self.origin.take();
            *self = Self { origin, ..Self::from_buffer(*gpu, *dtype, copy, &self.shape) };
        }
        self.recipe = None;
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::Cuda { buffer, .. }) => Ok(Some(buffer)),
            _ => Ok(None),
        }
    }

    /// Queues a copy of the elements over those of a buffer from `start` on.
    pub(crate) fn copy_into(&self, to: &mut Buffer, start: usize) -> Result<()> {
        match &*self.storage {
            Storage::Cuda { buffer, .. } => Ok(to.write(start, buffer, self.offset..self.offset + self.numel())?),
            Storage::Cpu(_) => Err(Error::argument("write_rows", "rows lie on cpu, expected the device of the target")),
        }
    }

    /// The error of an operation whose operands lie on different devices.
    pub(super) fn elsewhere(&self, op: &'static str, expected: Device) -> Error {
        Error::argument(op, format!("an operand lies on {}, expected {expected}", self.device()))
    }
}
