//! What training makes smaller: the loss of a batch, as a scalar on the tape.

use dora_models::linear::{DropoutSource, Pass};
use dora_models::model::Model;
use dora_tensor::ops::{IGNORE, RowIds, cross_entropy, token_losses};
use dora_tensor::{Result, Tensor, no_grad};
use std::sync::Arc;

use crate::data::Batch;

/// A loss over batches.
pub trait Objective {
    /// Sum of the batch's token losses over `labelled`, the number of labelled tokens of the whole step, so that the parts of
    /// a step add up to its mean. `micro_step` counts the parts since the start of training, from 0.
    fn loss(&self, batch: &Batch, labelled: usize, micro_step: u64) -> Result<Tensor>;

    /// The loss of each labelled token of a batch, in order, without anything random and off the tape.
    fn token_losses(&self, batch: &Batch) -> Result<Vec<f32>>;
}

/// Cross-entropy of the next token.
pub struct CausalLm<'a> {
    /// The model.
    pub model: &'a dyn Model,
    /// Seed of the run, for dropout.
    pub seed: u64,
    /// Compute each block again in the backward pass instead of keeping its activations.
    pub recompute_blocks: bool,
}

impl Objective for CausalLm<'_> {
    fn loss(&self, batch: &Batch, labelled: usize, micro_step: u64) -> Result<Tensor> {
        let dropout = Some(DropoutSource { seed: self.seed, step: micro_step });
        let (pass, targets) = of_labelled(batch)?;
        let pass = Pass { dropout, recompute_blocks: self.recompute_blocks, ..pass };
        let hidden = self.model.hidden(&batch.input_ids, &pass)?;
        cross_entropy(&hidden, &self.model.head(), &targets, labelled as f32)
    }

    fn token_losses(&self, batch: &Batch) -> Result<Vec<f32>> {
        no_grad(|| {
            let (pass, targets) = of_labelled(batch)?;
            let hidden = self.model.hidden(&batch.input_ids, &pass)?;
            token_losses(&hidden, &self.model.head(), &targets)
        })
    }
}

/// A pass over a batch, and the targets of the rows that it gives: of those with a label alone, unless
/// nearly all have one, or none has.
fn of_labelled(batch: &Batch) -> Result<(Pass, Vec<i32>)> {
    let pass = Pass::new(&batch.lengths);
    if batch.labelled == 0 || 8 * batch.labelled > 7 * batch.targets.len() {
        return Ok((pass, batch.targets.clone()));
    }
    let labelled = batch.targets.iter().enumerate().filter(|(_, target)| **target != IGNORE);
    let (rows, targets) = labelled.map(|(row, &target)| (row as u32, target)).unzip();
    Ok((Pass { wanted: Some(Arc::new(RowIds::new(rows)?)), ..pass }, targets))
}
