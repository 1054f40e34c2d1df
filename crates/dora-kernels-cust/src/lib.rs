//! A second loader of the kernels, through cust, which links libcuda where the one that users get opens it at run time. It shares
//! with that one the launchers, the pool and cuBLASLt, and nothing of the rest: contexts, modules, streams, events and copies. A number
//! that differs between the two is a mistake of one of them.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cust::context::{Context, CurrentContext};
use cust::event::EventFlags;
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use cust::{CudaFlags, device, error::CudaError, sys};
use dora_kernels::cuda::{Blas, MODULES, WORKSPACE};
use dora_kernels::{Address, Arg, Driver, Error, Event, Gemm, Pool, Result, Shape};

/// A GPU, through cust. Fields are dropped from the first on: the context goes last.
#[derive(Debug)]
pub struct CustDriver {
    name: String,
    blas: Mutex<Blas>,
    modules: Mutex<HashMap<&'static str, Module>>,
    pool: Mutex<Pool>,
    stream: Stream,
    context: Context,
}

impl CustDriver {
    /// The GPU of that number.
    pub fn open(ordinal: u32) -> Result<Self> {
        let failed = |e: CudaError| Error::NoDevice { ordinal: ordinal as usize, reason: e.to_string() };
        cust::init(CudaFlags::empty()).map_err(failed)?;
        let device = device::Device::get_device(ordinal).map_err(failed)?;
        let context = Context::new(device).map_err(failed)?;
        let stream = Stream::new(StreamFlags::NON_BLOCKING, None).map_err(failed)?;
        let workspace = allocate(WORKSPACE)?;
        let (blas, name) = (Blas::new(workspace)?, device.name().map_err(failed)?);
        Ok(CustDriver {
            name,
            blas: Mutex::new(blas),
            modules: Mutex::default(),
            pool: Mutex::default(),
            stream,
            context,
        })
    }

    /// Makes the context current on this thread.
    fn enter(&self) -> Result<()> {
        CurrentContext::set_current(&self.context).map_err(|e| Error::driver("entering the context", e))
    }

    /// The stream, as cust's own bindings take it.
    fn queue(&self) -> sys::CUstream {
        self.stream.as_inner()
    }
}

impl Driver for CustDriver {
    fn device(&self) -> String {
        format!("{} (cust)", self.name)
    }

    fn alloc(&self, bytes: usize) -> Result<Address> {
        self.enter()?;
        if let Some(address) = lock(&self.pool).take(bytes) {
            return Ok(address);
        }
        let size = Pool::rounded(bytes);
        let address = allocate(size)?;
        lock(&self.pool).adopt(address, size);
        Ok(address)
    }

    unsafe fn free(&self, address: Address, _bytes: usize) {
        lock(&self.pool).give(address);
    }

    unsafe fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise. A copy from pageable memory has left it when the call returns.
        let status = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), self.queue()) };
        done("copying to the device", status)
    }

    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise; `to` is borrowed until the stream is done.
        let status = unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), self.queue()) };
        done("copying from the device", status)?;
        self.synchronize()
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        done("copying within the device", unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.queue()) })
    }

    unsafe fn zero(&self, to: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        done("clearing", unsafe { sys::cuMemsetD8Async(to, 0, bytes, self.queue()) })
    }

    unsafe fn launch(&self, module: &'static str, kernel: &str, shape: Shape, args: &[Arg]) -> Result<()> {
        self.enter()?;
        let missing = || Error::NoKernel { module: module.to_owned(), name: kernel.to_owned() };
        let mut modules = lock(&self.modules);
        if !modules.contains_key(module) {
            let (_, ptx) = MODULES.iter().find(|(name, _)| *name == module).ok_or_else(missing)?;
            let loaded = Module::from_ptx(ptx, &[]);
            modules.insert(module, loaded.map_err(|e| Error::driver(format!("loading the kernels of {module}"), e))?);
        }
        let function = modules[module].get_function(kernel).map_err(|_| missing())?;
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the module of the function is loaded.
        let status = unsafe { sys::cuFuncSetAttribute(function.to_raw(), attribute, shape.shared as i32) };
        done("asking for shared memory", status)?;
        let parameters: Vec<*mut c_void> = args.iter().map(Arg::value).collect();
        let [x, y, z] = shape.grid;
        // SAFETY: the caller's promise; the driver copies the parameters before it returns.
        unsafe { self.stream.launch(&function, (x, y, z), shape.threads, shape.shared, &parameters) }
            .map_err(|e| Error::driver(format!("launching {kernel} with {shape:?}"), e))
    }

    unsafe fn gemm(&self, product: &Gemm) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise; the context is current and owns the stream.
        unsafe { lock(&self.blas).run(product, self.queue().cast()) }
    }

    fn record(&self) -> Result<Event> {
        self.enter()?;
        let failed = |e| Error::driver("recording an event", e);
        let event = cust::event::Event::new(EventFlags::DEFAULT).map_err(failed)?;
        event.record(&self.stream).map_err(failed)?;
        Ok(Event(Box::into_raw(Box::new(event)) as u64))
    }

    fn elapsed(&self, from: Event, to: Event) -> Result<Duration> {
        self.enter()?;
        // SAFETY: `record` made both from boxes, and an event is taken by value, so each becomes a box once.
        let [from, to] = [from, to].map(|event| unsafe { Box::from_raw(event.0 as *mut cust::event::Event) });
        let milliseconds = to.synchronize().and_then(|()| to.elapsed_time_f32(&from));
        let milliseconds = milliseconds.map_err(|e| Error::driver("waiting for an event", e))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds) / 1e3))
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        self.stream.synchronize().map_err(|e| Error::driver("waiting for the device", e))
    }
}

impl Drop for CustDriver {
    fn drop(&mut self) {
        // A device that has failed cannot free anything, and there is nobody to tell.
        if self.synchronize().is_err() {
            return;
        }
        for address in lock(&self.pool).drain() {
            // SAFETY: the pool's blocks came from `allocate`, and no buffer outlives its driver.
            let _ = unsafe { sys::cuMemFree_v2(address) };
        }
    }
}

/// Memory of the current context.
fn allocate(bytes: usize) -> Result<Address> {
    let mut address = 0;
    // SAFETY: writes one address.
    done(&format!("allocating {} MiB", bytes >> 20), unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) })?;
    Ok(address)
}

fn done(call: &str, status: sys::CUresult) -> Result<()> {
    match status {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        failed => Err(Error::driver(call, format!("{failed:?}"))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the lock panics")
}
