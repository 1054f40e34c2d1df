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
        let (head, tail) = frame(tokenizer)?;
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
        let mut ids = self.tokenizer.encode(text, false)?;
        ids.extend(&self.tail);
        Ok(ids)
    }
}

/// Special tokens that the tokenizer's template puts before and behind a text. An empty text shows them all; the first
/// token of the vocabulary that encodes to something else shows which of them stand before it.
fn frame(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>)> {
    let special = tokenizer.encode("", true)?;
    if special.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    for id in 0..tokenizer.vocab_size() as u32 {
        // Ids in gaps of the vocabulary do not decode; some tokens' texts do not encode on their own.
        let Ok(text) = tokenizer.decode(&[id], true) else { continue };
        let Ok(plain) = tokenizer.encode(&text, false) else { continue };
        if plain.is_empty() || plain.iter().any(|id| special.contains(id)) {
            continue;
        }
        let framed = tokenizer.encode(&text, true)?;
        let head = framed.iter().take_while(|id| special.contains(id)).count();
        let tail = framed.len().saturating_sub(head + plain.len());
        return Ok((framed[..head].to_vec(), framed[framed.len() - tail..].to_vec()));
    }
    Ok((special, Vec::new()))
}
