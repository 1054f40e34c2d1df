//! Causal grouped-query attention within documents: o_i = Σ_{j ≤ i} softmax_j(scale · q_i·k_j) v_j, for every head on its
//! own; query head h reads key head h / (heads / kv_heads). Tokens of one document never see another's.
//!
//! q, o (n, heads·D), k, v (n, kv_heads·D). Scores exist for one block of queries of one head at a time. The forward pass
//! keeps the log-sum-exp of every row; the backward pass computes o and probabilities again from it (Dao et al., 2022):
//! p = e^(s − lse), dp = do·vᵀ, δ = Σ do ⊙ o, ds = p ⊙ (dp − δ), dq = scale·ds·k, dk = scale·dsᵀ·q, dv = pᵀ·do.

mod cpu;
#[cfg(test)]
mod tests;

use crate::profile::{self, Direction};
use crate::saved::{Recipe, Saved};
use crate::tape::recording;
use crate::{Device, Error, Op, Result, Tensor, record};
use std::ops::Range;
use std::sync::Arc;

/// Queries of a block: its scores (64 x keys) stay in cache up to several thousand keys.
pub const QUERY_BLOCK: usize = 64;

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
}

/// Documents that lie one after another in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    ranges: Vec<Range<usize>>,
}

impl Documents {
    /// Documents of those lengths.
    pub fn new(lengths: &[usize]) -> Self {
        let mut end = 0;
        let ranges = lengths.iter().map(|len| {
            end += len;
            end - len..end
        });
        Documents { ranges: ranges.collect() }
    }

    /// Where each lies.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// Number of tokens of all.
    pub fn tokens(&self) -> usize {
        self.ranges.last().map_or(0, |r| r.end)
    }

    /// Position of each token within its document.
    pub fn positions(&self) -> Vec<u32> {
        self.ranges.iter().flat_map(|r| 0..r.len() as u32).collect()
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
    };
    let recipe = recording(&[q, k, v]).then(|| {
        let (q, k, v, documents) = (q.saved(), k.saved(), v.saved(), documents.clone());
        Arc::new(Recipe::new(move || Ok(cpu::forward(&q.get()?, &k.get()?, &v.get()?, &documents, shape, scale)?.0)))
    });
    let saved = || Attention {
        q: q.saved(),
        k: k.saved(),
        v: v.saved(),
        o: Saved::Again(recipe.clone().expect("made when the result is recorded")),
        lse,
        documents: documents.clone(),
        shape,
        scale,
    };
    Ok(record(o, &[q, k, v], saved).with_shared_recipe(recipe.clone()))
}

/// Attention of the last tokens of one document, q (n, heads·D), over all of its keys and values (total, kv_heads·D) so far,
/// their own included; off the tape.
pub fn attention_cached(q: &Tensor, k: &Tensor, v: &Tensor, shape: AttentionShape, scale: f32) -> Result<Tensor> {
    let _running = profile::operation("attention", Direction::Forward);
    let (n, total) = (q.shape()[0], k.shape()[0]);
    if n > total {
        return Err(Error::argument("attention", format!("{n} queries for {total} keys")));
    }
    check(q, k, v, (n, total), shape)?;
    match q.device() {
        Device::Cpu => cpu::cached(q, k, v, shape, scale),
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
    o: Saved,
    lse: Vec<f32>,
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
        };
        Ok(vec![Some(dq), Some(dk), Some(dv)])
    }
}
