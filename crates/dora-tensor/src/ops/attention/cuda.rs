//! Attention on a device. Which block works on which tokens is computed by the host, once for all layers of a pass.

use super::{Attention, AttentionShape, Documents};
use crate::{Cuda, DType, Result, Tensor};
use dora_kernels::launch::{
    AttentionDocument, AttentionGradients, AttentionHeads, AttentionInputs, AttentionTiles, attention_backward,
    attention_forward, attention_generate, attention_splits,
};
use dora_kernels::{Buffer, Element};

/// Queries that count as few: their keys are then cut into parts that run side by side.
const FEW: usize = 16;

/// Gives o and the log-sum-exp (heads, n).
pub(super) fn forward(
    gpu: Cuda,
    qkv: [&Tensor; 3],
    documents: &Documents,
    shape: AttentionShape,
    scale: f32,
) -> Result<(Tensor, Tensor)> {
    let [q, ..] = qkv;
    let mut o = gpu.room(q.dtype(), q.shape())?;
    let mut lse = gpu.room(DType::F32, &[shape.heads, q.shape()[0]])?;
    let inputs = inputs(gpu, qkv, tiles(gpu, documents, 1)?, shape, scale)?;
    attention_forward(&**gpu.driver(), &inputs, o.write(gpu, "attention")?, lse.write(gpu, "attention")?)?;
    Ok((o, lse))
}

pub(super) fn cached(
    gpu: Cuda,
    qkv: [&Tensor; 3],
    document: &Documents,
    shape: AttentionShape,
    scale: f32,
) -> Result<Tensor> {
    let [q, k, _] = qkv;
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    let (queries, keys) = (q.shape()[0], k.shape()[0]);
    if q.dtype() == DType::F32 || queries > FEW {
        return Ok(forward(gpu, qkv, document, shape, scale)?.0);
    }
    let mut o = gpu.room(q.dtype(), q.shape())?;
    let splits = attention_splits(keys);
    let room = |len| Buffer::new(gpu.driver(), Element::F32, len);
    let (mut partial, mut lse) = (room(splits * queries * heads * head_dim)?, room(splits * heads * queries)?);
    let inputs = inputs(gpu, qkv, tiles(gpu, document, heads / kv_heads)?, shape, scale)?;
    let o_view = o.write(gpu, "attention")?;
    attention_generate(&**gpu.driver(), &inputs, partial.view_mut(), lse.view_mut(), o_view)?;
    Ok(o)
}

/// Gradients of q, k and v.
pub(super) fn backward(gpu: Cuda, op: &Attention, d_o: &Tensor) -> Result<[Tensor; 3]> {
    let (q, k, v, o) = (op.q.get()?, op.k.get()?, op.v.get()?, op.o.as_ref().expect("a device keeps it"));
    let room = |x: &Tensor| gpu.room(x.dtype(), x.shape());
    let (mut dq, mut dk, mut dv) = (room(&q)?, room(&k)?, room(&v)?);
    let mut delta = Buffer::new(gpu.driver(), Element::F32, op.lse.numel())?;
    let inputs = inputs(gpu, [&q, &k, &v], tiles(gpu, &op.documents, 1)?, op.shape, op.scale)?;
    let operands = AttentionGradients {
        o: o.on(gpu, "attention")?,
        lse: op.lse.on(gpu, "attention")?,
        d_o: d_o.on(gpu, "attention")?,
        delta: delta.view_mut(),
        dq: dq.write(gpu, "attention")?,
        dk: dk.write(gpu, "attention")?,
        dv: dv.write(gpu, "attention")?,
    };
    attention_backward(&**gpu.driver(), &inputs, operands)?;
    Ok([dq, dk, dv])
}

fn heads(shape: AttentionShape) -> AttentionHeads {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    AttentionHeads { heads, kv_heads, width: head_dim }
}

fn inputs<'a>(
    gpu: Cuda,
    [q, k, v]: [&'a Tensor; 3],
    tiles: &'a AttentionTiles,
    shape: AttentionShape,
    scale: f32,
) -> Result<AttentionInputs<'a>> {
    let (q, k, v) = (q.on(gpu, "attention")?, k.on(gpu, "attention")?, v.on(gpu, "attention")?);
    Ok(AttentionInputs { q, k, v, tiles, heads: heads(shape), scale })
}

/// The documents' tiles, with so many query heads in one.
fn tiles(gpu: Cuda, documents: &Documents, pack: usize) -> Result<&AttentionTiles> {
    let document = |r: &std::ops::Range<usize>| AttentionDocument {
        queries: r.clone(),
        keys: if documents.earlier == 0 { r.clone() } else { 0..documents.earlier + r.len() },
    };
    documents.tiles.get(gpu, || {
        let list: Vec<AttentionDocument> = documents.ranges.iter().map(document).collect();
        let n = documents.tokens();
        Ok(AttentionTiles::new(gpu.driver(), &list, (n, documents.earlier + n), pack)?)
    })
}
