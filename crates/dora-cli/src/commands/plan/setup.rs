//! A method's setting for a machine: the first of a ladder that fits with a twentieth to spare, else its last, the smallest. A
//! step's rows may go in several passes, which changes neither the step nor, much, its time; computing blocks again costs time,
//! so it comes after that.

use std::num::NonZeroUsize;

use anyhow::Result;
use dora_adapters::config::{AdapterConfig, Purpose, TargetModules};
use dora_adapters::count::count;
use dora_adapters::flops;
use dora_adapters::memory::{Prediction, Run, Trained, predict};
use dora_adapters::targets::{Target, resolve};
use dora_models::model::Description;
use dora_models::shape::PassSize;
use dora_tensor::{DType, Nf4Options};

use crate::adapter_args::Method;

/// What a plan is for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model.
    pub model: Description,
    /// Type of the frozen weights.
    pub dtype: DType,
    /// How the model's folder holds its layers in 4 bits, if it does.
    pub stored_nf4: Option<Nf4Options>,
    /// Bytes that there are.
    pub memory: Option<usize>,
    /// Tokens of a row.
    pub seq_len: usize,
    /// Rows of a step.
    pub batch_size: NonZeroUsize,
    /// Rank of adapters.
    pub rank: usize,
    /// Whether memory goes before time.
    pub smallest: bool,
    /// Threads that compute.
    pub threads: usize,
}

/// How a method would run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The method.
    pub method: Method,
    /// Tokens of a row.
    pub seq_len: usize,
    /// Rows of a pass.
    pub batch_size: usize,
    /// Passes of a step.
    pub grad_accum: usize,
    /// Whether blocks are computed again in the backward pass.
    pub gradient_checkpointing: bool,
    /// Predicted memory.
    pub prediction: Prediction,
    /// Operations a token over those of LoRA that keeps its activations.
    pub relative_time: f64,
    /// Parameters that train.
    pub trainable: usize,
    /// Whether it fits.
    pub fits: bool,
}

impl Request {
    /// Methods that can train this model: a folder in 4 bits is not widened again.
    pub fn methods(&self) -> &'static [Method] {
        match self.stored_nf4 {
            None => &[Method::Full, Method::Lora, Method::Dora, Method::Qlora, Method::Qdora],
            Some(_) => &[Method::Qlora, Method::Qdora],
        }
    }

    /// The setting of a method for rows of so many tokens.
    pub fn setup(&self, method: Method, seq_len: usize) -> Result<Setup> {
        let config = AdapterConfig {
            r: self.rank,
            use_dora: method.is_dora(),
            target_modules: TargetModules::AllLinear,
            ..Default::default()
        };
        let targets = resolve(&config, &self.model.shape, &[], Purpose::Begin)?;
        let rows = self.batch_size.get();
        let divisors = (1..=rows).rev().filter(|size| rows.is_multiple_of(*size));
        let mut ladder: Vec<_> =
            [false, true].into_iter().flat_map(|again| divisors.clone().map(move |n| (n, again))).collect();
        if self.smallest {
            ladder = ladder.split_off(ladder.len() - 1);
        }
        let last = ladder.pop().expect("a batch has at least one row");
        let first =
            ladder.into_iter().map(|(n, again)| self.at(method, &targets, seq_len, n, again)).find(|s| self.spares(s));
        Ok(first.unwrap_or_else(|| self.at(method, &targets, seq_len, last.0, last.1)))
    }

    /// Whether a twentieth of the memory is left.
    fn spares(&self, setup: &Setup) -> bool {
        self.memory.is_none_or(|memory| setup.prediction.peak() <= memory - memory / 20)
    }

    fn at(&self, method: Method, targets: &[Target], seq_len: usize, batch_size: usize, again: bool) -> Setup {
        let run = self.run(method, targets, seq_len, batch_size, again);
        let lora = self.run(Method::Lora, targets, seq_len, self.batch_size.get(), false);
        let prediction = predict(&run);
        let step_tokens = self.batch_size.get() * seq_len;
        Setup {
            method,
            seq_len,
            batch_size,
            grad_accum: self.batch_size.get() / batch_size,
            gradient_checkpointing: again,
            relative_time: flops::per_token(&run, step_tokens) / flops::per_token(&lora, step_tokens),
            trainable: match method {
                Method::Full => self.model.shape.parameters,
                _ => count(targets, method.is_dora(), &self.model.shape).trainable,
            },
            fits: self.memory.is_none_or(|memory| prediction.peak() <= memory),
            prediction,
        }
    }

    fn run<'a>(
        &'a self,
        method: Method,
        targets: &'a [Target],
        seq_len: usize,
        batch_size: usize,
        again: bool,
    ) -> Run<'a> {
        let tokens = batch_size * seq_len;
        Run {
            shape: &self.model.shape,
            dtype: self.dtype,
            nf4: self.stored_nf4.or(method.is_quantized().then(Nf4Options::default)),
            trained: match method {
                Method::Full => Trained::Everything,
                _ => Trained::Adapter { targets, use_dora: method.is_dora(), dropout: false },
            },
            pass: PassSize { tokens, longest: seq_len, labelled: tokens },
            accumulates: batch_size < self.batch_size.get(),
            recompute_blocks: again,
            evaluation: PassSize::default(),
            row_tokens: 0,
            threads: self.threads,
        }
    }
}
