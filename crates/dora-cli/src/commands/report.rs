//! `dora report DIR... --output FILE.html`: runs and what was measured on them as one page of HTML that needs neither network nor
//! script: styles and plots are part of it. Everything comes from files that other commands wrote; nothing is computed but
//! the verdicts, by the code of `dora compare`.

mod comparisons;
mod curves;
mod evaluations;
mod inputs;
mod page;
mod run;
mod run_view;
mod sweep;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use dora_models::checkpoint::write_file;
use serde_json::json;

use crate::console::Console;
use crate::failure::Usage;
use crate::output::check_file;
use inputs::Inputs;
pub use run::SAMPLES_FILE;

/// Arguments of `dora report`.
#[derive(clap::Args)]
pub struct Args {
    /// Folders of `dora train` or `dora sweep`; also results of `dora eval --output` and of `dora compare --json`, and SVG plots
    #[arg(num_args = 1.., required = true, value_name = "DIR")]
    inputs: Vec<PathBuf>,
    /// HTML file to write
    #[arg(long)]
    output: PathBuf,
}

pub fn run(args: Args, console: &Console) -> Result<ExitCode> {
    let output = &args.output;
    // No command writes such a file but this one, so nothing else is written over, whatever folder it lies in.
    if output.extension().is_none_or(|ending| ending != "html") {
        return Err(Usage(format!("--output {} has another ending, expected .html", output.display())).into());
    }
    let inputs = Inputs::read(&args.inputs)?;
    check_file("--output", output, &inputs.files)?;
    let (runs, sweeps) = (inputs.runs.len(), inputs.sweeps.len());
    let (html, comparisons) = page::render(inputs)?;
    write_file(output, html.as_bytes())?;
    let counts = [(runs, "run"), (sweeps, "sweep"), (comparisons, "comparison")];
    let counts = counts.map(|(n, what)| format!("{n} {what}{}", if n == 1 { "" } else { "s" }));
    let kb = html.len().div_ceil(1000);
    let object = json!({
        "output": output, "runs": runs, "sweeps": sweeps, "comparisons": comparisons, "bytes": html.len(),
    });
    console.result(&format!("{}: {} ({kb} kB)", output.display(), counts.join(", ")), &object)?;
    Ok(ExitCode::SUCCESS)
}

/// The last name of a path, or all of it where there is none.
fn name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    whole.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
