//! The driver that users get: NVIDIA's, opened at run time through cudarc. One context, one stream, one pool of memory.

mod blas;
mod handles;
mod modules;
mod probe;
mod staging;

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cudarc::driver::{result, sys};

use crate::{Address, Arg, Driver, Error, Event, Gemm, Pool, Result, Shape};
pub use blas::{Blas, WORKSPACE};
use handles::{Context, Mark, Memory, Module, Stream};
pub use modules::MODULES;
pub use probe::probe;
use staging::Staging;

/// A GPU. Fields are dropped from the first on, after all that is queued is done; the context goes with the last that holds it.
#[derive(Debug)]
pub struct CudaDriver {
    name: String,
    blas: Mutex<Blas>,
    _workspace: Memory,
    staging: Mutex<Staging>,
    blocks: Mutex<Blocks>,
    functions: Mutex<Functions>,
    stream: Stream,
    context: Arc<Context>,
}

/// Memory that was asked for, in use or waiting in the pool.
#[derive(Debug, Default)]
struct Blocks {
    pool: Pool,
    memory: HashMap<Address, Memory>,
}

#[derive(Debug, Default)]
struct Functions {
    modules: HashMap<&'static str, Module>,
    functions: HashMap<String, Function>,
}

/// A kernel of a module that stays loaded.
#[derive(Debug, Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: a function may be launched from any thread on which its context is current.
unsafe impl Send for Function {}

impl CudaDriver {
    /// The GPU of that number.
    pub fn open(ordinal: usize) -> Result<Self> {
        let device = probe::find(ordinal)?;
        let failed = |call: &'static str| move |e| Error::driver(format!("cuda:{ordinal}: {call}"), e);
        let context = Context::new(device).map_err(failed("opening a context"))?;
        let name = result::device::get_name(device).map_err(failed("asking for the name"))?;
        let stream = Stream::new(&context).map_err(failed("making a stream"))?;
        let staging = Staging::new(&context).map_err(failed("pinning memory for copies"))?;
        let workspace = Memory::new(&context, WORKSPACE).map_err(failed("allocating cuBLASLt's workspace"))?;
        // SAFETY: the context is current, and the workspace is dropped behind what uses it.
        let blas = unsafe { Blas::new(workspace.address)? };
        Ok(CudaDriver {
            name,
            blas: Mutex::new(blas),
            _workspace: workspace,
            staging: Mutex::new(staging),
            blocks: Mutex::default(),
            functions: Mutex::default(),
            stream,
            context,
        })
    }

    /// Makes the context current on this thread.
    fn enter(&self) -> Result<()> {
        self.context.enter().map_err(|e| Error::driver("entering the context", e))
    }

    fn function(&self, module: &'static str, kernel: &str) -> Result<Function> {
        let mut known = lock(&self.functions);
        if let Some(function) = known.functions.get(kernel) {
            return Ok(*function);
        }
        let missing = || Error::NoKernel { module: module.to_owned(), name: kernel.to_owned() };
        if !known.modules.contains_key(module) {
            let (_, ptx) = MODULES.iter().find(|(name, _)| *name == module).ok_or_else(missing)?;
            let text = CString::new(*ptx).expect("PTX holds no zero byte");
            let loaded = Module::new(&self.context, &text);
            known
                .modules
                .insert(module, loaded.map_err(|e| Error::driver(format!("loading the kernels of {module}"), e))?);
        }
        let name = CString::new(kernel).map_err(|_| missing())?;
        let function = Function(known.modules[module].function(name).map_err(|_| missing())?);
        known.functions.insert(kernel.to_owned(), function);
        Ok(function)
    }

