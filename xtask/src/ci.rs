//! The checks that a change must pass, each timed, ending at the first that fails.
//!
//! All of it builds in release, so that one build of the dependencies serves every step and the product itself.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A step: its name and cargo's arguments.
type Step = (&'static str, &'static [&'static str]);

/// The package outside of the workspace, since its dependencies want CUDA's libraries.
const CUST: &str = "crates/dora-kernels-cust/Cargo.toml";

const STEPS: [Step; 6] = [
    ("format", &["fmt", "--all", "--check"]),
    ("clippy", &["clippy", "--workspace", "--all-targets", "--release", "--locked", "--", "-D", "warnings"]),
    ("rustdoc", &["doc", "--workspace", "--no-deps", "--release", "--locked"]),
    ("tests", &["test", "--workspace", "--release", "--locked"]),
    ("cust format", &["fmt", "--check", "--manifest-path", CUST]),
    (
        "cust clippy",
        &["clippy", "--all-targets", "--release", "--locked", "--manifest-path", CUST, "--", "-D", "warnings"],
    ),
];

/// Runs every step in the checkout at `root`.
pub fn run(root: &Path) -> Result<()> {
    for component in ["fmt", "clippy"] {
        require(component)?;
    }
    // Types are checked without CUDA: the build scripts only ask for a folder of libraries.
    let no_cuda = root.join("target/no-cuda");
    fs::create_dir_all(no_cuda.join("lib64")).with_context(|| format!("creating {}", no_cuda.display()))?;
    let mut times = Vec::new();
    for (name, args) in STEPS {
        println!("== {name}: cargo {}", args.join(" "));
        let start = Instant::now();
        let mut command = Command::new(env!("CARGO"));
        command.args(args).current_dir(root).env("RUSTDOCFLAGS", "-D warnings");
        if args.contains(&CUST) {
            command.env("CUDA_LIBRARY_PATH", &no_cuda).env("CARGO_TARGET_DIR", root.join("target/cust"));
        }
        let status = command.status().with_context(|| format!("starting cargo for step {name}"))?;
        times.push((name, start.elapsed()));
        if !status.success() {
            println!("{}", summary(&times, true));
            bail!("step {name} failed ({status})");
        }
        println!("== {name} passed in {:.1} s\n", start.elapsed().as_secs_f64());
    }
    println!("{}", summary(&times, false));
    Ok(())
}

/// Fails when cargo lacks a subcommand that rustup delivers as a component.
fn require(component: &str) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.args([component, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if command.status().context("starting cargo")?.success() {
        return Ok(());
    }
    let name = if component == "fmt" { "rustfmt" } else { component };
    bail!("cargo {component} is missing: get it with `rustup component add {name}`")
}

/// A line for each step that ran, and a total. When `failed`, the last one did and those after it did not run.
fn summary(times: &[(&str, Duration)], failed: bool) -> String {
    let mut lines = Vec::new();
    for (i, (name, time)) in times.iter().enumerate() {
        let verdict = if failed && i + 1 == times.len() { "FAILED" } else { "passed" };
        lines.push(format!("{name:<12} {verdict} {:>8.1} s", time.as_secs_f64()));
    }
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    lines.push(format!("{} of {} steps, {:.1} s", times.len(), STEPS.len(), total.as_secs_f64()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_names_the_step_that_failed() {
        let times = [("format", Duration::from_millis(1500)), ("clippy", Duration::from_secs(20))];
        assert_eq!(
            summary(&times, true),
            "format       passed      1.5 s\nclippy       FAILED     20.0 s\n2 of 6 steps, 21.5 s"
        );
        assert!(!summary(&times, false).contains("FAILED"));
    }
}
