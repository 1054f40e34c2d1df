//! The step loop: forward and backward over the parts of a step, clipping, AdamW, and now and then an evaluation.

use std::time::Instant;

use dora_tensor::Parameter;
use dora_tensor::ops::Figures;

use crate::data::{Dataset, Plan};
use crate::error::Result;
use crate::metrics::{EvalRecord, StepRecord, peak_rss_mb};
use crate::objective::Objective;
use crate::optimizer::{Optimizer, OptimizerOptions};
use crate::row_losses::{mean_loss, row_losses};
use crate::schedule::Schedule;

/// Settings of the loop.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// Steps to make.
    pub steps: usize,
    /// The optimizer's.
    pub optimizer: OptimizerOptions,
    /// Course of the learning rate.
    pub schedule: Schedule,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: usize,
    /// Evaluate after every so many steps, beside before the first and after the last; 0 for those two only.
    pub eval_every: usize,
    /// Tokens that an evaluation takes at a time.
    pub eval_batch_tokens: usize,
}

/// Sees a run go on.
pub trait Observer {
    /// A step was made.
    fn step(&mut self, record: &StepRecord) -> Result<()>;
    /// Held-out rows were evaluated.
    fn evaluated(&mut self, record: &EvalRecord) -> Result<()>;
    /// Whether to stop before the next step.
    fn interrupted(&self) -> bool;
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps were made.
    Finished,
    /// The observer stopped it after so many.
    Interrupted(usize),
}

/// Trains parameters on a data set by a plan over it. When a loss or gradient is not finite the run ends with an error
/// before the step that it would spoil: the parameters are then those of the last good step.
pub fn run(
    objective: &dyn Objective,
    parameters: &[Parameter],
    data: &Dataset,
    plan: &Plan,
    held_out: Option<&Dataset>,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Ending> {
    let mut optimizer = Optimizer::new(parameters, options.optimizer)?;
    let per_epoch = plan.steps_per_epoch();
    let evaluate_at = |step: usize, observer: &mut dyn Observer| match held_out {
        Some(rows) => observer.evaluated(&evaluate(objective, rows, options.eval_batch_tokens, step)?),
        None => Ok(()),
    };
    evaluate_at(0, observer)?;
    let (mut step, mut micro_step) = (0, 0);
    for parts in (0..).flat_map(|epoch| plan.epoch(epoch)).take(options.steps) {
        if observer.interrupted() {
            return Ok(Ending::Interrupted(step));
        }
        let start = Instant::now();
        let batches: Vec<_> = parts.iter().map(|rows| data.batch(rows)).collect();
        let labelled = batches.iter().map(|batch| batch.labelled).sum();
        let mut losses = Vec::with_capacity(batches.len());
        for batch in &batches {
            let part = objective.loss(batch, labelled, micro_step)?;
            micro_step += 1;
            part.backward()?;
            // Not read before the step is queued, since a device would be waited for.
            losses.push(part.detach());
        }
        let factor = options.schedule.factor(step, options.warmup_steps, options.steps);
        let Figures { loss, norm } = optimizer.step(&losses, factor).map_err(|error| error.at(step + 1))?;
        step += 1;
        let tokens = batches.iter().map(|batch| batch.input_ids.len()).sum();
        observer.step(&StepRecord {
            step,
            epoch: step as f64 / per_epoch as f64,
            loss,
            lr: options.optimizer.lr * factor,
            grad_norm: norm,
            tokens,
            tokens_per_s: tokens as f64 / start.elapsed().as_secs_f64(),
            peak_rss_mb: peak_rss_mb(),
        })?;
        let due = options.eval_every > 0 && step % options.eval_every == 0;
        if due || step == options.steps {
            evaluate_at(step, observer)?;
        }
    }
    Ok(Ending::Finished)
}

/// Evaluates held-out rows after `step` steps.
fn evaluate(objective: &dyn Objective, rows: &Dataset, batch_tokens: usize, step: usize) -> Result<EvalRecord> {
    let start = Instant::now();
    let losses = row_losses(objective, rows, batch_tokens)?;
    let eval_loss = mean_loss(&losses);
    Ok(EvalRecord {
        step,
        eval_loss,
        eval_perplexity: eval_loss.exp(),
        eval_tokens: losses.iter().map(|row| row.tokens).sum(),
        eval_s: start.elapsed().as_secs_f64(),
    })
}
