//! What a driver owns on a GPU: its context, stream, modules, events and memory. Each is given back when dropped, and holds the
//! context that it belongs to, so that the context goes last. A device that has failed cannot give anything back, and there is nobody
//! to tell: errors while dropping are passed over.

use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use crate::Address;

type Result<T> = std::result::Result<T, DriverError>;

/// A device's primary context, retained once.
#[derive(Debug)]
pub(super) struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
}

// SAFETY: a context may be used from any thread that makes it current; so may what belongs to it.
unsafe impl Send for Context {}
// SAFETY: as above; the driver library locks what it changes.
unsafe impl Sync for Context {}

impl Context {
    /// The context of a device that exists, current on this thread.
    pub(super) fn new(device: sys::CUdevice) -> Result<Arc<Self>> {
        // SAFETY: `probe::find` gave the device.
        let handle = unsafe { result::primary_ctx::retain(device)? };
        let context = Arc::new(Context { device, handle });
        context.enter()?;
        Ok(context)
    }

    /// Makes it current on this thread.
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: retained until this is dropped.
        unsafe { result::ctx::set_current(self.handle) }
    }

    /// Whether a handle of this context may be given back now.
    fn alive(&self) -> bool {
        self.enter().is_ok()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained by `new`, and everything that belongs to it held the context and is gone.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Device memory.
#[derive(Debug)]
pub(super) struct Memory {
    context: Arc<Context>,
    pub(super) address: Address,
}

impl Memory {
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        context.enter()?;
        // SAFETY: the context is current.
        let address = unsafe { result::malloc_sync(bytes)? };
        Ok(Memory { context: context.clone(), address })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.context.alive() {
            // SAFETY: `new` allocated it; freeing waits for the work that is queued.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Host memory that the device can read by itself.
#[derive(Debug)]
pub(super) struct Pinned {
    context: Arc<Context>,
    pub(super) start: *mut c_void,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        context.enter()?;
        // SAFETY: the context is current.
        let start = unsafe { result::malloc_host(bytes, 0)? };
        Ok(Pinned { context: context.clone(), start })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.alive() {
            // SAFETY: `new` allocated it; freeing waits for the copies that are queued.
            let _ = unsafe { result::free_host(self.start) };
        }
    }
}

/// The queue.
#[derive(Debug)]
pub(super) struct Stream {
    context: Arc<Context>,
    pub(super) handle: sys::CUstream,
}

// SAFETY: see `Context`.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self> {
        context.enter()?;
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        Ok(Stream { context: context.clone(), handle })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.alive() {
            // SAFETY: `new` made it.
            let _ = unsafe { result::stream::destroy(self.handle) };
        }
    }
}

/// A point in the queue.
#[derive(Debug)]
pub(super) struct Mark {
    context: Arc<Context>,
    handle: sys::CUevent,
}

// SAFETY: see `Context`.
unsafe impl Send for Mark {}
// SAFETY: as above.
unsafe impl Sync for Mark {}

impl Mark {
    /// A mark that is nowhere yet, which counts as reached; `flags` say whether it keeps the time.
    pub(super) fn new(context: &Arc<Context>, flags: sys::CUevent_flags) -> Result<Self> {
        context.enter()?;
        Ok(Mark { context: context.clone(), handle: result::event::create(flags)? })
    }

    /// Whether it belongs to a context.
    pub(super) fn is_of(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.context, context)
    }

    /// Puts it behind what is queued.
    pub(super) fn record(&self, stream: &Stream) -> Result<()> {
        self.context.enter()?;
        // SAFETY: both are alive; a stream of another context is an error of the driver library.
        unsafe { result::event::record(self.handle, stream.handle) }
    }

    /// Waits until the device reaches it.
    pub(super) fn wait(&self) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.handle) }
    }

    /// Milliseconds from here to a later mark.
    pub(super) fn until(&self, later: &Mark) -> Result<f32> {
        later.wait()?;
        // SAFETY: both are alive.
        unsafe { result::event::elapsed(self.handle, later.handle) }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if self.context.alive() {
            // SAFETY: `new` made it.
            let _ = unsafe { result::event::destroy(self.handle) };
        }
    }
}

/// The kernels of one file, compiled for the card.
#[derive(Debug)]
pub(super) struct Module {
    context: Arc<Context>,
    handle: sys::CUmodule,
}

// SAFETY: see `Context`.
unsafe impl Send for Module {}

impl Module {
    pub(super) fn new(context: &Arc<Context>, ptx: &CStr) -> Result<Self> {
        context.enter()?;
        // SAFETY: text that ends with a zero, and the context is current.
        let handle = unsafe { result::module::load_data(ptx.as_ptr().cast())? };
        Ok(Module { context: context.clone(), handle })
    }

    /// A kernel, valid as long as the module.
    pub(super) fn function(&self, name: CString) -> Result<sys::CUfunction> {
        // SAFETY: the module is loaded.
        unsafe { result::module::get_function(self.handle, name) }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.alive() {
            // SAFETY: `new` loaded it.
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
}
