//! Ctrl-C and termination: the first one asks the run to stop and save, a second one ends the process at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Signals that have come.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Listens from now on.
    pub fn listen() -> Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let again = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM] {
            flag::register_conditional_shutdown(number, 128 + number, again.clone()).context("listening to signals")?;
            flag::register(number, again.clone()).context("listening to signals")?;
            flag::register_usize(number, signal.clone(), number as usize).context("listening to signals")?;
        }
        Ok(Interrupt(signal))
    }

    /// The exit code that belongs to the signal, if one has come: 130 or 143.
    pub fn exit_code(&self) -> Option<ExitCode> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            number => Some(ExitCode::from(128 + number as u8)),
        }
    }
}
