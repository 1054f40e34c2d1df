//! Watches a run: writes `metrics.jsonl`, draws the progress bar, remembers what the summary needs.

use std::path::Path;

use anyhow::Result;
use dora_train::Result as TrainResult;
use dora_train::metrics::{EvalRecord, MetricsFile, StepRecord};
use dora_train::run::{Ending, Observer};

use super::profile::Profiling;
use crate::console::Progress;
use crate::interrupt::Interrupt;

/// The observer of `dora train`.
pub struct Watch {
    metrics: MetricsFile,
    progress: Progress,
    interrupt: Interrupt,
    steps: usize,
    /// Where a profile was asked for, until it is taken.
    pub profiling: Option<Profiling>,
    last: Option<StepRecord>,
    first_eval: Option<f64>,
    last_eval: Option<f64>,
    tokens: usize,
    seconds: f64,
}

impl Watch {
    /// Begins `metrics.jsonl` in the run's folder.
    pub fn new(output: &Path, steps: usize, interrupt: Interrupt) -> Result<Self> {
        Ok(Watch {
            metrics: MetricsFile::create(output)?,
            progress: Progress::new("step", steps),
            interrupt,
            steps,
            profiling: None,
            last: None,
            first_eval: None,
            last_eval: None,
            tokens: 0,
            seconds: 0.0,
        })
    }

    /// Leaves the bar as it stands.
    pub fn finish(&self) {
        self.progress.finish();
    }

    /// Steps made.
    pub fn steps(&self) -> usize {
        self.last.as_ref().map_or(0, |record| record.step)
    }

    /// Loss of the last step.
    pub fn last_loss(&self) -> Option<f64> {
        self.last.as_ref().map(|record| record.loss)
    }

    /// Held-out loss before the first step and as last measured.
    pub fn held_out(&self) -> Option<(f64, f64)> {
        self.first_eval.zip(self.last_eval)
    }

    /// Tokens of all steps.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Tokens over the wall time of all steps, evaluations left out.
    pub fn tokens_per_s(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.tokens as f64 / self.seconds)
    }

    /// The run in a few words.
    pub fn summary(&self, output: &Path, ending: Ending) -> String {
        let ended = match ending {
            Ending::Finished => "trained",
            Ending::Interrupted(_) => "interrupted after",
        };
        let loss = self.last_loss().map(|loss| format!(", last loss {loss:.4}")).unwrap_or_default();
        let held_out = self.held_out().map(|(before, after)| format!(", held-out loss {before:.4} -> {after:.4}"));
        let (steps, held_out) = (self.steps(), held_out.unwrap_or_default());
        let saved = if steps == 0 { "nothing saved".into() } else { format!("saved in {}", output.display()) };
        format!("{ended} {steps} steps{loss}{held_out}; {saved}")
    }
}

impl Observer for Watch {
    fn step(&mut self, record: &StepRecord) -> TrainResult<()> {
        self.metrics.write(record)?;
        let memory = record.peak_rss_mb.map(|mb| format!("  {mb:.0} MB")).unwrap_or_default();
        self.progress
            .step(record.step, format!("loss {:.4}  {:.0} tokens/s{memory}", record.loss, record.tokens_per_s));
        self.tokens += record.tokens;
        self.seconds += record.tokens as f64 / record.tokens_per_s;
        if self.last.is_none() && self.steps > 1 {
            self.profiling.iter_mut().for_each(Profiling::after_first_step);
        }
        self.last = Some(record.clone());
        Ok(())
    }

    fn evaluated(&mut self, record: &EvalRecord) -> TrainResult<()> {
        self.metrics.write(record)?;
        self.progress.note(&format!("held-out loss after {} steps: {:.4}", record.step, record.eval_loss));
        self.first_eval.get_or_insert(record.eval_loss);
        self.last_eval = Some(record.eval_loss);
        Ok(())
    }

    fn interrupted(&self) -> bool {
        self.interrupt.exit_code().is_some()
    }
}