    fn allocate(&self, blocks: &mut Blocks, bytes: usize) -> Result<Memory> {
        if let Ok(memory) = Memory::new(&self.context, bytes) {
            return Ok(memory);
        }
        // Out of memory, perhaps for blocks of other sizes that lie unused.
        self.synchronize()?;
        for address in blocks.pool.drain() {
            blocks.memory.remove(&address);
        }
        Memory::new(&self.context, bytes).map_err(|e| {
            let free = result::mem_get_info().map_or(0, |(free, _)| free);
            Error::driver(format!("allocating {} MiB with {} MiB free", bytes >> 20, free >> 20), e)
        })
    }
}

impl Driver for CudaDriver {
    fn device(&self) -> String {
        self.name.clone()
    }

    fn alloc(&self, bytes: usize) -> Result<Address> {
        let mut blocks = lock(&self.blocks);
        if let Some(address) = blocks.pool.take(bytes) {
            return Ok(address);
        }
        let size = Pool::rounded(bytes);
        let memory = self.allocate(&mut blocks, size)?;
        let address = memory.address;
        blocks.pool.adopt(address, size);
        blocks.memory.insert(address, memory);
        Ok(address)
    }

    unsafe fn free(&self, address: Address, _bytes: usize) {
        lock(&self.blocks).pool.give(address);
    }

    unsafe fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise; all copies use this stream.
        unsafe { lock(&self.staging).upload(to, from, &self.stream) }
            .map_err(|e| Error::driver(format!("copying {} bytes to the device", from.len()), e))
    }

    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.enter()?;
        let bytes = to.len();
        // SAFETY: the caller's promise; `to` is borrowed until the stream is done.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.handle) }
            .map_err(|e| Error::driver(format!("copying {bytes} bytes from the device"), e))?;
        self.synchronize()
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.handle) }
            .map_err(|e| Error::driver(format!("copying {bytes} bytes within the device"), e))
    }

    unsafe fn zero(&self, to: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        unsafe { result::memset_d8_async(to, 0, bytes, self.stream.handle) }
            .map_err(|e| Error::driver(format!("clearing {bytes} bytes"), e))
    }

    unsafe fn launch(&self, module: &'static str, kernel: &str, shape: Shape, args: &[Arg]) -> Result<()> {
        self.enter()?;
        let Function(function) = self.function(module, kernel)?;
        let failed = |e: result::DriverError| Error::driver(format!("launching {kernel} with {shape:?}"), e);
        // What a kernel has without asking is 48 KiB less its static shared memory: asked for always.
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to a loaded module.
        unsafe { result::function::set_function_attribute(function, attribute, shape.shared as i32) }
            .map_err(failed)?;
        let mut parameters: Vec<*mut c_void> = args.iter().map(Arg::value).collect();
        let [x, y, z] = shape.grid;
        let block = (shape.threads, 1, 1);
        // SAFETY: the caller's promise; the driver copies the parameters before it returns.
        unsafe { result::launch_kernel(function, (x, y, z), block, shape.shared, self.stream.handle, &mut parameters) }
            .map_err(failed)
    }

    unsafe fn gemm(&self, product: &Gemm) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise; the context is current and owns the stream.
        unsafe { lock(&self.blas).run(product, self.stream.handle.cast()) }
    }

    fn record(&self) -> Result<Event> {
        let mark = Mark::new(&self.context, sys::CUevent_flags::CU_EVENT_DEFAULT);
        let recorded = mark.and_then(|mark| mark.record(&self.stream).map(|()| mark));
        Ok(Event::new(recorded.map_err(|e| Error::driver("recording an event", e))?))
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<Duration> {
        let [from, to] = [from.mark::<Mark>()?, to.mark::<Mark>()?];
        if !from.is_of(&self.context) || !to.is_of(&self.context) {
            return Err(Event::foreign());
        }
        let milliseconds = from.until(to).map_err(|e| Error::driver("waiting for an event", e))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds) / 1e3))
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as the driver.
        unsafe { result::stream::synchronize(self.stream.handle) }
            .map_err(|e| Error::driver("waiting for the device", e))
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        // What is queued may still use what is given back next. It also makes the context current, for the handle of cuBLASLt.
        let _ = self.synchronize();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the lock panics")
}
