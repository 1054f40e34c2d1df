//! Predicted peak memory of a training run, from a model's shape alone, term by term. n are the tokens of the largest pass.
//!
//! | term | bytes |
//! |---|---|
//! | weights | frozen: in·out of every layer and table in its type (NF4: half a byte), norms and biases 4; trained: 4 each |
//! | quantisation constants | a block: 4, or with double quantisation 1 and 4 for each 256 blocks |
//! | adapter | 4·(r·(in + out)) a layer, DoRA 12·out more: m, ‖W‖² and n |
//! | gradients | 4 a trained parameter |
//! | optimizer | 8 a trained parameter: AdamW's moments |
//! | activations | 4·n a block: what the block keeps ([`Activations`]; attention's output in long documents), r for each adapted layer, out with DoRA's dropout |
//! | workspace | what exists for a moment: the logits of a chunk, gradients on their way, scratch of each thread |
//! | process | the program and its threads, the tokenizer, the rows, and what the allocator cannot hand on |
//!
//! Gradients come as activations go, block by block, so memory is largest at one of a few points, and the terms are those of the
//! largest. They are of the second step on; in the first AdamW's moments take no memory until the update.

use crate::targets::Target;
use dora_models::shape::{Activations, ModelShape, PassSize};
use dora_tensor::cpu::panel_room;
use dora_tensor::ops::{QUERY_BLOCK, chunk_rows, keeps_attention};
use dora_tensor::{DType, Device, Nf4Options};

/// What is trained.
#[derive(Debug, Clone, Copy)]
pub enum Trained<'a> {
    /// Every weight.
    Everything,
    /// An adapter on frozen weights.
    Adapter {
        /// Its layers.
        targets: &'a [Target],
        /// Whether it has magnitudes.
        use_dora: bool,
        /// Whether it drops inputs.
        dropout: bool,
    },
}

/// A training run, as far as its memory depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The model.
    pub shape: &'a ModelShape,
    /// Type that frozen weights are held in, where they are not in 4 bits.
    pub dtype: DType,
    /// How linear layers are held in 4 bits.
    pub nf4: Option<Nf4Options>,
    /// What is trained.
    pub trained: Trained<'a>,
    /// The largest forward pass.
    pub pass: PassSize,
    /// Whether a step has several passes, so that gradients of one are there during the next.
    pub accumulates: bool,
    /// Whether blocks are computed again in the backward pass.
    pub recompute_blocks: bool,
    /// The largest pass of an evaluation; without tokens, there is none.
    pub evaluation: PassSize,
    /// Tokens of all rows, which stay in memory.
    pub row_tokens: usize,
    /// Threads that compute.
    pub threads: usize,
}

impl Run<'_> {
    /// Whether a layer needs attention's result in the backward pass.
    pub(crate) fn needs_attention(&self) -> bool {
        match self.trained {
            Trained::Everything => true,
            Trained::Adapter { targets, .. } => {
                targets.iter().any(|target| target.linear.path.ends_with(self.shape.activations.attention_reader))
            }
        }
    }
}

