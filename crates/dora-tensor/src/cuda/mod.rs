//! A device that runs the kernels of `kernels/*.cu` through a [`Driver`], and what the device bodies of operations share:
//! memory, matrix products, and small things that the host makes and the device keeps.
//!
//! Activations and what products read are bf16 with sums in f32, or f32 throughout, as the device was opened. Parameters, their
//! gradients and the optimizer's state are f32. Work is queued; only copies to the host wait.

mod copied;
mod products;
#[cfg(test)]
mod tests;

pub(crate) use copied::Copied;
pub(crate) use products::{accumulate, overwrite, product};

use crate::profile::Total;
use crate::{DType, Error, Result, Tensor};
use dora_kernels::cuda::CudaDriver;
use dora_kernels::{Buffer, Driver, Element, Timed, Work};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

/// Constants that a device keeps: those of a step, and some to spare.
const CONSTANTS: usize = 16;

/// A device, open for the rest of the process.
#[derive(Clone, Copy)]
pub struct Cuda(&'static Opened);

struct Opened {
    name: String,
    /// The driver, twice: as what it is, and as what everybody takes it for.
    timed: Arc<Timed>,
    driver: Arc<dyn Driver>,
    activations: DType,
    constants: Mutex<VecDeque<(Vec<u32>, Arc<Buffer>)>>,
}

impl Cuda {
    /// The NVIDIA GPU of that number with activations of bf16; opened once.
    pub fn open(ordinal: usize) -> Result<Self> {
        static OPEN: Mutex<BTreeMap<usize, Cuda>> = Mutex::new(BTreeMap::new());
        let mut open = OPEN.lock().expect("opening does not panic");
        if let Some(gpu) = open.get(&ordinal) {
            return Ok(*gpu);
        }
        let driver = CudaDriver::open(ordinal).map_err(|e| Error::Device(e.to_string()))?;
        let gpu = Cuda::new(format!("cuda:{ordinal}"), Arc::new(driver), DType::BF16);
        open.insert(ordinal, gpu);
        Ok(gpu)
    }

    /// A device of that name over a driver; `activations` are of bf16 or f32.
    pub fn new(name: String, driver: Arc<dyn Driver>, activations: DType) -> Self {
        assert!(activations != DType::F16, "there are kernels for activations of bf16 and f32");
        let timed = Arc::new(Timed::new(driver));
        let (driver, constants) = (timed.clone(), Mutex::default());
        Cuda(Box::leak(Box::new(Opened { name, timed, driver, activations, constants })))
    }

    /// Begins to time what is queued.
    pub fn start_profile(self) {
        self.0.timed.start();
    }

    /// Ends timing, and gives the sums by kernel and by shape of product; bytes are not counted.
    pub fn finish_profile(self) -> Result<Vec<(String, Total)>> {
        let total = |Work { calls, time, flops }| Total { calls, seconds: time.as_secs_f64(), flops, bytes: 0 };
        Ok(self.0.timed.finish()?.into_iter().map(|(name, work)| (name, total(work))).collect())
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// Element type of activations.
    pub fn activations(self) -> DType {
        self.0.activations
    }

    pub(crate) fn driver(self) -> &'static Arc<dyn Driver> {
        &self.0.driver
    }

    /// A tensor of arbitrary content, to be written.
    pub(crate) fn room(self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let buffer = Buffer::new(self.driver(), dtype.into(), shape.iter().product())?;
        Ok(Tensor::from_buffer(self, dtype, buffer, shape))
    }

    /// Zeros.
    pub(crate) fn zeros(self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let buffer = Buffer::zeros(self.driver(), dtype.into(), shape.iter().product())?;
        Ok(Tensor::from_buffer(self, dtype, buffer, shape))
    }

    /// Words that the host made, copied.
    pub(crate) fn words(self, words: &[u32]) -> Result<Buffer> {
        Ok(Buffer::from_bytes(self.driver(), Element::U32, bytemuck::cast_slice(words))?)
    }

    /// A few numbers that several kernels of a step read from device memory. The last ones asked for are kept.
    pub(crate) fn constant(self, element: Element, words: &[u32]) -> Result<Arc<Buffer>> {
        let mut constants = self.0.constants.lock().expect("copying does not panic");
        let same = |(known, buffer): &&(Vec<u32>, Arc<Buffer>)| known == words && buffer.element() == element;
        if let Some((_, buffer)) = constants.iter().find(same) {
            return Ok(buffer.clone());
        }
        let buffer = Arc::new(Buffer::from_bytes(self.driver(), element, bytemuck::cast_slice(words))?);
        constants.truncate(CONSTANTS - 1);
        constants.push_front((words.to_vec(), buffer.clone()));
        Ok(buffer)
    }
}

impl PartialEq for Cuda {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Cuda {}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cuda({}, {})", self.name(), self.activations())
    }
}

impl From<DType> for Element {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Element::F32,
            DType::BF16 => Element::BF16,
            DType::F16 => Element::F16,
        }
    }
}
