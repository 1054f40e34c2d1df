//! `cargo xtask gpu-check`: packs a folder that a machine with a GPU needs nothing beside, neither a network nor Rust: `dora` with the
//! kernels in it, the program that checks and measures them, and a Python script for PEFT's side. Where this machine has a GPU, runs it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::training::build;

/// Programs of the folder, and their packages.
const PROGRAMS: [(&str, &str); 2] = [("dora", "dora-cli"), ("dora-gpu-check", "dora-gpu-check")];
const SCRIPT: &str = "peft_steps.py";

/// Packs, and runs where it can.
pub fn run(root: &Path) -> Result<()> {
    let folder = root.join("target/gpu-check");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for (program, package) in PROGRAMS {
        copy(&build(root, package)?, &folder.join(program))?;
    }
    copy(&root.join("crates/dora-gpu-check").join(SCRIPT), &folder.join(SCRIPT))?;
    println!("packed {}: copy it to a machine with a GPU and run ./dora-gpu-check there", folder.display());
    match dora_kernels::cuda::probe(0) {
        Err(reason) => println!("not run here: {reason}"),
        Ok(()) => {
            let status = Command::new(folder.join("dora-gpu-check")).current_dir(&folder).status();
            ensure!(status.context("starting dora-gpu-check")?.success(), "dora-gpu-check found something");
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display())).map(drop)
}
