//! Peak memory of a training run, predicted from its shape, term by term, in bytes.
//!
//! For T tokens of the largest micro-batch: weights as they are held; each trained number four times (value, gradient, two
//! moments of AdamW) in 4 bytes; activations T·blocks·(per block + Σ ranks) in 4 bytes, or, with gradient checkpointing, T·blocks·width
//! and one block; workspace the larger of what the loss has (a chunk of logits, three of T·width) and the backward pass of a
//! block (five of T·widest), and the panels of every thread.

use crate::targets::Target;
use dora_models::shape::ModelShape;
use dora_tensor::ops::LOGITS_CHUNK;
use serde::Serialize;

/// What a run is like.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The base model.
    pub shape: &'a ModelShape,
    /// Bytes of the frozen weights as they are held.
    pub weight_bytes: usize,
    /// Numbers trained.
    pub trainable: usize,
    /// Layers with an adapter.
    pub targets: &'a [Target],
    /// Tokens of the largest micro-batch.
    pub tokens: usize,
    /// Whether blocks are computed again in the backward pass.
    pub gradient_checkpointing: bool,
    /// Threads.
    pub threads: usize,
}

/// Bytes of each kind at the peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Frozen weights, constants of quantisation included.
    pub weights: usize,
    /// Trained values.
    pub trained: usize,
    /// Their gradients.
    pub gradients: usize,
    /// AdamW's moments.
    pub optimizer: usize,
    /// What the forward pass keeps for the backward pass.
    pub activations: usize,
    /// Logits, gradients on their way, panels.
    pub workspace: usize,
    /// The program itself.
    pub process: usize,
}

/// Program, libraries, stacks, tables of the tokenizer: as measured.
const PROCESS: usize = 30_000_000;
/// Panels and their packed copies that a thread has in use.
const PANELS: usize = 4 << 20;

impl Memory {
    /// What a run will need.
    pub fn predict(run: &Run) -> Self {
        let (t, kept) = (run.tokens, run.shape.activations);
        let ranks: usize = run.targets.iter().map(|target| target.rank).sum();
        let block = kept.per_block + ranks.div_ceil(kept.blocks.max(1));
        let activations = match run.gradient_checkpointing {
            false => t * (kept.blocks * block + kept.width),
            true => t * (kept.blocks * kept.width + kept.width + block),
        };
        let vocab = run.shape.linears.iter().filter(|l| l.output_embedding).map(|l| l.out_features).max().unwrap_or(0);
        let loss = LOGITS_CHUNK.max(vocab).min(t * vocab) + 3 * t * kept.width;
        let workspace = 4 * loss.max(5 * t * kept.widest) + run.threads * PANELS;
        let number = 4 * run.trainable;
        Memory {
            weights: run.weight_bytes,
            trained: number,
            gradients: number,
            optimizer: 2 * number,
            activations: 4 * activations,
            workspace,
            process: PROCESS,
        }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        let Memory { weights, trained, gradients, optimizer, activations, workspace, process } = *self;
        weights + trained + gradients + optimizer + activations + workspace + process
    }
}
