//! Rows side by side without padding: ids and targets of the documents, one behind another (sum of T), and their lengths.
//! Within each document `targets[t] = labels[t + 1]`; its last position predicts nothing.

use dora_models::shape::PassSize;

use super::{Dataset, IGNORE, Row, packing};

/// What one forward pass sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Token ids of all documents.
    pub input_ids: Vec<u32>,
    /// The token that each position predicts, or [`IGNORE`].
    pub targets: Vec<i32>,
    /// Tokens of each document.
    pub lengths: Vec<usize>,
    /// Targets that carry loss.
    pub labelled: usize,
}

impl Batch {
    fn new<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Self {
        let mut batch = Self { input_ids: Vec::new(), targets: Vec::new(), lengths: Vec::new(), labelled: 0 };
        for row in rows {
            batch.input_ids.extend(&row.input_ids);
            batch.targets.extend(row.labels.iter().skip(1));
            batch.targets.resize(batch.input_ids.len(), IGNORE);
            batch.lengths.push(row.input_ids.len());
            batch.labelled += row.labelled_tokens();
        }
        batch
    }
}

impl Dataset {
    /// Batch of the rows with these indices.
    pub fn batch(&self, rows: &[usize]) -> Batch {
        Batch::new(rows.iter().map(|&row| &self.rows[row]))
    }

    /// All rows in the order of the files, as many at a time as fit in `max_tokens` (a longer row stands alone), each
    /// batch with the indices of its rows.
    pub fn eval_batches(&self, max_tokens: usize) -> Vec<(Vec<usize>, Batch)> {
        let bins = packing::in_order(&self.lengths(), max_tokens);
        bins.into_iter().map(|rows| (rows.clone(), self.batch(&rows))).collect()
    }

    /// The largest batch of an evaluation, in every respect.
    pub fn largest_evaluation(&self, max_tokens: usize) -> PassSize {
        let bins = packing::in_order(&self.lengths(), max_tokens);
        bins.iter().map(|rows| self.size(rows)).fold(PassSize::default(), PassSize::max)
    }

    /// Size of the batch of the rows with these indices.
    pub(super) fn size(&self, rows: &[usize]) -> PassSize {
        let rows = rows.iter().map(|&row| &self.rows[row]);
        rows.fold(PassSize::default(), |size, row| PassSize {
            tokens: size.tokens + row.input_ids.len(),
            longest: size.longest.max(row.input_ids.len()),
            labelled: size.labelled + row.labelled_tokens(),
        })
    }

    /// Tokens of each row.
    pub(super) fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(|row| row.input_ids.len()).collect()
    }
}
