//! What a run records: a line of JSON in `metrics.jsonl` for each step and each evaluation, written as it happens.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};

/// Name of the file in a run's folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRecord {
    /// Steps made, this one included.
    pub step: usize,
    /// Passes over the data made so far, as a fraction.
    pub epoch: f64,
    /// Mean over the step's labelled tokens, before the update.
    pub loss: f64,
    /// Learning rate of this step.
    pub lr: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Tokens of the step; there is no padding.
    pub tokens: usize,
    /// Tokens over the step's whole wall time.
    pub tokens_per_s: f64,
    /// Most memory that the process ever had resident, in MB (10^6 bytes); null where the system does not tell.
    pub peak_rss_mb: Option<f64>,
}

/// An evaluation over held-out rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalRecord {
    /// Steps made before it.
    pub step: usize,
    /// Mean loss over the labelled tokens.
    pub eval_loss: f64,
    /// e to the loss.
    pub eval_perplexity: f64,
    /// Labelled tokens.
    pub eval_tokens: usize,
    /// Wall time in seconds.
    pub eval_s: f64,
}

/// The file.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Begins the file in folder `dir` anew.
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join(METRICS_FILE);
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        Ok(MetricsFile { path, file })
    }

    /// Appends a line.
    pub fn write(&mut self, record: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(record).expect("records hold numbers only");
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(Error::io("write", &self.path))
    }
}

/// Most memory that this process had resident since it began or [`reset_peak_rss`], in MB (10^6 bytes): `VmHWM` of Linux' `/proc`.
pub fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib * 1.024).round() / 1000.0)
}

/// Makes [`peak_rss_mb`] count anew from what is resident now, so that one process can measure several runs; false where the
/// system does not let it.
pub fn reset_peak_rss() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}
