//! `cargo xtask build-kernels`: compiles `kernels/*.cu`.
//!
//! PTX for compute_80 goes into `kernels/ptx`, is committed, and is part of every build of `dora`, so that nobody needs nvcc to
//! build or run: the driver compiles PTX for the card it finds, and keeps the result. Each file opens with a hash of its sources,
//! by which `--check`, and a test, tell whether it is current, again without nvcc. Machine code for every generation of cards goes
//! to `target/kernels`: it shows registers, shared memory and spills, and is looked at for the instructions that speed rests on.

mod instructions;
mod nvcc;
mod resources;
mod sources;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use nvcc::Toolkit;
use sources::Source;

/// Generations of cards: Ampere (A100; RTX 30), Ada, Hopper, Blackwell (B200; RTX 50).
const ARCHITECTURES: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// Only say whether the committed PTX belongs to the sources
    #[arg(long)]
    check: bool,
}

/// Builds, or checks, in the checkout at `root`.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let sources = sources::all(root)?;
    if args.check {
        return check(&sources);
    }
    let toolkit = Toolkit::find(root)?;
    println!("nvcc at {}", toolkit.nvcc.display());
    let machine_code = root.join("target/kernels");
    let mut used = Vec::new();
    for source in &sources {
        let ptx = toolkit.ptx(source)?;
        fs::create_dir_all(source.ptx.parent().context("the PTX lies in a folder")?)?;
        fs::write(&source.ptx, format!("{}\n{ptx}", source.stamp()))?;
        for architecture in ARCHITECTURES {
            let folder = machine_code.join(format!("sm_{architecture}"));
            fs::create_dir_all(&folder)?;
            let cubin = folder.join(format!("{}.cubin", source.name));
            let report = toolkit.assemble(&source.ptx, architecture, &cubin)?;
            used.extend(resources::parse(&report, &source.name, architecture)?);
        }
    }
    sources::remove_others(root, &sources)?;
    let table = resources::table(&used);
    println!("{table}");
    resources::write_into(&root.join("kernels/README.md"), &table)?;
    let mut faults = resources::faults(&used);
    faults.extend(instructions::faults(&toolkit, &machine_code)?);
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("{} files of PTX written to kernels/ptx; nothing spills, every budget is kept", sources.len());
    Ok(())
}

fn check(sources: &[Source]) -> Result<()> {
    let stale = sources::stale(sources);
    if !stale.is_empty() {
        bail!("not built from the present sources: {}; run `cargo xtask build-kernels`", stale.join(", "));
    }
    println!("kernels/ptx belongs to the present sources ({} files)", sources.len());
    Ok(())
}
