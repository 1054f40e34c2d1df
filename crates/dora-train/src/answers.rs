//! Answers to multiple-choice questions, in two ways.
//!
//! * By likelihood: the loss −Σ ln p(token | what stands before it) of each option's sentence, from the first token in which
//!   the options differ (what they share adds the same to all). The smallest wins; of equal ones the first. It is a sum, not
//!   a mean over tokens: a family's words are alike in length, and where they are not, dividing would favour long ones.
//!   A question's prompt goes through the model once: options whose sentences differ in the last token only, as they do
//!   under every common tokenizer, are read off the same position. Questions are batched without padding.
//! * By generation: greedily, up to 32 new tokens, until a word of the family appears; the first one is the answer, and a
//!   text without one is wrong. The DoRA paper's rule, but for its beam search of 4.

use std::ops::ControlFlow;
use std::sync::Arc;

use dora_models::generate::{Sampling, generate};
use dora_models::linear::Pass;
use dora_models::model::Model;
use dora_models::tokenizer::Tokenizer;
use dora_tensor::no_grad;
use dora_tensor::ops::{RowIds, losses_at};

use crate::data::{Question, extract};
use crate::error::{Error, Result};

/// Most tokens of an answer in words, as in the paper.
pub const ANSWER_TOKENS: usize = 32;

/// The loss of every option of every question, about `batch_tokens` tokens at a time; `each` sees the losses of a question.
pub fn option_losses<'a>(
    model: &dyn Model,
    questions: impl IntoIterator<Item = &'a Question>,
    batch_tokens: usize,
    mut each: impl FnMut(Vec<f64>),
) -> Result<()> {
    let mut batch = Batch::default();
    for question in questions {
        let rows = Rows::of(question);
        if batch.tokens() > 0 && batch.tokens() + rows.tokens() > batch_tokens {
            std::mem::take(&mut batch).losses(model)?.into_iter().for_each(&mut each);
        }
        batch.push(question, rows);
    }
    batch.losses(model)?.into_iter().for_each(&mut each);
    Ok(())
}

/// What a model says to a question, up to the answer, and the answer.
pub fn generated(
    model: &dyn Model,
    tokenizer: &Tokenizer,
    question: &Question,
    eos: &[u32],
) -> Result<(String, Option<&'static str>)> {
    let (mut ids, mut said) = (Vec::new(), Ok((String::new(), None)));
    generate(model, &question.prompt, ANSWER_TOKENS, eos, &Sampling::GREEDY, |id| {
        ids.push(id);
        said = tokenizer.decode(&ids, true).map(|text| {
            let answer = extract(&text, question.family);
            (text, answer)
        });
        match &said {
            Ok((_, None)) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    })?;
    Ok(said?)
}

/// The documents that a question needs, each the prompt and a part of a sentence, and where its options' tokens are
/// predicted.
struct Rows<'a> {
    prompt: &'a [u32],
    /// What follows the prompt; no two are equal.
    parts: Vec<&'a [u32]>,
    /// Tokens that all options share.
    common: usize,
}

impl<'a> Rows<'a> {
    fn of(question: &'a Question) -> Self {
        let completions: Vec<&[u32]> = question.options.iter().map(|option| &option.completion[..]).collect();
        let first = completions[0];
        let shared = |other: &&[u32]| first.iter().zip(*other).take_while(|(a, b)| a == b).count();
        let common = completions.iter().map(shared).min().unwrap_or(0);
        // The last token of a sentence predicts nothing that is asked for.
        let mut parts: Vec<&[u32]> = completions.iter().map(|c| &c[..c.len() - 1]).collect();
        parts.sort_unstable();
        parts.dedup();
        // What is the beginning of another part is computed with that.
        let longer = |part: &&[u32]| !parts.iter().any(|other| other.len() > part.len() && other.starts_with(part));
        Rows { prompt: &question.prompt, parts: parts.iter().copied().filter(longer).collect(), common }
    }

    fn tokens(&self) -> usize {
        self.parts.iter().map(|part| self.prompt.len() + part.len()).sum()
    }
}

/// Questions that go through the model together.
#[derive(Default)]
struct Batch {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    /// For each question, for each option: (row of the hidden states, token that follows it).
    wanted: Vec<Vec<Vec<(usize, u32)>>>,
}

impl Batch {
    fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn push(&mut self, question: &Question, rows: Rows) {
        let mut starts = Vec::with_capacity(rows.parts.len());
        for part in &rows.parts {
            starts.push(self.ids.len());
            self.ids.extend(rows.prompt.iter().chain(*part));
            self.lengths.push(rows.prompt.len() + part.len());
        }
        let option = |completion: &[u32]| {
            let seen = &completion[..completion.len() - 1];
            let row = rows.parts.iter().position(|part| part.starts_with(seen)).expect("a part for every option");
            let before = starts[row] + rows.prompt.len() - 1;
            (rows.common..completion.len()).map(|at| (before + at, completion[at])).collect()
        };
        self.wanted.push(question.options.iter().map(|o| option(&o.completion)).collect());
    }

    /// The losses of each question's options.
    fn losses(self, model: &dyn Model) -> Result<Vec<Vec<f64>>> {
        if self.ids.is_empty() {
            return Ok(Vec::new());
        }
        let tokens = || self.wanted.iter().flatten().flatten();
        let mut rows: Vec<u32> = tokens().map(|&(row, _)| row as u32).collect();
        rows.sort_unstable();
        rows.dedup();
        let place = |row: usize| rows.binary_search(&(row as u32)).expect("a row that is wanted");
        let all: Vec<(usize, usize)> = tokens().map(|&(row, token)| (place(row), token as usize)).collect();
        let losses = no_grad(|| {
            let pass = Pass { wanted: Some(Arc::new(RowIds::new(rows)?)), ..Pass::new(&self.lengths) };
            losses_at(&model.hidden(&self.ids, &pass)?, &model.head(), &all)
        })?;
        let mut losses = losses.into_iter().map(f64::from);
        let mut sum = |tokens: &Vec<_>| losses.by_ref().take(tokens.len()).sum::<f64>();
        let sums: Vec<Vec<f64>> = self.wanted.iter().map(|options| options.iter().map(&mut sum).collect()).collect();
        match sums.iter().flatten().find(|loss| !loss.is_finite()) {
            Some(&value) => Err(Error::NotFinite { what: "the loss of an answer", value }),
            None => Ok(sums),
        }
    }
}
