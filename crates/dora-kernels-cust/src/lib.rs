//! A second loader of the kernels, through cust, which links libcuda where the one that users get opens it at run time. It shares
//! with that one the launchers, the pool and cuBLASLt, and nothing of the rest: contexts, modules, streams, events and copies. A number
//! that differs between the two is a mistake of one of them.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cust::context::{Context, CurrentContext};
use cust::event::EventFlags;
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use cust::{CudaFlags, device, error::CudaError, sys};
use dora_kernels::cuda::{Blas, MODULES, WORKSPACE};
use dora_kernels::{Address, Arg, Driver, Error, Event, Gemm, Pool, Result, Shape};

/// A GPU, through cust. Fields are dropped from the first on: the context goes with the last that holds it.
#[derive(Debug)]
pub struct CustDriver {
    name: String,
    blas: Mutex<Blas>,
    _workspace: Memory,
    modules: Mutex<HashMap<&'static str, Module>>,
    blocks: Mutex<Blocks>,
    stream: Stream,
    context: Arc<Context>,
}

/// Memory that was asked for, in use or waiting in the pool.
#[derive(Debug, Default)]
struct Blocks {
    pool: Pool,
    memory: HashMap<Address, Memory>,
}

/// What an event holds.
struct Mark {
    event: cust::event::Event,
    context: Arc<Context>,
}

/// Memory of a context.
#[derive(Debug)]
struct Memory {
    address: Address,
    context: Arc<Context>,
}

impl Memory {
    fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        enter(context)?;
        let mut address = 0;
        // SAFETY: the context is current; writes one address.
        done(&format!("allocating {} MiB", bytes >> 20), unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) })?;
        Ok(Memory { address, context: context.clone() })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A device that has failed cannot free anything, and there is nobody to tell.
        if enter(&self.context).is_ok() {
            // SAFETY: `new` allocated it.
            let _ = unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}

impl CustDriver {
    /// The GPU of that number.
    pub fn open(ordinal: u32) -> Result<Self> {
        let failed = |e: CudaError| Error::NoDevice { ordinal: ordinal as usize, reason: e.to_string() };
        cust::init(CudaFlags::empty()).map_err(failed)?;
        let device = device::Device::get_device(ordinal).map_err(failed)?;
        let context = Arc::new(Context::new(device).map_err(failed)?);
        let stream = Stream::new(StreamFlags::NON_BLOCKING, None).map_err(failed)?;
        let workspace = Memory::new(&context, WORKSPACE)?;
        let name = device.name().map_err(failed)?;
        // SAFETY: the context is current, and the workspace is dropped behind what uses it.
        let blas = unsafe { Blas::new(workspace.address)? };
        Ok(CustDriver {
            name,
            blas: Mutex::new(blas),
            _workspace: workspace,
            modules: Mutex::default(),
            blocks: Mutex::default(),
            stream,
            context,
        })
    }

    /// Makes the context current on this thread.
    fn enter(&self) -> Result<()> {
        enter(&self.context)
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
        let mut blocks = lock(&self.blocks);
        if let Some(address) = blocks.pool.take(bytes) {
            return Ok(address);
        }
        let size = Pool::rounded(bytes);
        let memory = Memory::new(&self.context, size)?;
        let address = memory.address;
        blocks.pool.adopt(address, size);
        blocks.memory.insert(address, memory);
        Ok(address)
    }

    unsafe fn free(&self, address: Address, _bytes: usize) {
        lock(&self.blocks).pool.give(address);
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
        Ok(Event::new(Mark { event, context: self.context.clone() }))
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<Duration> {
        self.enter()?;
        let [from, to] = [from.mark::<Mark>()?, to.mark::<Mark>()?];
        if [from, to].iter().any(|mark| !Arc::ptr_eq(&mark.context, &self.context)) {
            return Err(Event::foreign());
        }
        let milliseconds = to.event.synchronize().and_then(|()| to.event.elapsed_time_f32(&from.event));
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
        // What is queued may still use what is given back next. It also makes the context current, for the fields that follow.
        let _ = self.synchronize();
    }
}

/// Makes a context current on this thread.
fn enter(context: &Context) -> Result<()> {
    CurrentContext::set_current(context).map_err(|e| Error::driver("entering the context", e))
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
