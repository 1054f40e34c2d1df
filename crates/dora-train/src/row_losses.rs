//! The loss of each row on its own, to compare two models row by row.

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::objective::Objective;

/// What a model loses on a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowLoss {
    /// Sum over the labelled tokens.
    pub sum: f64,
    /// Labelled tokens, at least one.
    pub tokens: usize,
}

impl RowLoss {
    /// Mean over the row's labelled tokens.
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }
}

/// Mean over the labelled tokens of all rows.
pub fn mean_loss(rows: &[RowLoss]) -> f64 {
    rows.iter().map(|row| row.sum).sum::<f64>() / rows.iter().map(|row| row.tokens).sum::<usize>() as f64
}

/// Losses of rows in their order, about `batch_tokens` tokens at a time.
pub fn row_losses(objective: &dyn Objective, rows: &Dataset, batch_tokens: usize) -> Result<Vec<RowLoss>> {
    let mut losses = Vec::with_capacity(rows.rows.len());
    for (indices, batch) in rows.eval_batches(batch_tokens) {
        let mut tokens = objective.token_losses(&batch)?.into_iter().map(f64::from);
        for index in indices {
            let labelled = rows.rows[index].labelled_tokens();
            let sum: f64 = tokens.by_ref().take(labelled).sum();
            if !sum.is_finite() {
                return Err(Error::NotFinite { what: "the loss on held-out rows", value: sum });
            }
            losses.push(RowLoss { sum, tokens: labelled });
        }
    }
    Ok(losses)
}
