//! Loaded kernels and the call of one: the Rust side of `kernels/host/entry.h`.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW, Symbol};
use rayon::prelude::*;

use crate::{Address, Arg, Error, Result, Shape};

/// Traffic with global memory and arithmetic, counted by the kernels themselves.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes read, but for those of `bytes_reused`.
    pub bytes_loaded: u64,
    /// Bytes read of operands that many blocks read, which a cache serves.
    pub bytes_reused: u64,
    /// Bytes written.
    pub bytes_stored: u64,
    /// Reads, of any width.
    pub loads: u64,
    /// Writes, of any width.
    pub stores: u64,
    /// Atomic additions; each counts as four bytes read and written.
    pub atomics: u64,
    /// Floating-point operations.
    pub flops: u64,
}

impl Counters {
    /// Adds what another launch counted.
    pub(super) fn add(&mut self, other: &Counters) {
        self.bytes_loaded += other.bytes_loaded;
        self.bytes_reused += other.bytes_reused;
        self.bytes_stored += other.bytes_stored;
        self.loads += other.loads;
        self.stores += other.stores;
        self.atomics += other.atomics;
        self.flops += other.flops;
    }
}

#[repr(C)]
#[derive(Debug)]
struct Entry {
    name: *const c_char,
    parameters: *const c_char,
    call: Option<unsafe extern "C" fn(*const *const c_void)>,
}

#[repr(C)]
struct Launch {
    entry: *const Entry,
    parameters: *const *const c_void,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_bytes: usize,
    fixed: unsafe extern "C" fn(*mut usize) -> *mut u8,
    seed: u64,
    part: u32,
    parts: u32,
}

#[repr(C)]
struct Outcome {
    counters: Counters,
    failed: c_int,
    address: u64,
    message: [c_char; 512],
}

/// What a launch that ended early says, and the address of a memory fault.
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) address: Option<Address>,
}

/// Most threads that share a launch: each maps a thousand guarded stacks once, and a process may have 65,530 mappings.
const MOST_PARTS: usize = 8;

/// The scheduler.
#[derive(Debug)]
pub(super) struct Runtime {
    launch: Symbol<unsafe extern "C" fn(*const Launch, *mut Outcome)>,
    _library: Library,
}

/// The kernels of one `.cu` file.
#[derive(Debug)]
pub(super) struct Module {
    entries: HashMap<String, &'static Entry>,
    fixed: unsafe extern "C" fn(*mut usize) -> *mut u8,
    _library: Library,
}

// SAFETY: an entry is constant data of the library, which the module keeps loaded.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

impl Runtime {
    pub(super) fn load(object: &Path) -> Result<Self> {
        // SAFETY: our own object; loading it runs no code.
        let library = unsafe { Library::open(Some(object), RTLD_NOW | RTLD_GLOBAL) }.map_err(loading)?;
        // SAFETY: the type is that of shim_launch in runtime.cpp.
        let launch = unsafe { library.get(b"shim_launch\0") }.map_err(loading)?;
        Ok(Runtime { launch, _library: library })
    }

    /// Runs a kernel to its end; its blocks are shared out among the threads of the rayon pool.
    ///
    /// # Safety
    /// Pointers among the arguments hold what the kernel expects, or lie between guard pages.
    pub(super) unsafe fn run(
        &self,
        module: &Module,
        kernel: &str,
        shape: Shape,
        args: &[Arg],
        seed: u64,
    ) -> Result<std::result::Result<Counters, Fault>> {
        let entry = module.entry(kernel)?;
        check_parameters(entry, kernel, args)?;
        let blocks: u64 = shape.grid.iter().map(|n| u64::from(*n)).product();
        let parts = (rayon::current_num_threads().min(MOST_PARTS) as u64).min(blocks).max(1) as u32;
        // SAFETY: the caller's promise.
        let run = |part| unsafe { self.run_part(module, entry, shape, args, seed, [part, parts]) };
        let outcomes: Vec<_> = match parts {
            1 => vec![run(0)],
            _ => (0..parts).into_par_iter().with_max_len(1).map(run).collect(),
        };
        Ok(outcomes.into_iter().try_fold(Counters::default(), |mut sum, counted| {
            sum.add(&counted?);
            Ok(sum)
        }))
    }

