//! `dora quickstart`: to be written with the embedded model.
use std::process::ExitCode;

use anyhow::Result;

use crate::console::Console;

/// Arguments of `dora quickstart`.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: Args, _console: &Console) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
