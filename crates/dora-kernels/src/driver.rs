//! What a device can do, as little as the launchers need: memory, copies, launches, products, events. Everything is queued on
//! one stream and runs in the order of the calls; only `download`, `synchronize` and `elapsed` wait.

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::time::Duration;

use crate::{Error, Gemm, Result};

/// An address in device memory.
pub type Address = u64;

/// One argument of a launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// A pointer; 0 is null.
    Pointer(Address),
    /// A 32-bit integer.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A float.
    F32(f32),
}

impl Arg {
    /// Where its value lies, as drivers take parameters.
    pub fn value(&self) -> *mut c_void {
        match self {
            Arg::Pointer(value) => (&raw const *value).cast_mut().cast(),
            Arg::I32(value) => (&raw const *value).cast_mut().cast(),
            Arg::I64(value) => (&raw const *value).cast_mut().cast(),
            Arg::F32(value) => (&raw const *value).cast_mut().cast(),
        }
    }
}

/// Blocks, threads a block, and dynamic shared memory of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// A point in the queue of the driver that recorded it.
pub struct Event(Box<dyn Any + Send + Sync>);

impl Event {
    /// Wraps what a driver knows of the point, whose type nobody else can name.
    pub fn new(mark: impl Any + Send + Sync) -> Self {
        Event(Box::new(mark))
    }

    /// What was wrapped, if its type is `T`.
    pub fn mark<T: Any>(&self) -> Result<&T> {
        self.0.downcast_ref().ok_or_else(Event::foreign)
    }

    /// The error of a driver that did not record an event.
    pub fn foreign() -> Error {
        Error::driver("waiting for an event", "another driver recorded it")
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Event")
    }
}

/// A device.
pub trait Driver: Send + Sync + fmt::Debug {
    /// What the device calls itself.
    fn device(&self) -> String;

    /// Memory of `bytes` bytes, aligned to 16; its content is arbitrary.
    fn alloc(&self, bytes: usize) -> Result<Address>;

    /// Gives memory back; work already queued may still use it.
    ///
    /// # Safety
    /// `address` came from `alloc(bytes)` of this driver, and nothing that is queued later uses it.
    unsafe fn free(&self, address: Address, bytes: usize);

    /// Queues a copy to the device. `from` may change as soon as the call returns.
    ///
    /// # Safety
    /// `from.len()` bytes at `to` lie in one allocation.
    unsafe fn upload(&self, to: Address, from: &[u8]) -> Result<()>;

    /// Waits for the queue, then copies from the device.
    ///
    /// # Safety
    /// `to.len()` bytes at `from` lie in one allocation.
    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<()>;

    /// Queues a copy within the device.
    ///
    /// # Safety
    /// `bytes` bytes at each address lie in one allocation, and the two do not overlap.
    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()>;

    /// Queues zeros.
    ///
    /// # Safety
    /// `bytes` bytes at `to` lie in one allocation.
    unsafe fn zero(&self, to: Address, bytes: usize) -> Result<()>;

    /// Queues a kernel of a module of `kernels/`.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and the memory it reads and writes under them lies in live allocations.
    unsafe fn launch(&self, module: &'static str, kernel: &str, shape: Shape, args: &[Arg]) -> Result<()>;

    /// Queues a matrix product.
    ///
    /// # Safety
    /// The operands' addresses hold the elements that the shape describes.
    unsafe fn gemm(&self, product: &Gemm) -> Result<()>;

    /// Marks this point of the queue.
    fn record(&self) -> Result<Event>;

    /// Waits for both events, which this driver recorded; the time between them on the device.
    fn elapsed(&self, from: &Event, to: &Event) -> Result<Duration>;

    /// Waits until everything queued is done.
    fn synchronize(&self) -> Result<()>;
}
