//! Which rows each step sees. A unit is a row, or with packing a bin of rows; an epoch visits every unit once, in the order
//! of the files or in one drawn by Fisher–Yates from (seed, epoch) alone. Bins are made once, so every epoch has as many
//! steps: by best fit over all rows when shuffling, else from neighbours, which keeps the order of the files.

use std::num::NonZeroUsize;

use dora_models::shape::PassSize;
use dora_tensor::rng::Philox;

use super::{Dataset, packing};

/// Philox stream of epoch 0's order; epoch e has the e-th after it. The stream before it breaks ties in packing.
const STREAM: u64 = 0x6461_7461_0000_0001;

/// How rows are dealt to steps.
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions {
    /// Units of a micro-batch.
    pub batch_size: NonZeroUsize,
    /// Micro-batches of a step.
    pub grad_accum: NonZeroUsize,
    /// With packing, the most tokens that a bin holds (a longer row has its own); `None`: a unit is one row.
    pub pack_to: Option<usize>,
    /// Whether each epoch has its own random order.
    pub shuffle: bool,
    /// Seed of the run.
    pub seed: u64,
}

/// The steps of every epoch.
#[derive(Debug, Clone)]
pub struct Plan {
    units: Vec<Vec<usize>>,
    options: PlanOptions,
}

impl Plan {
    /// Plan over all rows of a dataset.
    pub fn new(dataset: &Dataset, options: PlanOptions) -> Self {
        let lengths = dataset.lengths();
        let units = match options.pack_to {
            None => (0..lengths.len()).map(|row| vec![row]).collect(),
            Some(limit) if options.shuffle => {
                packing::best_fit(&lengths, &permutation(lengths.len(), options.seed, STREAM - 1), limit)
            }
            Some(limit) => packing::in_order(&lengths, limit),
        };
        Self { units, options }
    }

    /// Steps of an epoch; the last may be smaller than the others.
    pub fn steps_per_epoch(&self) -> usize {
        self.units.len().div_ceil(self.options.batch_size.get()).div_ceil(self.options.grad_accum.get())
    }

    /// The largest micro-batch of the first `steps` steps (of 10,000, where there are more), in every respect.
    pub fn largest_pass(&self, dataset: &Dataset, steps: usize) -> PassSize {
        const LOOKED_AT: usize = 10_000;
        let steps = (0..).flat_map(|epoch| self.epoch(epoch)).take(steps.min(LOOKED_AT));
        steps.flatten().map(|rows| dataset.size(&rows)).fold(PassSize::default(), PassSize::max)
    }

    /// The epoch's steps, each with its micro-batches, each with the indices of its rows.
    pub fn epoch(&self, epoch: u64) -> Vec<Vec<Vec<usize>>> {
        let order = match self.options.shuffle {
            true => permutation(self.units.len(), self.options.seed, STREAM + epoch),
            false => (0..self.units.len()).collect(),
        };
        let micro_batch = |units: &[usize]| units.iter().flat_map(|&unit| self.units[unit].iter().copied()).collect();
        let micro_batches: Vec<Vec<usize>> = order.chunks(self.options.batch_size.get()).map(micro_batch).collect();
        micro_batches.chunks(self.options.grad_accum.get()).map(<[_]>::to_vec).collect()
    }
}

/// A permutation of `0..n` (Fisher–Yates).
fn permutation(n: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut rng = Philox::new(seed, stream);
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        order.swap(last, rng.below(last as u64 + 1) as usize);
    }
    order
}
