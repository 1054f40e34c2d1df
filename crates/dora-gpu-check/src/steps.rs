//! The time of training steps at published shapes with random weights: `dora train --device cuda`, and PEFT on the same rows where
//! Python has it. A step's time is the median of those after the first few, from `metrics.jsonl` or from what the script prints.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::synth;

/// Methods that can be measured.
pub const METHODS: [&str; 4] = ["lora", "dora", "qlora", "qdora"];
const STEPS: usize = 12;
/// Steps whose time does not count: algorithms are chosen, memory is allocated.
const FIRST: usize = 4;

/// A shape and what is trained on it.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Its name among the published ones.
    pub shape: &'static str,
    /// Rows of a step.
    pub batch_size: usize,
    /// Tokens of a row.
    pub tokens: usize,
    /// Whether activations are computed again.
    pub checkpointing: bool,
}

/// A 1B and an 8B shape.
pub const SETUPS: [Setup; 2] = [
    Setup { shape: "llama-3.2-1b", batch_size: 4, tokens: 1024, checkpointing: false },
    Setup { shape: "llama-3-8b", batch_size: 4, tokens: 1024, checkpointing: true },
];

/// A measured step, or why there is none.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Shape of the model.
    pub shape: &'static str,
    /// `dora` or `peft`.
    pub program: &'static str,
    /// What is trained.
    pub method: &'static str,
    /// Median time.
    pub seconds: Option<f64>,
    /// Tokens of the step over it.
    pub tokens_per_s: Option<f64>,
    /// Why it was not measured.
    pub reason: Option<String>,
}

/// The programs, and where their models and runs go.
#[derive(Debug)]
pub struct Programs {
    /// `dora`.
    pub dora: PathBuf,
    /// The script for PEFT.
    pub peft: PathBuf,
    /// Folder to work in.
    pub work: PathBuf,
    /// Device as `dora` names it.
    pub device: String,
}

impl Programs {
    /// Steps of some of [`METHODS`], by `dora` and by PEFT; `report` is told of each.
    pub fn measure(&self, setup: &Setup, methods: &[&'static str], report: fn(&Step)) -> Result<Vec<Step>> {
        let model = self.work.join(setup.shape);
        if !model.join("config.json").exists() {
            synth::checkpoint(setup.shape, &model, 0)?;
        }
        let rows = self.work.join(format!("{}.jsonl", setup.shape));
        synth::rows_of_shape(setup.shape, STEPS * setup.batch_size, setup.tokens, &rows)?;
        let mut steps = Vec::new();
        for &method in methods {
            for (program, measured) in
                [("dora", self.ours(setup, &model, &rows, method)), ("peft", self.peft(setup, &model, &rows, method))]
            {
                let tokens = (setup.batch_size * setup.tokens) as f64;
                let (seconds, reason) = match measured {
                    Ok(seconds) => (Some(seconds), None),
                    Err(error) => (None, Some(format!("{error:#}"))),
                };
                let tokens_per_s = seconds.map(|seconds| tokens / seconds);
                let step = Step { shape: setup.shape, program, method, seconds, tokens_per_s, reason };
                report(&step);
                steps.push(step);
            }
        }
        Ok(steps)
    }

    fn ours(&self, setup: &Setup, model: &Path, rows: &Path, method: &str) -> Result<f64> {
        let output = self.work.join("run");
        let mut command = Command::new(&self.dora);
        command.args(["train", "--json", "--no-shuffle", "--lr=1e-4", "--rank=16"]).arg("--device").arg(&self.device);
        command.arg("--model").arg(model).arg("--data").arg(rows).arg("--output").arg(&output);
        command.arg(format!("--method={method}")).arg(format!("--max-steps={STEPS}"));
        command.arg(format!("--batch-size={}", setup.batch_size)).arg(format!("--max-seq-len={}", setup.tokens));
        command.args(setup.checkpointing.then_some("--gradient-checkpointing"));
        finished(&mut command)?;
        let metrics = output.join("metrics.jsonl");
        let text = fs::read_to_string(&metrics).with_context(|| format!("reading {}", metrics.display()))?;
        let seconds = text.lines().filter_map(|line| seconds(&serde_json::from_str(line).ok()?));
        median(seconds.collect())
    }

    fn peft(&self, setup: &Setup, model: &Path, rows: &Path, method: &str) -> Result<f64> {
        let mut command = Command::new("python3");
        command.arg(&self.peft).arg("--model").arg(model).arg("--rows").arg(rows);
        command.arg(format!("--method={method}")).arg(format!("--steps={STEPS}"));
        command.arg(format!("--batch-size={}", setup.batch_size));
        command.args(setup.checkpointing.then_some("--gradient-checkpointing"));
        let printed = String::from_utf8(finished(&mut command)?.stdout)?;
        let last: Value = serde_json::from_str(printed.lines().last().unwrap_or_default())
            .with_context(|| format!("{} printed no JSON", self.peft.display()))?;
        let times = last["seconds"].as_array().context("no seconds")?;
        median(times.iter().filter_map(Value::as_f64).collect())
    }
}

/// A step's wall time, from its line of `metrics.jsonl`.
fn seconds(line: &Value) -> Option<f64> {
    Some(line["tokens"].as_f64()? / line["tokens_per_s"].as_f64()?)
}

/// The median of the steps that count.
fn median(times: Vec<f64>) -> Result<f64> {
    let mut times: Vec<f64> = times.into_iter().skip(FIRST).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().context("no steps to take the time of")
}

fn finished(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{program} ended with {}: {}", output.status, text.lines().last().unwrap_or("nothing on stderr"));
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_steps_do_not_count() {
        let line: Value = serde_json::from_str(r#"{"step": 1, "tokens": 4096, "tokens_per_s": 8192.0}"#).unwrap();
        assert_eq!(seconds(&line), Some(0.5));
        assert_eq!(seconds(&serde_json::from_str(r#"{"eval_loss": 1.0}"#).unwrap()), None);
        assert_eq!(median(vec![9.0, 9.0, 9.0, 9.0, 3.0, 1.0, 2.0]).unwrap(), 2.0);
        assert!(median(vec![1.0; FIRST]).is_err());
    }
}
