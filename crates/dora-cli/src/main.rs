//! The `dora` command: parses arguments, calls the libraries, and says what came of it. Logs and progress go to stderr,
//! results to stdout; with `--json` a result is one JSON object. Exit codes: 0 done, 1 the work failed, 2 bad usage or bad
//! input, 130 or 143 interrupted after a save.

mod adapter_args;
mod base;
mod commands;
mod console;
mod failure;
mod interrupt;
mod output;
mod plot;
mod prediction;
mod results;
mod run_file;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use dora_tensor::Device;

use crate::commands::{
    analyze, compare, eval, generate, merge, params, plan, quantize, quickstart, report, sweep, train,
};
use crate::console::Console;
use crate::failure::{Usage, exit_code};

/// Fine-tunes decoder language models with LoRA and DoRA, over 16-bit or 4-bit weights.
#[derive(Parser)]
#[command(name = "dora", version, args_override_self = true)]
struct Cli {
    /// Print one JSON object on stdout, and nothing else there
    #[arg(long, global = true)]
    json: bool,
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, global = true, default_value = "cpu")]
    device: String,
    /// Threads to compute with [default: one a core]
    #[arg(long, global = true)]
    threads: Option<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The whole job on an embedded model: fine-tune, compare, save, merge, check
    Quickstart(quickstart::Args),
    /// Fine-tune a model
    Train(Box<train::Args>),
    /// Loss and perplexity of a model, with or without an adapter, or its share of right answers
    Eval(eval::Args),
    /// Continue a prompt
    Generate(generate::Args),
    /// Write a model with an adapter merged in
    Merge(merge::Args),
    /// Write a model with its linear layers in 4 bits (NF4), as bitsandbytes stores them
    Quantize(quantize::Args),
    /// Say whether one of two models is better, or the difference within noise
    Compare(compare::Args),
    /// Train methods at ranks with seeds under equal budgets: a table and a plot
    Sweep(Box<sweep::Args>),
    /// Say how far training moved each layer's magnitudes and directions (DoRA paper, section 3.2)
    Analyze(analyze::Args),
    /// Count the parameters that an adapter would train; needs config.json only
    Params(params::Args),
    /// Choose a method: memory, time and quality of each, a recommendation, and a run file; needs config.json only
    Plan(plan::Args),
    /// One HTML page of runs: settings, curves, samples, memory, time, plots, and verdicts
    Report(report::Args),
}

impl Command {
    /// Fails where a device is given to a command that computes on none.
    fn check(&self, device: Device) -> Result<(), Usage> {
        match self {
            Command::Train(_) | Command::Eval(_) | Command::Generate(_) | Command::Merge(_) => Ok(()),
            _ if device == Device::Cpu => Ok(()),
            _ => {
                Err(Usage(format!("--device {device} is for train, eval, generate and merge, the others use the CPU")))
            }
        }
    }
}

/// Has the C library keep one heap for all threads. By default each thread has one of its own, with holes of its own: 25 MB of a
/// run that needs 100.
fn keep_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: called first in `main`, before any other thread; the parameter is one that mallopt takes.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

fn main() -> ExitCode {
    keep_one_heap();
    let arguments = match run_file::expand(std::env::args_os().collect(), &train::option_names()) {
        Ok(arguments) => arguments,
        Err(error) => return fail(&error),
    };
    // clap ends the process itself: 2 for a usage error, 0 for --help and --version.
    match run(Cli::parse_from(arguments)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Bytes of the stack of a thread of the pool, where commands run: those of a main thread.
const STACK: usize = 8 << 20;

fn fail(error: &anyhow::Error) -> ExitCode {
    console::error(error);
    ExitCode::from(exit_code(error))
}

fn run(cli: Cli) -> Result<ExitCode> {
    let device = Device::parse(&cli.device).map_err(|e| Usage(format!("--device {}: {e}", cli.device)))?;
    cli.command.check(device)?;
    if cli.threads == Some(0) {
        return Err(Usage("--threads is 0, expected at least 1".into()).into());
    }
    // 0 is one a core.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(cli.threads.unwrap_or(0)).stack_size(STACK);
    pool.build_global().context("starting threads")?;
    // On a thread of the pool: another one would sleep and wake at each of a step's thousands of parallel loops.
    rayon::scope(|_| command(cli, device))
}

fn command(cli: Cli, device: Device) -> Result<ExitCode> {
    let console = Console::new(cli.json);
    match cli.command {
        Command::Quickstart(args) => quickstart::run(args, &console),
        Command::Train(args) => train::run(*args, device, &console),
        Command::Eval(args) => eval::run(args, device, &console),
        Command::Generate(args) => generate::run(args, device, &console),
        Command::Merge(args) => merge::run(args, device, &console),
        Command::Quantize(args) => quantize::run(args, &console),
        Command::Compare(args) => compare::run(args, &console),
        Command::Sweep(args) => sweep::run(*args, &console),
        Command::Analyze(args) => analyze::run(args, &console),
        Command::Params(args) => params::run(args, &console),
        Command::Plan(args) => plan::run(args, &console),
        Command::Report(args) => report::run(args, &console),
    }
}
