//! Cross-entropy of the next token with the output embedding inside: loss = Σ_t (log Σ_v e^{z_tv} − z_{t,target}) / D over
//! the rows t that carry a label, z = hidden·Wᵀ for hidden (n, C) and W (V, C), D the caller's denominator.
//!
//! Rows without a label cost nothing. Labelled rows go through in chunks: logits exist for one chunk only. The forward pass
//! computes the gradients as well, since logits are at hand: dz = (softmax(z) − onehot)/D, dhidden = dz·W and, where W is
//! trained, dW = dzᵀ·hidden. The backward pass scales them by the gradient of the loss.

mod cpu;
#[cfg(test)]
mod tests;

use super::Matrix;
use crate::profile::{self, Direction};
use crate::tape::recording;
use crate::{Device, Error, Op, Result, Tensor, record};

/// The target of a row that carries no label, as PyTorch and transformers write it.
pub const IGNORE: i32 = -100;

/// Logits that exist at a time, at most (but for a single row): 32 MiB.
pub const LOGIT_CHUNK: usize = 1 << 23;

/// The loss as a scalar. `targets[t]` is the token to follow row t, or [`IGNORE`].
pub fn cross_entropy(hidden: &Tensor, head: &Matrix, targets: &[i32], denominator: f32) -> Result<Tensor> {
    let _running = profile::operation("cross_entropy", Direction::Forward);
    let none = Tensor::zeros(&[0]);
    let trained = match head {
        Matrix::Frozen(_) => &none,
        Matrix::Trained(w) => w,
    };
    let inputs = [hidden, trained];
    let mut gradients = recording(&inputs).then(|| Gradients::new(hidden, trained));
    let mut sum = 0.0;
    for_chunks(hidden, head, targets, |mut logits, rows, x| {
        match logits.device() {
            Device::Cpu => {
                let scale = gradients.as_ref().map(|_| 1.0 / denominator);
                let losses = cpu::losses(logits.make_mut(), rows, scale);
                sum += losses.iter().map(|&l| f64::from(l)).sum::<f64>();
            }
        }
        match &mut gradients {
            Some(gradients) => gradients.add(head, &logits, rows, &x),
            None => Ok(()),
        }
    })?;
    let loss = Tensor::scalar((sum / f64::from(denominator)) as f32);
    Ok(record(loss, &inputs, || gradients.expect("computed when the result is recorded")))
}

/// The loss of every row that carries a label, in order; off the tape.
pub fn token_losses(hidden: &Tensor, head: &Matrix, targets: &[i32]) -> Result<Vec<f32>> {
    let _running = profile::operation("cross_entropy", Direction::Forward);
    let mut losses = Vec::new();
    for_chunks(hidden, head, targets, |mut logits, rows, _| {
        match logits.device() {
            Device::Cpu => losses.extend(cpu::losses(logits.make_mut(), rows, None)),
        }
        Ok(())
    })?;
    Ok(losses)
}

/// Calls `f(logits, rows, hidden)` for chunks of labelled rows, each given as (row, target).
fn for_chunks(
    hidden: &Tensor,
    head: &Matrix,
    targets: &[i32],
    mut f: impl FnMut(Tensor, &[(usize, usize)], Tensor) -> Result<()>,
) -> Result<()> {
    let (n, width) = hidden.dims2("cross_entropy", "hidden")?;
    let (vocab, _) = head.shape()?;
    if targets.len() != n {
        return Err(Error::argument("cross_entropy", format!("{} targets for {n} rows", targets.len())));
    }
    let labelled = targets.iter().enumerate().filter(|(_, target)| **target != IGNORE);
    let labelled: Vec<(usize, usize)> = labelled.map(|(row, &target)| (row, target as usize)).collect();
    if let Some((row, target)) = labelled.iter().find(|(_, target)| *target >= vocab) {
        let message = format!("target {} of row {row} is no token id below {vocab}", *target as i32);
        return Err(Error::argument("cross_entropy", message));
    }
    for rows in labelled.chunks((LOGIT_CHUNK / vocab.max(1)).max(1)) {
        let x = match hidden.device() {
            Device::Cpu => cpu::gather(hidden.as_f32("cross_entropy")?, width, rows),
        };
        f(head.apply(&x)?, rows, x)?;
    }
    Ok(())
}

struct Gradients {
    hidden: Tensor,
    head: Option<Tensor>,
}

impl Gradients {
    fn new(hidden: &Tensor, trained: &Tensor) -> Self {
        let head = trained.requires_grad().then(|| Tensor::zeros(trained.shape()));
        Gradients { hidden: Tensor::zeros(hidden.shape()), head }
    }

    fn add(&mut self, head: &Matrix, dlogits: &Tensor, rows: &[(usize, usize)], x: &Tensor) -> Result<()> {
        let dx = head.apply_transposed(dlogits)?;
        match dx.device() {
            Device::Cpu => {
                cpu::scatter(dx.as_f32("cross_entropy")?, rows, dx.shape()[1], self.hidden.make_mut());
                if let Some(dw) = &mut self.head {
                    let dlogits = dlogits.view2("cross_entropy", "dlogits")?;
                    super::linear::cpu::accumulate(dlogits.t(), x.view2("cross_entropy", "x")?, dw, 1.0)?;
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
        let scaled = |mut t: Tensor| {
            match t.device() {
                Device::Cpu if upstream != 1.0 => cpu::scale(t.make_mut(), upstream),
                Device::Cpu => {}
            }
            t
        };
        Ok(vec![needs[0].then(|| scaled(hidden)), head.map(scaled)])
    }
}
