//! Runs of `dora train` in release.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Builds the program of a package, and gives its path.
pub fn build(root: &Path, package: &str) -> Result<PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--release", "--locked", "--message-format=json", "--package", package]);
    let ran = command.current_dir(root).stderr(Stdio::inherit()).output().context("starting cargo build")?;
    ensure!(ran.status.success(), "cargo build --package {package} failed ({})", ran.status);
    let messages = String::from_utf8_lossy(&ran.stdout);
    let executable = |line: &str| serde_json::from_str::<Value>(line).ok()?["executable"].as_str().map(PathBuf::from);
    messages.lines().rev().find_map(executable).with_context(|| format!("{package} has no program"))
}

/// Runs `dora train` with these arguments, and gives its record.
pub fn train(dora: &Path, arguments: &[OsString]) -> Result<Value> {
    let ran = Command::new(dora).args(["train", "--json"]).args(arguments).output().context("starting dora")?;
    if !ran.status.success() {
        let said = arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ");
        bail!("dora train {said} failed: {}", String::from_utf8_lossy(&ran.stderr));
    }
    serde_json::from_slice(&ran.stdout).context("reading what dora train printed")
}
