//! Cross-entropy of the next token with the output embedding inside: loss = Σ_t (log Σ_v e^{z_tv} − z_{t,target}) / D over
//! the rows t that carry a label, z = hidden·Wᵀ for hidden (n, C) and W (V, C), D the caller's denominator.
//!
//! Rows without a label cost nothing. Labelled rows go through in chunks: logits exist for one chunk only. The forward pass
//! computes the gradients as well, since logits are at hand: dz = (softmax(z) − onehot)/D, dhidden = dz·W and, where W is
//! trained, dW = dzᵀ·hidden. The backward pass scales them by the gradient of the loss.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use super::{Matrix, index_select as picking};
use crate::cpu::buffer;
use crate::cuda::{Copied, accumulate};
use crate::profile::{self, Direction};
use crate::tape::recording;
use crate::{Device, Error, Op, Result, Tensor, record};

/// The target of a row that carries no label, as PyTorch and transformers write it.
pub const IGNORE: i32 = -100;

/// Logits that exist at a time on the CPU, at most (but for a single row): 24 MiB.
const LOGIT_CHUNK: usize = 6 << 20;

/// Bytes of them on a device. Every chunk reads all of W twice, and m rows do m FLOPs of bf16 for a byte of it: beyond an
/// H100's 300 FLOPs a byte those reads cost nothing. Of Llama 3's 128,256 tokens, 512 MiB of bf16 hold 2,093 rows.
const DEVICE_LOGIT_BYTES: usize = 512 << 20;

/// The loss as a scalar. `targets[t]` is the token to follow row t, or [`IGNORE`].
pub fn cross_entropy(hidden: &Tensor, head: &Matrix, targets: &[i32], denominator: f32) -> Result<Tensor> {
    cross_entropy_in_chunks(most_logits(hidden), hidden, head, targets, denominator)
}

/// [`cross_entropy`] in chunks of at most so many logits.
pub(crate) fn cross_entropy_in_chunks(
    most: usize,
    hidden: &Tensor,
    head: &Matrix,
    targets: &[i32],
    denominator: f32,
) -> Result<Tensor> {
    let _running = profile::operation("cross_entropy", Direction::Forward);
    let none = Tensor::zeros(&[0]);
    let trained = match head {
        Matrix::Frozen(_) => &none,
        Matrix::Trained(w) => w,
    };
    let inputs = [hidden, trained];
    let mut gradients = recording(&inputs).then(|| Gradients::new(hidden, trained)).transpose()?;
    let scale = gradients.as_ref().map(|_| 1.0 / denominator);
    let mut total = Total::default();
    for_chunks(most, hidden, head, &labelled(hidden, targets)?, |mut logits, rows, x| {
        total.add(losses(&mut logits, rows, scale)?)?;
        match &mut gradients {
            Some(gradients) => gradients.add(head, &logits, rows, &x),
            None => Ok(()),
        }
    })?;
    let loss = match hidden.device() {
        Device::Cpu => Tensor::scalar((total.sum / f64::from(denominator)) as f32),
        Device::Cuda(gpu) => cuda::mean(gpu, &total.on_device, denominator)?,
    };
    Ok(record(loss, &inputs, || gradients.expect("computed when the result is recorded")))
}

/// The loss of every row that carries a label, in order; off the tape.
pub fn token_losses(hidden: &Tensor, head: &Matrix, targets: &[i32]) -> Result<Vec<f32>> {
    let _running = profile::operation("cross_entropy", Direction::Forward);
    losses_at(hidden, head, &labelled(hidden, targets)?)
}

/// The loss of the token that follows a row, for each given (row, token); off the tape.
pub fn losses_at(hidden: &Tensor, head: &Matrix, at: &[(usize, usize)]) -> Result<Vec<f32>> {
    let mut chunks = Vec::new();
    for_chunks(most_logits(hidden), hidden, head, at, |mut logits, rows, _| {
        chunks.push(losses(&mut logits, rows, None)?);
        Ok(())
    })?;
    let on_cpu = chunks.iter().map(|losses| losses.to_device(Device::Cpu)).collect::<Result<Vec<_>>>()?;
    Ok(on_cpu.iter().flat_map(Tensor::to_vec).collect())
}

/// The rows that carry a label, each with its target.
fn labelled(hidden: &Tensor, targets: &[i32]) -> Result<Vec<(usize, usize)>> {
    let (n, _) = hidden.dims2("cross_entropy", "hidden")?;
    if targets.len() != n {
        return Err(Error::argument("cross_entropy", format!("{} targets for {n} rows", targets.len())));
    }
    let labelled = targets.iter().enumerate().filter(|(_, target)| **target != IGNORE);
    Ok(labelled.map(|(row, &target)| (row, target as usize)).collect())
}

/// Rows of a chunk, each with its target.
struct Rows<'a> {
    pairs: &'a [(usize, usize)],
    on_device: Copied<cuda::Rows>,
}

impl Rows<'_> {
    fn ids(&self) -> impl ExactSizeIterator<Item = usize> {
        self.pairs.iter().map(|&(row, _)| row)
    }
}

/// Losses of all chunks: their sum on the CPU, in f64, or those that a device has yet to add.
#[derive(Default)]
struct Total {
    sum: f64,
    on_device: Vec<Tensor>,
}

