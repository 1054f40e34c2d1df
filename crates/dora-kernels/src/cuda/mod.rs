//! The driver that users get: NVIDIA's, opened at run time through cudarc. One context, one stream, one pool of memory.

mod blas;
mod modules;
mod probe;
mod staging;

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cudarc::driver::{result, sys};

use crate::{Address, Arg, Driver, Error, Event, Gemm, Pool, Result, Shape};
pub use blas::{Blas, WORKSPACE};
pub use modules::MODULES;
pub use probe::probe;
use staging::Staging;

/// Dynamic shared memory that a kernel may have without asking.
const ORDINARY_SHARED: u32 = 48 * 1024;

/// A GPU.
#[derive(Debug)]
pub struct CudaDriver {
    name: String,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    functions: Mutex<Functions>,
    pool: Mutex<Pool>,
    staging: Mutex<Staging>,
    workspace: Address,
    blas: Mutex<Blas>,
}

#[derive(Debug, Default)]
struct Functions {
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<String, sys::CUfunction>,
}

// SAFETY: the driver's handles may be used from any thread on which their context is current; `enter` makes it so.
unsafe impl Send for CudaDriver {}
// SAFETY: as above; what changes is behind locks.
unsafe impl Sync for CudaDriver {}

impl CudaDriver {
    /// The GPU of that number.
    pub fn open(ordinal: usize) -> Result<Self> {
        let device = probe::find(ordinal)?;
        let failed = |call: &str, e: result::DriverError| Error::driver(format!("cuda:{ordinal}: {call}"), e);
        // SAFETY: the device exists; the context is current until the driver is complete.
        unsafe {
            let context = result::primary_ctx::retain(device).map_err(|e| failed("opening a context", e))?;
            result::ctx::set_current(context).map_err(|e| failed("entering the context", e))?;
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
            let stream = stream.map_err(|e| failed("making a stream", e))?;
            let staging = Staging::new().map_err(|e| failed("pinning memory for copies", e))?;
            let workspace = result::malloc_sync(WORKSPACE).map_err(|e| failed("allocating cuBLASLt's workspace", e))?;
            let name = result::device::get_name(device).map_err(|e| failed("asking for the name", e))?;
            Ok(CudaDriver {
                name,
                device,
                context,
                stream,
                functions: Mutex::default(),
                pool: Mutex::default(),
                staging: Mutex::new(staging),
                workspace,
                blas: Mutex::new(Blas::new(workspace)?),
            })
        }
    }

