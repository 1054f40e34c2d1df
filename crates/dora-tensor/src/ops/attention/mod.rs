//! Causal grouped-query attention within documents: o_i = Σ_{j ≤ i} softmax_j(scale · q_i·k_j) v_j, for every head on its
//! own; query head h reads key head h / (heads / kv_heads). Tokens of one document never see another's.
//!
//! q, o (n, heads·D), k, v (n, kv_heads·D). Scores exist for one block of queries of one head at a time. The forward pass
//! keeps the log-sum-exp of every row; the backward pass computes probabilities again from it (Dao et al., 2022):
//! p = e^(s − lse), dp = do·vᵀ, δ = Σ p ⊙ dp = Σ do ⊙ o, ds = p ⊙ (dp − δ), dq = scale·ds·k, dk = scale·dsᵀ·q, dv = pᵀ·do.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::cuda::Copied;
use crate::profile::{self, Direction};
use crate::saved::{Recipe, Saved};
use crate::tape::recording;
use crate::{Device, Error, Op, Result, Tensor, record};
use dora_kernels::launch::{AttentionHeads, AttentionTiles};
use std::ops::Range;
use std::sync::Arc;

/// Most queries of a block: its scores (64 x keys) stay in cache up to several thousand keys.
pub const QUERY_BLOCK: usize = 64;

/// Tokens of a document up to which o, on the CPU, is computed again rather than kept: that costs 2 FLOPs a token of it for each of
/// o's elements.
const SHORT: usize = 256;

/// Whether o is kept for the backward pass over documents of so many tokens at most. A device keeps it always, and takes δ from it.
pub fn keeps_attention(device: Device, longest: usize) -> bool {
    device != Device::Cpu || longest > SHORT
}

/// Heads of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl AttentionShape {
    /// The usual scale of the scores, 1/√D.
    pub fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }

    /// Sizes of a head that a device has kernels for; `None`: all.
    pub fn head_dims(device: Device) -> Option<&'static [usize]> {
        match device {
            Device::Cpu => None,
            Device::Cuda(gpu) => Some(AttentionHeads::widths(gpu.activations().into())),
        }
    }
}

/// Documents that lie one after another in a batch.
#[derive(Debug)]
pub struct Documents {
    ranges: Vec<Range<usize>>,
    /// Tokens of the only document that came before, and whose keys and values are at hand.
    earlier: usize,
    tiles: Copied<AttentionTiles>,
}

impl Documents {
    /// Documents of those lengths.
    pub fn new(lengths: &[usize]) -> Self {
        let mut end = 0;
        let ranges = lengths.iter().map(|len| {
            end += len;
            end - len..end
        });
        Documents { ranges: ranges.collect(), earlier: 0, tiles: Copied::default() }
    }

    /// The next `tokens` of one document, of which `earlier` came before.
    pub fn continued(earlier: usize, tokens: usize) -> Self {
        Documents { earlier, ..Documents::new(&[tokens]) }
    }

    /// Where each lies.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// Tokens of the longest.
    fn longest(&self) -> usize {
        self.ranges.iter().map(Range::len).max().unwrap_or(0)
    }

    /// Number of tokens of all.
    pub fn tokens(&self) -> usize {
        self.ranges.last().map_or(0, |r| r.end)
    }

    /// Position of each token within its document.
    pub fn positions(&self) -> Vec<u32> {
        let first = self.earlier as u32;
        self.ranges.iter().flat_map(|r| first..first + r.len() as u32).collect()
    }
}

/// Attention of a batch of documents.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    documents: &Arc<Documents>,
    shape: AttentionShape,
    scale: f32,
) -> Result<Tensor> {
    let _running = profile::operation("attention", Direction::Forward);
    let n = documents.tokens();
    check(q, k, v, (n, n), shape)?;
    let (o, lse) = match q.device() {
        Device::Cpu => cpu::forward(q, k, v, documents, shape, scale)?,
        Device::Cuda(gpu) => cuda::forward(gpu, [q, k, v], documents, shape, scale)?,
    };
    let again = !keeps_attention(q.device(), documents.longest()) && recording(&[q, k, v]);
    let recipe = again.then(|| {
        let (q, k, v, documents) = (q.saved(), k.saved(), v.saved(), documents.clone());
        Arc::new(Recipe::new(move || {
            let _running = profile::operation("attention", Direction::Forward);
            Ok(cpu::forward(&q.get()?, &k.get()?, &v.get()?, &documents, shape, scale)?.0)
        }))
    });
    let saved = || Attention {
        q: q.saved(),
        k: k.saved(),
        v: v.saved(),
        o: (q.device() != Device::Cpu).then(|| o.detach()),
        lse,
        documents: documents.clone(),
        shape,
        scale,
    };
    Ok(record(o.clone(), &[q, k, v], saved).with_shared_recipe(recipe))
}

/// Attention of a continued document's tokens, q (n, heads·D), over all of its keys and values (earlier + n, kv_heads·D), their
/// own included; off the tape.
pub fn attention_cached(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    document: &Documents,
    shape: AttentionShape,
    scale: f32,
) -> Result<Tensor> {
    let _running = profile::operation("attention", Direction::Forward);
    let n = document.tokens();
    check(q, k, v, (n, document.earlier + n), shape)?;
    match q.device() {
        Device::Cpu => cpu::cached(q, k, v, shape, scale),
        Device::Cuda(gpu) => cuda::cached(gpu, [q, k, v], document, shape, scale),
    }
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, rows: (usize, usize), shape: AttentionShape) -> Result<()> {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(Error::argument("attention", format!("{heads} heads cannot share {kv_heads} key heads")));
    }
    q.expect_shape("attention", "q", &[rows.0, heads * head_dim])?;
    k.expect_shape("attention", "k", &[rows.1, kv_heads * head_dim])?;
    v.expect_shape("attention", "v", &[rows.1, kv_heads * head_dim])
}

struct Attention {
    q: Saved,
    k: Saved,
    v: Saved,
    /// On a device, which takes δ from it.
    o: Option<Tensor>,
    lse: Tensor,
    documents: Arc<Documents>,
    shape: AttentionShape,
    scale: f32,
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn backward(self: Box<Self>, grad: Tensor, _needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let [dq, dk, dv] = match grad.device() {
            Device::Cpu => cpu::backward(&self, &grad)?,
            Device::Cuda(gpu) => cuda::backward(gpu, &self, &grad)?,
        };
        Ok(vec![Some(dq), Some(dk), Some(dv)])
    }
}