impl Total {
    fn add(&mut self, losses: Tensor) -> Result<()> {
        match losses.device() {
            Device::Cpu => self.sum += losses.as_f32("cross_entropy")?.iter().map(|&l| f64::from(l)).sum::<f64>(),
            Device::Cuda(_) => self.on_device.push(losses),
        }
        Ok(())
    }
}

/// Losses of the rows; with `scale`, logits become their gradient times it.
fn losses(logits: &mut Tensor, rows: &Rows, scale: Option<f32>) -> Result<Tensor> {
    match logits.device() {
        Device::Cpu => {
            let losses = cpu::losses(logits.make_mut(), rows.pairs, scale);
            let mut kept = buffer(losses.len());
            kept.copy_from_slice(&losses);
            Ok(Tensor::of(kept, &[losses.len()]))
        }
        Device::Cuda(gpu) => cuda::losses(gpu, logits, rows, scale),
    }
}

/// Rows of a chunk of so many on the CPU, in chunks of about one size, at least 1.
pub fn chunk_rows(rows: usize, vocab: usize) -> usize {
    rows_of_chunk(LOGIT_CHUNK, rows, vocab)
}

fn rows_of_chunk(most: usize, rows: usize, vocab: usize) -> usize {
    let most = (most / vocab.max(1)).max(1);
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

/// Logits of a chunk, at most, where hidden lies.
fn most_logits(hidden: &Tensor) -> usize {
    match hidden.device() {
        Device::Cpu => LOGIT_CHUNK,
        Device::Cuda(_) => DEVICE_LOGIT_BYTES / hidden.dtype().size(),
    }
}

/// Calls `f(logits, rows, hidden)` for chunks of rows of at most `most` logits, each row given as (row, target).
fn for_chunks(
    most: usize,
    hidden: &Tensor,
    head: &Matrix,
    labelled: &[(usize, usize)],
    mut f: impl FnMut(Tensor, &Rows, Tensor) -> Result<()>,
) -> Result<()> {
    let (_, width) = hidden.dims2("cross_entropy", "hidden")?;
    let (vocab, _) = head.shape()?;
    if let Some((row, target)) = labelled.iter().find(|(_, target)| *target >= vocab) {
        let message = format!("target {} of row {row} is no token id below {vocab}", *target as i32);
        return Err(Error::argument("cross_entropy", message));
    }
    for pairs in labelled.chunks(rows_of_chunk(most, labelled.len(), vocab)) {
        let rows = Rows { pairs, on_device: Copied::default() };
        let x = match hidden.device() {
            Device::Cpu => {
                let picked = picking::cpu::gather(hidden.as_f32("cross_entropy")?, width, rows.ids());
                Tensor::of(picked, &[pairs.len(), width])
            }
            Device::Cuda(gpu) => picking::cuda::gather(gpu, hidden, &cuda::rows(gpu, &rows)?.ids, pairs.len())?,
        };
        f(head.apply(&x)?, &rows, x)?;
    }
    Ok(())
}

struct Gradients {
    hidden: Tensor,
    head: Option<Tensor>,
}

impl Gradients {
    fn new(hidden: &Tensor, trained: &Tensor) -> Result<Self> {
        let device = hidden.device();
        let zeros = |trained: &Tensor| match device {
            Device::Cpu => Ok(Tensor::zeros(trained.shape())),
            Device::Cuda(gpu) => gpu.zeros(trained.dtype(), trained.shape()),
        };
        let head = trained.requires_grad().then(|| zeros(trained)).transpose()?;
        Ok(Gradients { hidden: zeros(hidden)?, head })
    }

    fn add(&mut self, head: &Matrix, dlogits: &Tensor, rows: &Rows, x: &Tensor) -> Result<()> {
        let dx = head.apply_transposed(dlogits)?;
        match dx.device() {
            Device::Cpu => {
                let (from, width) = (dx.as_f32("cross_entropy")?, dx.shape()[1]);
                picking::cpu::scatter(from, width, rows.ids(), self.hidden.make_mut());
                if let Some(dw) = &mut self.head {
                    let dlogits = dlogits.view2("cross_entropy", "dlogits")?;
                    super::linear::cpu::accumulate(dlogits.t(), x.view2("cross_entropy", "x")?, dw, 1.0)?;
                }
            }
            Device::Cuda(gpu) => {
                picking::cuda::scatter(gpu, &dx, &cuda::rows(gpu, rows)?.ids, &mut self.hidden)?;
                if let Some(dw) = &mut self.head {
                    accumulate(gpu, dlogits.transposed(), x.plain(), 1.0, dw)?;
                }
            }
        }
        Ok(())
    }
}

impl Op for Gradients {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn backward(self: Box<Self>, grad: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let upstream = grad.item()?;
        let Gradients { hidden, head } = *self;
        let scaled = |mut t: Tensor| -> Result<Tensor> {
            match t.device() {
                _ if upstream == 1.0 => {}
                Device::Cpu => cpu::scale(t.make_mut(), upstream),
                Device::Cuda(gpu) => t = cuda::scale(gpu, t, upstream)?,
            }
            Ok(t)
        };
        Ok(vec![needs[0].then(|| scaled(hidden)).transpose()?, head.map(scaled).transpose()?])
    }
}
