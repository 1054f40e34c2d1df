//! Texts to token ids with the special tokens where training wants them: those that the tokenizer's template puts in front
//! (a BOS) at the start of a row, the end-of-sequence token at its end, nothing in between.

use dora_models::tokenizer::Tokenizer;

use crate::error::Result;

/// A tokenizer and what frames a row.
pub(super) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    head: Vec<u32>,
    tail: Vec<u32>,
}

impl<'a> Encoder<'a> {
    /// The end-of-sequence token, where given, replaces whatever the tokenizer's template puts behind a text.
    pub(super) fn new(tokenizer: &'a Tokenizer, eos_id: Option<u32>) -> Result<Self> {
        let (head, tail) = tokenizer.frame()?;
        Ok(Self { tokenizer, head, tail: eos_id.map_or(tail, |id| vec![id]) })
    }

    /// Ids of a prompt: head and text, no tail.
    pub(super) fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.head.clone();
        ids.extend(self.tokenizer.encode(text, false)?);
        Ok(ids)
    }

    /// Ids of what follows a prompt: text and tail, no head.
    pub(super) fn completion(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.text(text)?;
        ids.extend(&self.tail);
        Ok(ids)
    }

    /// Ids of a text alone: no head, no tail.
    pub(super) fn text(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text, false)?)
    }
}