    /// Makes the context current on this thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as the driver.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| Error::driver("entering the context", e))
    }

    fn function(&self, module: &'static str, kernel: &str) -> Result<sys::CUfunction> {
        let mut known = lock(&self.functions);
        if let Some(function) = known.functions.get(kernel) {
            return Ok(*function);
        }
        let missing = || Error::NoKernel { module: module.to_owned(), name: kernel.to_owned() };
        let loaded = match known.modules.get(module) {
            Some(loaded) => *loaded,
            None => {
                let (_, ptx) = MODULES.iter().find(|(name, _)| *name == module).ok_or_else(missing)?;
                let text = CString::new(*ptx).expect("PTX holds no zero byte");
                // SAFETY: PTX text that ends with a zero, and the context is current.
                let loaded = unsafe { result::module::load_data(text.as_ptr().cast()) };
                let loaded = loaded.map_err(|e| Error::driver(format!("loading the kernels of {module}"), e))?;
                known.modules.insert(module, loaded);
                loaded
            }
        };
        let name = CString::new(kernel).map_err(|_| missing())?;
        // SAFETY: the module stays loaded as long as the driver.
        let function = unsafe { result::module::get_function(loaded, name) }.map_err(|_| missing())?;
        known.functions.insert(kernel.to_owned(), function);
        Ok(function)
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        // SAFETY: the context is current.
        let first = unsafe { result::malloc_sync(bytes) };
        if first.is_ok() {
            return first.map_err(|e| Error::driver("allocating", e));
        }
        // Out of memory, perhaps for blocks of other sizes that lie unused.
        self.synchronize()?;
        for address in lock(&self.pool).drain() {
            // SAFETY: the pool's blocks came from the driver, nothing uses them, and the stream is done.
            unsafe { result::free_sync(address) }.map_err(|e| Error::driver("freeing", e))?;
        }
        // SAFETY: as above.
        unsafe { result::malloc_sync(bytes) }.map_err(|e| {
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
        self.enter()?;
        if let Some(address) = lock(&self.pool).take(bytes) {
            return Ok(address);
        }
        let size = Pool::rounded(bytes);
        let address = self.allocate(size)?;
        lock(&self.pool).adopt(address, size);
        Ok(address)
    }

    unsafe fn free(&self, address: Address, _bytes: usize) {
        lock(&self.pool).give(address);
    }

    unsafe fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise; all copies use this stream.
        unsafe { lock(&self.staging).upload(to, from, self.stream) }
            .map_err(|e| Error::driver(format!("copying {} bytes to the device", from.len()), e))
    }

    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.enter()?;
        let bytes = to.len();
        // SAFETY: the caller's promise; `to` is borrowed until the stream is done.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream) }
            .map_err(|e| Error::driver(format!("copying {bytes} bytes from the device"), e))?;
        self.synchronize()
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }
            .map_err(|e| Error::driver(format!("copying {bytes} bytes within the device"), e))
    }

    unsafe fn zero(&self, to: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        unsafe { result::memset_d8_async(to, 0, bytes, self.stream) }
            .map_err(|e| Error::driver(format!("clearing {bytes} bytes"), e))
    }

    unsafe fn launch(&self, module: &'static str, kernel: &str, shape: Shape, args: &[Arg]) -> Result<()> {
        self.enter()?;
        let function = self.function(module, kernel)?;
        let failed = |e: result::DriverError| Error::driver(format!("launching {kernel} with {shape:?}"), e);
        if shape.shared > ORDINARY_SHARED {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a loaded module.
            unsafe { result::function::set_function_attribute(function, attribute, shape.shared as i32) }
                .map_err(failed)?;
        }
        let mut parameters: Vec<*mut c_void> = args.iter().map(Arg::value).collect();
        let [x, y, z] = shape.grid;
        let block = (shape.threads, 1, 1);
        // SAFETY: the caller's promise; the driver copies the parameters before it returns.
        unsafe { result::launch_kernel(function, (x, y, z), block, shape.shared, self.stream, &mut parameters) }
            .map_err(failed)
    }

    unsafe fn gemm(&self, product: &Gemm) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise; the context is current and owns the stream.
        unsafe { lock(&self.blas).run(product, self.stream.cast()) }
    }

    fn record(&self) -> Result<Event> {
        self.enter()?;
        let failed = |e| Error::driver("recording an event", e);
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed)?;
        // SAFETY: the event was just made.
        unsafe { result::event::record(event, self.stream) }.map_err(failed)?;
        Ok(Event(event as u64))
    }

    fn elapsed(&self, from: Event, to: Event) -> Result<Duration> {
        self.enter()?;
        let [from, to] = [from, to].map(|event| event.0 as sys::CUevent);
        // SAFETY: `record` made both, and an event is taken by value, so it is destroyed once.
        let milliseconds = unsafe {
            let time = result::event::synchronize(to).and_then(|()| result::event::elapsed(from, to));
            for event in [from, to] {
                let _ = result::event::destroy(event);
            }
            time
        };
        let milliseconds = milliseconds.map_err(|e| Error::driver("waiting for an event", e))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds) / 1e3))
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as the driver.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| Error::driver("waiting for the device", e))
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        // A device that has failed cannot free anything, and there is nobody to tell. Modules go with the context.
        if self.synchronize().is_err() {
            return;
        }
        // SAFETY: no buffer outlives its driver, so nothing is in use; each is freed once.
        unsafe {
            for address in lock(&self.pool).drain() {
                let _ = result::free_sync(address);
            }
            lock(&self.staging).free();
            let _ = result::free_sync(self.workspace);
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the lock panics")
}