    /// Runs part `part` of `parts` of a launch on this thread.
    ///
    /// # Safety
    /// As `run`; the arguments have the kinds that the entry declares.
    unsafe fn run_part(
        &self,
        module: &Module,
        entry: &Entry,
        shape: Shape,
        args: &[Arg],
        seed: u64,
        [part, parts]: [u32; 2],
    ) -> std::result::Result<Counters, Fault> {
        let parameters: Vec<*const c_void> = args.iter().map(|arg| arg.value().cast_const()).collect();
        let launch = Launch {
            entry,
            parameters: parameters.as_ptr(),
            grid: shape.grid,
            block: [shape.threads, 1, 1],
            dynamic_bytes: shape.shared as usize,
            fixed: module.fixed,
            seed,
            part,
            parts,
        };
        let mut outcome = Outcome { counters: Counters::default(), failed: 0, address: 0, message: [0; 512] };
        // SAFETY: both structs mirror those of entry.h; the rest is the caller's promise.
        unsafe { (self.launch)(&launch, &mut outcome) };
        if outcome.failed == 0 {
            return Ok(outcome.counters);
        }
        // SAFETY: the runtime ends the message with a zero.
        let message = unsafe { CStr::from_ptr(outcome.message.as_ptr()) }.to_string_lossy().into_owned();
        Err(Fault { message, address: (outcome.address != 0).then_some(outcome.address) })
    }
}

impl Module {
    pub(super) fn load(object: &Path) -> Result<Self> {
        // SAFETY: our own object; loading it runs no code.
        let library = unsafe { Library::open(Some(object), RTLD_NOW | RTLD_LOCAL) }.map_err(loading)?;
        // SAFETY: the type is that of shim_shared in module.h.
        let fixed = unsafe { library.get(b"shim_shared\0") }.map_err(loading)?;
        let fixed: Symbol<unsafe extern "C" fn(*mut usize) -> *mut u8> = fixed;
        // SAFETY: the symbol is an array of entries, the last of which has no name.
        let first: Symbol<*const Entry> = unsafe { library.get(b"shim_entries\0") }.map_err(loading)?;
        let mut entries = HashMap::new();
        let mut next: *const Entry = first.into_raw().cast();
        // SAFETY: the array goes on until an entry without a name.
        while let Some(entry) = unsafe { next.as_ref() }.filter(|entry| !entry.name.is_null()) {
            // SAFETY: names are constant strings.
            let name = unsafe { CStr::from_ptr(entry.name) }.to_string_lossy().into_owned();
            entries.insert(name, entry);
            // SAFETY: an entry with a name is not the last.
            next = unsafe { next.add(1) };
        }
        Ok(Module { entries, fixed: *fixed, _library: library })
    }

    fn entry(&self, kernel: &str) -> Result<&'static Entry> {
        self.entries
            .get(kernel)
            .copied()
            .ok_or_else(|| Error::Fault(format!("{kernel}: no kernel of that name in its source")))
    }

    /// Bytes of static shared memory, of all its kernels together.
    pub(super) fn fixed_bytes(&self) -> usize {
        let mut bytes = 0;
        // SAFETY: shim_shared of module.h, which writes the size of this thread's copy.
        unsafe { (self.fixed)(&mut bytes) };
        bytes
    }

    /// Kinds of a kernel's parameters, a letter each, as in entry.h.
    pub(super) fn parameters(&self, kernel: &str) -> Result<String> {
        Ok(letters(self.entry(kernel)?))
    }
}

fn check_parameters(entry: &Entry, kernel: &str, args: &[Arg]) -> Result<()> {
    let found: String = args.iter().map(|arg| letter(*arg)).collect();
    let expected = letters(entry);
    if found == expected {
        return Ok(());
    }
    Err(Error::Fault(format!("{kernel}: launched with parameters {found}, expected {expected}")))
}

fn letters(entry: &Entry) -> String {
    // SAFETY: a constant string of the library.
    unsafe { CStr::from_ptr(entry.parameters) }.to_string_lossy().into_owned()
}

fn letter(arg: Arg) -> char {
    match arg {
        Arg::Pointer(_) => 'p',
        Arg::I32(_) => 'i',
        Arg::I64(_) => 'l',
        Arg::F32(_) => 'f',
    }
}

fn loading(error: libloading::Error) -> Error {
    Error::driver("loading kernels for the host", error)
}
