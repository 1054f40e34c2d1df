//! The host driver: runs the very same `.cu` files on the processor, compiled by the system's C++ compiler against the shim in
//! `kernels/host/`, thread by thread in an order drawn from a seed. It is slow, and there to find mistakes: races, barriers that
//! not all threads reach, accesses outside of buffers, reads of what nobody wrote. It needs the source tree and a C++ compiler.

mod compile;
mod gemm;
mod limits;
mod memory;
mod module;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::{Address, Arg, Driver, Error, Event, Gemm, Result, Shape};
use memory::Memory;
use module::{Module, Runtime};

pub use module::Counters;

/// The processor in place of a GPU.
#[derive(Debug)]
pub struct HostDriver {
    kernels: PathBuf,
    seed: u64,
    runtime: Runtime,
    modules: Mutex<HashMap<&'static str, Arc<Module>>>,
    memory: Mutex<Memory>,
    counters: Mutex<BTreeMap<String, (u64, Counters)>>,
}

/// What an event holds. Launches end before they return.
struct Mark(Instant);

impl HostDriver {
    /// A device that schedules by a seed.
    pub fn new(seed: u64) -> Result<Self> {
        let kernels = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernels"));
        let runtime = Runtime::load(&compile::runtime(&kernels)?)?;
        Ok(HostDriver {
            kernels,
            seed,
            runtime,
            modules: Mutex::default(),
            memory: Mutex::default(),
            counters: Mutex::default(),
        })
    }

    /// Launches of each kernel so far, and what they counted.
    pub fn counters(&self) -> BTreeMap<String, (u64, Counters)> {
        lock(&self.counters).clone()
    }

    /// Kinds of a kernel's parameters as the compiler saw them, a letter each: p pointer, i and l integers, f float.
    pub fn parameters(&self, module: &'static str, kernel: &str) -> Result<String> {
        self.module(module)?.parameters(kernel)
    }

    fn module(&self, name: &'static str) -> Result<Arc<Module>> {
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(name) {
            return Ok(module.clone());
        }
        let source = self.kernels.join(name).with_extension("cu");
        let module = Arc::new(Module::load(&compile::kernels(&self.kernels, &source)?)?);
        modules.insert(name, module.clone());
        Ok(module)
    }

    fn check(&self, what: &str, address: Address, bytes: usize) -> Result<()> {
        if bytes == 0 || lock(&self.memory).holds(address, bytes) {
            return Ok(());
        }
        Err(Error::Fault(format!("{what}: {bytes} bytes at {}", lock(&self.memory).describe(address))))
    }
}

impl Driver for HostDriver {
    fn device(&self) -> String {
        format!("host (scheduling seed {})", self.seed)
    }

    fn alloc(&self, bytes: usize) -> Result<Address> {
        lock(&self.memory).alloc(bytes)
    }

    unsafe fn free(&self, address: Address, _bytes: usize) {
        lock(&self.memory).free(address);
    }

    unsafe fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        self.check("upload", to, from.len())?;
        // SAFETY: the range lies in a live allocation.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.check("download", from, to.len())?;
        // SAFETY: the range lies in a live allocation.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.check("copy", to, bytes)?;
        self.check("copy", from, bytes)?;
        // SAFETY: both ranges lie in live allocations.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn zero(&self, to: Address, bytes: usize) -> Result<()> {
        self.check("zero", to, bytes)?;
        // SAFETY: the range lies in a live allocation.
        unsafe { std::ptr::write_bytes(to as *mut u8, 0, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, module: &'static str, kernel: &str, shape: Shape, args: &[Arg]) -> Result<()> {
        let module = self.module(module)?;
        limits::check(kernel, shape, module.fixed_bytes())?;
        // SAFETY: the caller's promise, and where it fails the guard pages.
        let outcome = unsafe { self.runtime.run(&module, kernel, shape, args, self.seed)? };
        let memory = lock(&self.memory);
        let counted = outcome.map_err(|fault| match fault.address {
            Some(address) => Error::Fault(format!("{}, {}", fault.message, memory.describe(address))),
            None => Error::Fault(fault.message),
        })?;
        let pointers = args.iter().filter_map(|arg| match arg {
            Arg::Pointer(address) if *address != 0 => Some(*address),
            _ => None,
        });
        if let Some(damage) = memory.damage(pointers) {
            return Err(Error::Fault(format!("{kernel}: {damage}")));
        }
        drop(memory);
        let mut counters = lock(&self.counters);
        let (launches, sum) = counters.entry(kernel.to_owned()).or_default();
        *launches += 1;
        sum.add(&counted);
        Ok(())
    }

    unsafe fn gemm(&self, product: &Gemm) -> Result<()> {
        let [m, n, k] = product.shape;
        for (operand, address, len, element) in [
            ("A", product.addresses[0], m * k, product.input),
            ("B", product.addresses[1], k * n, product.input),
            ("D", product.addresses[2], m * n, product.output),
        ] {
            self.check(&format!("gemm: {operand}"), address, len * element.size())?;
        }
        // SAFETY: the three ranges lie in live allocations.
        unsafe { gemm::run(product) };
        Ok(())
    }

    fn record(&self) -> Result<Event> {
        Ok(Event::new(Mark(Instant::now())))
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<Duration> {
        let [from, to] = [from.mark::<Mark>()?, to.mark::<Mark>()?];
        Ok(to.0.saturating_duration_since(from.0))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the lock panics")
}
