//! Development tasks of dora: `cargo xtask --help`.

mod bench;
mod build_kernels;
mod ci;
mod demo_model;
mod gpu_check;
mod memory;
mod synth_model;
mod training;

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Development tasks of dora
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check format, lints, documentation and tests: what CI runs
    Ci,
    /// Measure operations and whole training steps, in turn with PEFT where it is there, and judge them against the bars
    Bench(bench::Args),
    /// Compile kernels/*.cu: PTX into kernels/ptx, machine code with its resources into target/kernels
    BuildKernels(build_kernels::Args),
    /// Rebuild the model that `dora quickstart` carries, from generated text
    TrainDemoModel(demo_model::Args),
    /// Pack what a machine with a GPU needs to check and measure the kernels, and run it where there is one
    GpuCheck,
    /// Write a checkpoint of a published model's shape with random weights, to measure with
    SynthModel(synth_model::Args),
    /// Compare predicted with measured peak memory of training at a published model's shape
    Memory(memory::Args),
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the checkout")?;
    match Cli::parse().task {
        Task::Ci => ci::run(root),
        Task::Bench(args) => bench::run(root, &args),
        Task::BuildKernels(args) => build_kernels::run(root, &args),
        Task::TrainDemoModel(args) => demo_model::run(root, &args),
        Task::GpuCheck => gpu_check::run(root),
        Task::SynthModel(args) => synth_model::run(&args),
        Task::Memory(args) => memory::run(root, &args),
    }
}
