//! Training data: files of JSON records to rows of token ids and labels. Two layouts of file, told apart by the first
//! character: JSON Lines (one object a line; blank lines are skipped) or one JSON array of objects. Labels are aligned
//! with the ids, −100 where no loss falls; the shift by one (position t predicts t + 1) happens in [`Batch`].

mod batch;
mod encoder;
mod forms;
mod packing;
mod questions;
mod records;
mod sampler;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use dora_models::tokenizer::Tokenizer;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
pub use batch::Batch;
use encoder::Encoder;
pub use questions::{Choice, FAMILIES, Question, Questions, extract};
pub use sampler::{Plan, PlanOptions};

pub use dora_tensor::ops::IGNORE;

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Token ids (T).
    pub input_ids: Vec<u32>,
    /// Labels (T), not yet shifted: the id itself, or [`IGNORE`].
    pub labels: Vec<i32>,
}

impl Row {
    /// Positions that carry loss: the first label is predicted by nothing.
    pub fn labelled_tokens(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&label| label != IGNORE).count()
    }

    /// Names the row by its ids and labels.
    pub fn hash(&self) -> String {
        let ids = self.input_ids.iter().map(|id| id.to_le_bytes());
        short_hash(ids.chain(self.labels.iter().map(|label| label.to_le_bytes())))
    }
}

/// The first 16 hexadecimal digits of the SHA-256 of some bytes: enough to name an item.
fn short_hash<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    parts.into_iter().for_each(|part| hash.update(part));
    format!("{:x}", hash.finalize())[..16].to_owned()
}

/// Rows to train or evaluate on, in the order of the files.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The rows, each with at least one labelled token and at most `max_seq_len` tokens.
    pub rows: Vec<Row>,
    /// What was read and what became of it.
    pub report: LoadReport,
    /// SHA-256 of the files' bytes, one after another, in hexadecimal.
    pub sha256: String,
}

/// What to do with a row of more than `max_seq_len` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongRows {
    /// It is an error.
    Refuse,
    /// It is left out and counted.
    Drop,
    /// Its first `max_seq_len` tokens are kept, and it is counted.
    Truncate,
}

/// How files become rows.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Most tokens that a row may have.
    pub max_seq_len: usize,
    /// What to do with longer rows.
    pub long_rows: LongRows,
    /// Rows of the embedding: every token id must be smaller.
    pub vocab_size: usize,
    /// End-of-sequence token, put behind every text; where it is unknown, what the tokenizer's own template puts there.
    pub eos_id: Option<u32>,
}

/// What loading found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Records read.
    pub read: usize,
    /// Rows left out for their length.
    pub dropped_long: usize,
    /// Rows cut to the longest length.
    pub truncated: usize,
    /// Rows left out because no position carries loss (after a cut, if there was one).
    pub dropped_unlabelled: usize,
    /// Tokens of the rows kept.
    pub tokens: usize,
    /// Positions of the rows kept that carry loss.
    pub labelled_tokens: usize,
}

impl Dataset {
    /// Reads the files in order. Without a tokenizer only records of `input_ids` and `labels` are accepted.
    pub fn load(files: &[PathBuf], tokenizer: Option<&Tokenizer>, options: &LoadOptions) -> Result<Self> {
        let encoder = tokenizer.map(|tokenizer| Encoder::new(tokenizer, options.eos_id)).transpose()?;
        let (mut rows, mut report) = (Vec::new(), LoadReport::default());
        let sha256 = records::each_of(files, |path, line, record| {
            let error = |problem| Error::Record { path: path.to_owned(), line, problem };
            let row = forms::row(&record, encoder.as_ref(), options.vocab_size).map_err(error)?;
            rows.extend(admit(row, options, &mut report).map_err(error)?);
            Ok(())
        })?;
        if rows.is_empty() {
            return Err(Error::Data { paths: files.to_vec(), problem: nothing_left(&report) });
        }
        Ok(Self { rows, report, sha256 })
    }
}

/// Applies the rules on length and labels to a row, and counts it.
fn admit(mut row: Row, options: &LoadOptions, report: &mut LoadReport) -> std::result::Result<Option<Row>, String> {
    report.read += 1;
    let (length, limit) = (row.input_ids.len(), options.max_seq_len);
    if length > limit {
        match options.long_rows {
            LongRows::Refuse => {
                return Err(format!(
                    "found a row of {length} tokens, expected at most {limit} (raise --max-seq-len, or choose \
                     --long-rows drop|truncate)"
                ));
            }
            LongRows::Drop => {
                report.dropped_long += 1;
                return Ok(None);
            }
            LongRows::Truncate => {
                report.truncated += 1;
                row.input_ids.truncate(limit);
                row.labels.truncate(limit);
            }
        }
    }
    let labelled = row.labelled_tokens();
    if labelled == 0 {
        report.dropped_unlabelled += 1;
        return Ok(None);
    }
    report.tokens += row.input_ids.len();
    report.labelled_tokens += labelled;
    Ok(Some(row))
}

fn nothing_left(report: &LoadReport) -> String {
    let LoadReport { read, dropped_long, truncated, dropped_unlabelled, .. } = report;
    format!(
        "found no labelled token in {read} rows ({dropped_long} dropped for their length, {truncated} truncated, \
         {dropped_unlabelled} without a label after the first token), expected at least one"
    )
}
