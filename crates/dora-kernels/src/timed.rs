//! A driver that can time what it is asked to queue: each kernel, product, copy and clearing between two events on the device.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::{Address, Arg, Driver, Event, Gemm, Result, Shape};

/// Launches whose events may wait to be read: beyond them the device is waited for, so that a long run does not gather them all.
const QUEUED: usize = 8192;

/// Another driver, timed from [`Timed::start`] to [`Timed::finish`] and as it is otherwise.
#[derive(Debug)]
pub struct Timed {
    driver: Arc<dyn Driver>,
    /// `None` where nothing is timed.
    since_start: Mutex<Option<Times>>,
}

#[derive(Debug, Default)]
struct Times {
    sums: BTreeMap<String, Work>,
    queued: Vec<Queued>,
}

#[derive(Debug)]
struct Queued {
    name: String,
    flops: u64,
    span: [Event; 2],
}

/// Sums over all that was queued under a name.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// How often.
    pub calls: u64,
    /// Time on the device.
    pub time: Duration,
    /// Floating-point operations of its matrix products, 2·m·n·k each.
    pub flops: u64,
}

impl Times {
    /// Adds what was queued to the sums, once the device is done with it.
    fn read(&mut self, driver: &dyn Driver) -> Result<()> {
        for Queued { name, flops, span: [from, to] } in self.queued.drain(..) {
            let time = driver.elapsed(&from, &to)?;
            let work = self.sums.entry(name).or_default();
            *work = Work { calls: work.calls + 1, time: work.time + time, flops: work.flops + flops };
        }
        Ok(())
    }
}

impl Timed {
    /// Times nothing yet.
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        Timed { driver, since_start: Mutex::new(None) }
    }

    /// Begins to time.
    pub fn start(&self) {
        *self.since_start() = Some(Times::default());
    }

    /// Ends timing, waits for the device, and gives the sums by name.
    pub fn finish(&self) -> Result<BTreeMap<String, Work>> {
        let mut times = self.since_start().take().unwrap_or_default();
        times.read(&*self.driver)?;
        Ok(times.sums)
    }

    fn since_start(&self) -> MutexGuard<'_, Option<Times>> {
        self.since_start.lock().expect("no holder of the lock panics")
    }

    fn time(&self, name: impl FnOnce() -> String, flops: u64, queue: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut guard = self.since_start();
        let Some(times) = guard.as_mut() else {
            drop(guard);
            return queue();
        };
        let from = self.driver.record()?;
        queue()?;
        times.queued.push(Queued { name: name(), flops, span: [from, self.driver.record()?] });
        if times.queued.len() < QUEUED { Ok(()) } else { times.read(&*self.driver) }
    }
}

impl Driver for Timed {
    fn device(&self) -> String {
        self.driver.device()
    }

    fn alloc(&self, bytes: usize) -> Result<Address> {
        self.driver.alloc(bytes)
    }

    unsafe fn free(&self, address: Address, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.driver.free(address, bytes) }
    }

    unsafe fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        self.time(|| "copy to the device".to_owned(), 0, || unsafe { self.driver.upload(to, from) })
    }

    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        // Not timed: it waits for all that is queued, which is timed.
        // SAFETY: the caller's promise.
        unsafe { self.driver.download(from, to) }
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        self.time(|| "copy within the device".to_owned(), 0, || unsafe { self.driver.copy(to, from, bytes) })
    }

    unsafe fn zero(&self, to: Address, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        self.time(|| "zeros".to_owned(), 0, || unsafe { self.driver.zero(to, bytes) })
    }

    unsafe fn launch(&self, module: &'static str, kernel: &str, shape: Shape, args: &[Arg]) -> Result<()> {
        // SAFETY: the caller's promise.
        self.time(|| kernel.to_owned(), 0, || unsafe { self.driver.launch(module, kernel, shape, args) })
    }

    unsafe fn gemm(&self, product: &Gemm) -> Result<()> {
        let [m, n, k] = product.shape;
        let name = || format!("product {m}x{n}x{k}, {} to {}", product.input, product.output);
        // SAFETY: the caller's promise.
        self.time(name, 2 * (m * n * k) as u64, || unsafe { self.driver.gemm(product) })
    }

    fn record(&self) -> Result<Event> {
        self.driver.record()
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<Duration> {
        self.driver.elapsed(from, to)
    }

    fn synchronize(&self) -> Result<()> {
        self.driver.synchronize()
    }
}
