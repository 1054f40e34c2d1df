//! Where the time of a run goes, by operation and pass: seconds without those of operations inside, calls, FLOPs of matrix
//! products (2·m·n·k, counted where they are made), and bytes of operands and results, each once (a frozen weight at its
//! stored size; in a backward pass the gradients beside them). Off until [`start`]; then it costs a few clock reads a call.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Direction of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Computing the result.
    Forward,
    /// Computing the gradients.
    Backward,
    /// Changing parameters.
    Update,
}

/// Sums over all calls of an operation in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Total {
    /// Calls.
    pub calls: u64,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Floating-point operations of its matrix products.
    pub flops: u64,
    /// Bytes of operands and results.
    pub bytes: u64,
}

type Table = BTreeMap<(&'static str, Direction), Total>;

static ON: AtomicBool = AtomicBool::new(false);
static TABLE: Mutex<Table> = Mutex::new(BTreeMap::new());
static FLOPS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What operations inside the running one have taken.
    static INSIDE: Cell<Total> = const { Cell::new(Total { calls: 0, seconds: 0.0, flops: 0, bytes: 0 }) };
}

/// Begins to count, from zero.
pub fn start() {
    TABLE.lock().expect("no operation panicked").clear();
    ON.store(true, Ordering::Relaxed);
}

/// Ends counting, and gives the totals.
pub fn finish() -> Vec<(&'static str, Direction, Total)> {
    ON.store(false, Ordering::Relaxed);
    let table = std::mem::take(&mut *TABLE.lock().expect("no operation panicked"));
    table.into_iter().map(|((op, direction), total)| (op, direction, total)).collect()
}

/// Counts FLOPs of a product to the running operation.
pub(crate) fn flops(count: usize) {
    add(&FLOPS, count);
}

/// Counts bytes of an operand or result to the running operation.
pub(crate) fn bytes(count: usize) {
    add(&BYTES, count);
}

fn add(counter: &AtomicU64, count: usize) {
    if ON.load(Ordering::Relaxed) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Times the operation until the end of the scope.
#[must_use]
pub(crate) fn operation(name: &'static str, direction: Direction) -> Option<Running> {
    ON.load(Ordering::Relaxed).then(|| Running {
        key: (name, direction),
        start: Instant::now(),
        before: [FLOPS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed)],
        outside: INSIDE.take(),
    })
}

/// An operation that runs.
pub(crate) struct Running {
    key: (&'static str, Direction),
    start: Instant,
    before: [u64; 2],
    outside: Total,
}

impl Drop for Running {
    fn drop(&mut self) {
        let seconds = self.start.elapsed().as_secs_f64();
        let flops = FLOPS.load(Ordering::Relaxed) - self.before[0];
        let bytes = BYTES.load(Ordering::Relaxed) - self.before[1];
        let inside = INSIDE.replace(Total {
            calls: 0,
            seconds: self.outside.seconds + seconds,
            flops: self.outside.flops + flops,
            bytes: self.outside.bytes + bytes,
        });
        // The process may be unwinding; a poisoned table is then of no use to anyone.
        if let Ok(mut table) = TABLE.lock() {
            let total = table.entry(self.key).or_default();
            total.calls += 1;
            total.seconds += seconds - inside.seconds;
            total.flops += flops - inside.flops;
            total.bytes += bytes - inside.bytes;
        }
    }
}
