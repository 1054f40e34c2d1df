//! A run's folder: its record (`run.json`), its steps and evaluations (`metrics.jsonl`), and, where there are any, samples
//! (`samples.jsonl`, lines of JSON with `prompt`, `text` and perhaps `before`, as `dora generate --json` prints them).

use std::path::{Path, PathBuf};

use anyhow::Result;
use dora_train::metrics::METRICS_FILE;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::inputs::{Picture, bytes};
use crate::failure::Usage;
use crate::results::{adapter_blake3, run_record};

/// Name of the file of samples.
pub const SAMPLES_FILE: &str = "samples.jsonl";

/// A run of `dora train`.
pub struct Run {
    pub path: PathBuf,
    pub record: Value,
    /// Steps, then held-out evaluations, in order.
    pub metrics: Vec<Line>,
    pub samples: Vec<Sample>,
    pub pictures: Vec<Picture>,
    /// Names of results in its folder that are of another adapter, such as an earlier run's.
    pub stale: Vec<String>,
}

/// A line of `metrics.jsonl`: a step, or an evaluation.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    /// Steps made.
    pub step: f64,
    pub loss: Option<f64>,
    pub lr: Option<f64>,
    pub grad_norm: Option<f64>,
    pub tokens_per_s: Option<f64>,
    pub eval_loss: Option<f64>,
}

/// What a model said to a prompt.
#[derive(Debug, Clone, Deserialize)]
pub struct Sample {
    pub prompt: String,
    /// Before training.
    pub before: Option<String>,
    pub text: String,
}

impl Run {
    /// Reads a folder that has a record.
    pub fn read(path: &Path, samples: bool, pictures: Vec<Picture>) -> Result<Self> {
        let file = path.join("run.json");
        let record = run_record(path)?.unwrap_or_default();
        if !record["settings"].is_object() {
            let found = format!("{} has no settings", file.display());
            return Err(Usage(format!("{found}, expected the record of a run of `dora train`")).into());
        }
        let metrics = lines(&path.join(METRICS_FILE), "a step or an evaluation of `dora train`")?;
        let expected = "a line of `dora generate --json` (prompt and text)";
        let samples = if samples { lines(&path.join(SAMPLES_FILE), expected)? } else { Vec::new() };
        Ok(Run { path: path.to_owned(), record, metrics, samples, pictures, stale: Vec::new() })
    }

    /// Whether the summary of an evaluation is of what lies in this folder: of its adapter by the hash, of a model by the record
    /// of its training. What was measured without training, such as the base, may lie anywhere.
    pub fn is_of(&self, summary: &Map<String, Value>) -> bool {
        match summary.get("adapter_blake3").and_then(Value::as_str) {
            Some(hash) => adapter_blake3(&self.path).is_ok_and(|found| found == hash),
            None => summary.get("training").is_none_or(|run| run.is_null() || *run == self.record),
        }
    }

    /// The files that are read of every run.
    pub fn files(&self) -> [PathBuf; 3] {
        ["run.json", METRICS_FILE, SAMPLES_FILE].map(|name| self.path.join(name))
    }

    /// (step, figure) of each line that has the figure; what is no number of f32, as all figures were, is left out.
    pub fn curve(&self, figure: fn(&Line) -> Option<f64>) -> Vec<(f64, f64)> {
        self.metrics
            .iter()
            .filter_map(|line| Some((line.step, figure(line).filter(|x| (*x as f32).is_finite())?)))
            .collect()
    }

    /// A number of the record.
    pub fn number(&self, place: &str) -> Option<f64> {
        self.record.pointer(place).and_then(Value::as_f64)
    }

    /// A text of the record.
    pub fn text(&self, place: &str) -> Option<&str> {
        self.record.pointer(place).and_then(Value::as_str)
    }

    /// How it ended.
    pub fn ending(&self) -> &str {
        self.text("/results/ending").unwrap_or("no results yet")
    }

    /// Method, and rank where it has one.
    pub fn method(&self) -> String {
        let method = self.text("/settings/method").unwrap_or("unknown method");
        match self.number("/adapter_config/r") {
            Some(rank) => format!("{method}, rank {rank}"),
            None => method.to_owned(),
        }
    }
}

/// Lines of JSON. The last may be cut off, as by a run that was killed while it wrote.
fn lines<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<Vec<T>, Usage> {
    let text = bytes(path)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let parse = |(at, line): (usize, &[u8])| {
        let found = |e: serde_json::Error| Usage(format!("{}:{}: {e}, expected {expected}", path.display(), at + 1));
        serde_json::from_slice(line).map_err(found)
    };
    let full = text[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    let mut lines = full.map(parse).collect::<Result<Vec<T>, _>>()?;
    lines.extend(serde_json::from_slice::<T>(&text[whole..]).ok());
    Ok(lines)
}