/// The terms at the point where their sum is largest, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    /// Name and bytes of each term.
    pub terms: [(&'static str, usize); 8],
}

impl Prediction {
    /// Their sum.
    pub fn peak(&self) -> usize {
        self.terms.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Bytes of an `f32`.
const FLOAT: usize = 4;
/// The program itself, measured.
const PROGRAM: usize = 18_000_000;
/// A thread beside its scratch: stack and packed operands of products, measured.
const THREAD: usize = 3_400_000;
/// A token of a tokenizer's vocabulary, measured.
const TOKENIZER: usize = 400;
/// An id and a label of a row.
const ROW_TOKEN: usize = 8;
/// One part in so many of all that comes and goes is lost between buffers, measured.
const LOST: usize = 50;

/// Predicts the peak.
pub fn predict(run: &Run) -> Prediction {
    let Run { shape, trained, .. } = *run;
    let (weights, constants) = weights(run);
    let (parameters, adapter, of_adapter) = match trained {
        Trained::Everything => (shape.parameters, 0, 0),
        Trained::Adapter { targets, use_dora, dropout } => {
            let parameters = crate::count::count(targets, use_dora, shape).trainable;
            let outputs: usize = targets.iter().map(|target| target.linear.out_features).sum();
            let norms = if use_dora { 2 * outputs } else { 0 };
            let ranks: usize = targets.iter().map(|target| target.rank).sum();
            let dropped = if use_dora && dropout { outputs } else { 0 };
            (parameters, parameters + norms, ranks + dropped)
        }
    };
    let points = points(run, FLOAT * parameters, of_adapter);
    let point = points.into_iter().max_by_key(Point::sum).expect("there are several");
    // Backward: two matrices of scores, and the packed keys of a head, which is about as wide as a block is long.
    let panel = shape.linears.iter().map(|l| panel_room((l.out_features, l.in_features))).max().unwrap_or(0);
    let scratch = FLOAT * run.threads * panel.max(3 * QUERY_BLOCK * run.pass.longest);
    let vocabulary = shape.linears.iter().filter(|l| l.output_embedding).map(|l| l.out_features).sum::<usize>();
    let process = PROGRAM
        + THREAD * run.threads
        + TOKENIZER * vocabulary
        + ROW_TOKEN * run.row_tokens
        + (point.activations + point.workspace) / LOST;
    let terms = [
        ("weights", weights),
        ("quantisation constants", constants),
        ("adapter", FLOAT * adapter),
        ("gradients", point.gradients),
        ("optimizer", 2 * FLOAT * parameters),
        ("activations", point.activations),
        ("workspace", point.workspace + scratch),
        ("process", process),
    ];
    Prediction { terms }
}

/// Bytes of all weights, and of the constants that they are quantised with.
fn weights(run: &Run) -> (usize, usize) {
    let ModelShape { linears, parameters, .. } = run.shape;
    if let Trained::Everything = run.trained {
        return (FLOAT * parameters, 0);
    }
    let (mut matrices, mut bytes, mut constants) = (0, 0, 0);
    for linear in linears.iter().filter(|linear| !linear.output_embedding) {
        let elements = linear.in_features * linear.out_features;
        matrices += elements;
        match run.nf4 {
            None => bytes += run.dtype.size() * elements,
            Some(Nf4Options { block_size, double_quant }) => {
                let blocks = elements.div_ceil(block_size);
                bytes += elements.div_ceil(2);
                constants += if double_quant { blocks + FLOAT * blocks.div_ceil(256) } else { FLOAT * blocks };
            }
        }
    }
    let tables = table(run.shape) * if run.shape.tied { 1 } else { 2 };
    let small = parameters - matrices - tables;
    (bytes + run.dtype.size() * tables + FLOAT * small, constants)
}

/// Elements of the output embedding.
fn table(shape: &ModelShape) -> usize {
    shape.linears.iter().filter(|l| l.output_embedding).map(|l| l.in_features * l.out_features).sum()
}

/// What comes and goes, in bytes, at a moment of a run.
#[derive(Debug, Clone, Copy)]
struct Point {
    activations: usize,
    gradients: usize,
    workspace: usize,
}

impl Point {
    fn sum(&self) -> usize {
        self.activations + self.gradients + self.workspace
    }
}

/// The moments at which a run's memory can be largest: an evaluation, the loss, the backward pass of the last block and that of
/// the first, before the update.
fn points(run: &Run, all: usize, of_adapter: usize) -> [Point; 4] {
    let Activations { blocks, width, forward, backward, .. } = run.shape.activations;
    let n = run.pass.tokens;
    let everything = matches!(run.trained, Trained::Everything);
    let attention = match run.needs_attention() && keeps_attention(Device::Cpu, run.pass.longest) {
        true => run.shape.activations.attention_width,
        false => 0,
    };
    let block = FLOAT * n * (run.shape.activations.kept_per_block() + attention);
    let (activations, again) = match run.recompute_blocks {
        true => (FLOAT * n * blocks * width, block + FLOAT * n * of_adapter / blocks.max(1)),
        false => (blocks * block + FLOAT * n * of_adapter, 0),
    };
    // Where it is trained, the output embedding has its gradient as soon as there is a loss; tied, the table's other gradient is
    // added to it at the end.
    let table = if everything { FLOAT * table(run.shape) } else { 0 };
    let second_table = if run.shape.tied { table } else { 0 };
    let before = if run.accumulates { all } else { table };
    let passing = again + FLOAT * n * backward;
    let evaluation = run.evaluation;
    let evaluated = FLOAT * evaluation.tokens * forward + logits(run.shape, evaluation, false);
    [
        Point { activations: 0, gradients: 0, workspace: evaluated },
        Point { activations, gradients: before, workspace: logits(run.shape, run.pass, true) },
        Point { activations, gradients: before, workspace: passing },
        Point { activations: 0, gradients: all, workspace: passing.max(second_table) },
    ]
}

/// Bytes of the loss: a chunk of logits, its rows of hidden states, the hidden states themselves, and where there is a backward
/// pass the gradients of both.
fn logits(shape: &ModelShape, pass: PassSize, training: bool) -> usize {
    let head = shape.linears.iter().find(|linear| linear.output_embedding);
    let (vocabulary, width) = head.map_or((1, 0), |head| (head.out_features, head.in_features));
    let rows = chunk_rows(pass.labelled, vocabulary);
    let sides = if training { 2 } else { 1 };
    FLOAT * (rows * (vocabulary + sides * width) + sides * pass.tokens * width)
}
