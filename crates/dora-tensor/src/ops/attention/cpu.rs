//! Attention on the CPU: a task is one document and one key head with the query heads that share it, which are tasks of their own.
//! Results do not depend on who does them: dk and dv are summed up in a fixed order.

use super::{Attention, AttentionShape, Documents, QUERY_BLOCK};
#[cfg(target_arch = "x86_64")]
use crate::cpu::{KeyHead, Queries};
use crate::cpu::{buffer, dot, exp, product, recycle, scratch, simd, softmax_in_place, zeros};
use crate::{Result, Tensor};
use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis, s};
use rayon::prelude::*;
use std::ops::Range;

/// Gives o and the log-sum-exp, laid out (kv head, document, head in group, token).
pub(super) fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    documents: &Documents,
    shape: AttentionShape,
    scale: f32,
) -> Result<(Tensor, Tensor)> {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    let group = heads / kv_heads;
    let n = documents.tokens();
    let (q, k, v) = (heads3(q, head_dim)?, heads3(k, head_dim)?, heads3(v, head_dim)?);
    let mut o = buffer(n * heads * head_dim);
    let mut lse = buffer(n * heads);
    let outputs = tasks(&mut o, n, heads, head_dim, kv_heads, documents);
    let rows = split_rows(&mut lse, documents, kv_heads, group);
    outputs.into_par_iter().zip(rows).for_each(|((kv, range, mut o), lse)| {
        let (k, v) = (k.slice(s![range.clone(), kv, ..]), v.slice(s![range.clone(), kv, ..]));
        let lse = lse.chunks_exact_mut(range.len().max(1));
        let heads = o.axis_iter_mut(Axis(1)).zip(lse).enumerate();
        let heads = heads.map(|(g, (o, lse))| (q.slice(s![range.clone(), kv * group + g, ..]), o, lse));
        for_heads(k, v, range.len(), scale, heads);
    });
    Ok((Tensor::of(o, &[n, heads * head_dim]), Tensor::of(lse, &[n, heads])))
}

pub(super) fn cached(q: &Tensor, k: &Tensor, v: &Tensor, shape: AttentionShape, scale: f32) -> Result<Tensor> {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    let n = q.shape()[0];
    let (q, k, v) = (heads3(q, head_dim)?, heads3(k, head_dim)?, heads3(v, head_dim)?);
    let mut o = buffer(n * heads * head_dim);
    tasks(&mut o, n, heads, head_dim, heads, &Documents::new(&[n])).into_par_iter().for_each(|(head, _, mut o)| {
        let kv = head * kv_heads / heads;
        let (k, v) = (k.slice(s![.., kv, ..]), v.slice(s![.., kv, ..]));
        for_heads(k, v, n, scale, [(q.slice(s![.., head, ..]), o.slice_mut(s![.., 0, ..]), &mut *vec![0.0; n])]);
    });
    Ok(Tensor::of(o, &[n, heads * head_dim]))
}

/// Of some query heads q (t, D), o (t, D) and lse (t) for the last t of all keys (total, D); blocks of queries in parallel.
fn for_heads<'a>(
    k: ArrayView2<f32>,
    v: ArrayView2<f32>,
    t: usize,
    scale: f32,
    heads: impl IntoIterator<Item = (ArrayView2<'a, f32>, ArrayViewMut2<'a, f32>, &'a mut [f32])>,
) {
    let before = k.nrows() - t;
    #[cfg(target_arch = "x86_64")]
    let lanes = KeyHead::forward(k, v, t);
    #[cfg(target_arch = "x86_64")]
    let size = lanes.as_ref().map_or(QUERY_BLOCK, KeyHead::block);
    #[cfg(not(target_arch = "x86_64"))]
    let size = QUERY_BLOCK;
    let mut blocks = Vec::new();
    for (q, mut o, lse) in heads {
        for (i, lse) in lse.chunks_mut(size).enumerate() {
            let (block, rest) = o.split_at(Axis(0), lse.len());
            let rows = i * size..i * size + lse.len();
            blocks.push((rows.start, q.slice_move(s![rows, ..]), block, lse));
            o = rest;
        }
    }
    blocks.into_par_iter().for_each(|(start, q, o, lse)| {
        #[cfg(target_arch = "x86_64")]
        if let Some(head) = &lanes {
            return head.attend(Queries { q, seen: before + start + 1, scale }, o, lse);
        }
        let keys = s![..before + start + q.nrows(), ..];
        attend(q, k.slice(keys), v.slice(keys), scale, o, lse);
    });
}

/// o (m, D) and lse (m) of a block, the last of whose queries sees all keys.
fn attend(
    q: ArrayView2<f32>,
    k: ArrayView2<f32>,
    v: ArrayView2<f32>,
    scale: f32,
    mut o: ArrayViewMut2<f32>,
    lse: &mut [f32],
) {
    let (m, keys) = (q.nrows(), k.nrows());
    scratch(m * keys, |scores| {
        product(q, k.t(), square(scores, keys), scale, 0.0);
        let mut weights = [0.0; QUERY_BLOCK];
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            let (seen, hidden) = row.split_at_mut(keys - m + i + 1);
            let (max, sum) = softmax_in_place(seen);
            hidden.fill(0.0);
            lse[i] = max + sum.ln();
            weights[i] = 1.0 / sum;
        }
        let scores = ArrayView2::from_shape((m, keys), &*scores).expect("sized above");
        product(scores, v, o.view_mut(), 1.0, 0.0);
        o.rows_mut().into_iter().zip(weights).for_each(|(mut row, w)| row.map_inplace(|x| *x *= w));
    });
}

pub(super) fn backward(saved: &Attention, grad: &Tensor) -> Result<[Tensor; 3]> {
    let AttentionShape { heads, kv_heads, head_dim } = saved.shape;
    let (group, documents, n) = (heads / kv_heads, &*saved.documents, saved.documents.tokens());
    let (q, k, v) = (saved.q.get()?, saved.k.get()?, saved.v.get()?);
    let (q, k, v) = (heads3(&q, head_dim)?, heads3(&k, head_dim)?, heads3(&v, head_dim)?);
    let d_o = heads3(grad, head_dim)?;
    let mut lse = saved.lse.to_vec();
    let (mut dq, mut dk, mut dv) = (buffer(q.len()), zeros(k.len()), zeros(v.len()));
    let dq_tasks = tasks(&mut dq, n, heads, head_dim, kv_heads, documents);
    let dk_tasks = tasks(&mut dk, n, kv_heads, head_dim, kv_heads, documents);
    let dv_tasks = tasks(&mut dv, n, kv_heads, head_dim, kv_heads, documents);
    let rows = split_rows(&mut lse, documents, kv_heads, group);
    dq_tasks.into_par_iter().zip(dk_tasks).zip(dv_tasks).zip(rows).for_each(|(((dq, dk), dv), lse)| {
        let (kv, range, mut dq) = dq;
        let (mut dk, mut dv) = (dk.2, dv.2);
        let (mut dk, mut dv) = (dk.slice_mut(s![.., 0, ..]), dv.slice_mut(s![.., 0, ..]));
        let (k, v) = (k.slice(s![range.clone(), kv, ..]), v.slice(s![range.clone(), kv, ..]));
        #[cfg(target_arch = "x86_64")]
        let lanes = KeyHead::backward(k, v, range.len());
        // Each query head has a part of dk and dv of its own, but for the first one: they are added up in their order.
        let size = range.len() * head_dim;
        let mut others: Vec<_> = (1..group).map(|_| zeros(2 * size)).collect();
        let parts = others.iter_mut().map(|part| {
            let (dk, dv) = part.split_at_mut(size);
            [dk, dv].map(|part| ArrayViewMut2::from_shape((range.len(), head_dim), part).expect("of that size"))
        });
        let heads: Vec<_> = std::iter::once([dk.view_mut(), dv.view_mut()])
            .chain(parts)
            .zip(dq.axis_iter_mut(Axis(1)))
            .zip(lse.chunks_exact(range.len().max(1)))
            .enumerate()
            .collect();
        heads.into_par_iter().for_each(|(g, (([mut dk, mut dv], mut dq), lse))| {
            let head = s![range.clone(), kv * group + g, ..];
            let (q, d_o) = (q.slice(head), d_o.slice(head));
            #[cfg(target_arch = "x86_64")]
            if let Some(head) = &lanes {
                for start in (0..range.len()).step_by(head.block_back()) {
                    let end = range.len().min(start + head.block_back());
                    let rows = s![start..end, ..];
                    let queries = Queries { q: q.slice(rows), seen: start + 1, scale: saved.scale };
                    let gradients = [dq.slice_mut(rows), dk.view_mut(), dv.view_mut()];
                    head.attend_back(queries, d_o.slice(rows), &lse[start..end], gradients);
                }
                return;
            }
            for start in (0..range.len()).step_by(QUERY_BLOCK) {
                let end = range.len().min(start + QUERY_BLOCK);
                let rows = s![start..end, ..];
                let (q, d_o, dq, lse) = (q.slice(rows), d_o.slice(rows), dq.slice_mut(rows), &lse[start..end]);
                let keys = s![..end, ..];
                let (k, v) = (k.slice(keys), v.slice(keys));
                attend_back(q, k, v, saved.scale, d_o, lse, dq, dk.slice_mut(keys), dv.slice_mut(keys));
            }
        });
        for part in others {
            let (dk_, dv_) = part.split_at(size);
            for (sum, part) in [(&mut dk, dk_), (&mut dv, dv_)] {
                for (mut sum, part) in sum.rows_mut().into_iter().zip(part.chunks_exact(head_dim)) {
                    sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
            }
            recycle(part);
        }
    });
    let (wide, narrow) = ([n, heads * head_dim], [n, kv_heads * head_dim]);
    Ok([Tensor::of(dq, &wide), Tensor::of(dk, &narrow), Tensor::of(dv, &narrow)])
}

/// dq of a block, the last of whose queries sees all keys, and its part of dk and dv, which is added to them.
#[expect(clippy::too_many_arguments, reason = "all of them are matrices of one step")]
fn attend_back(
    q: ArrayView2<f32>,
    k: ArrayView2<f32>,
    v: ArrayView2<f32>,
    scale: f32,
    d_o: ArrayView2<f32>,
    lse: &[f32],
    dq: ArrayViewMut2<f32>,
    dk: ArrayViewMut2<f32>,
    dv: ArrayViewMut2<f32>,
) {
    let (m, keys) = (q.nrows(), k.nrows());
    scratch(2 * m * keys, |buffer| {
        let (p, ds) = buffer.split_at_mut(m * keys);
        product(q, k.t(), square(p, keys), scale, 0.0);
        product(d_o, v.t(), square(ds, keys), 1.0, 0.0);
        for (i, (p, ds)) in p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).enumerate() {
            let seen = keys - m + i + 1;
            simd(|| p[..seen].iter_mut().for_each(|p| *p = exp(*p - lse[i])));
            // δ = Σ p·dp, which is Σ do·o.
            let delta = dot(&p[..seen], &ds[..seen]);
            simd(|| p[..seen].iter().zip(&mut ds[..seen]).for_each(|(p, ds)| *ds = p * (*ds - delta)));
            p[seen..].fill(0.0);
            ds[seen..].fill(0.0);
        }
        let (p, ds) = (square(p, keys), square(ds, keys));
        let (p, ds) = (p.view(), ds.view());
        product(ds, k, dq, scale, 0.0);
        product(ds.t(), q, dk, scale, 1.0);
        product(p.t(), d_o, dv, 1.0, 1.0);
    });
}

/// (n, heads·D) as (n, heads, D).
fn heads3(x: &Tensor, head_dim: usize) -> Result<ArrayView3<'_, f32>> {
    let (n, width) = x.dims2("attention", "x")?;
    let view = ArrayView3::from_shape((n, width / head_dim.max(1), head_dim), x.as_f32("attention")?);
    Ok(view.expect("the width is a whole number of heads"))
}

fn square(scores: &mut [f32], keys: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((scores.len() / keys, keys), scores).expect("whole rows")
}

type Task<'a> = (usize, Range<usize>, ArrayViewMut3<'a, f32>);

/// Cuts (n, heads, D) by document and into `parts` runs of heads: (part, rows of the document, its elements).
fn tasks<'a>(
    x: &'a mut [f32],
    n: usize,
    heads: usize,
    head_dim: usize,
    parts: usize,
    documents: &Documents,
) -> Vec<Task<'a>> {
    let mut rest = ArrayViewMut3::from_shape((n, heads, head_dim), x).expect("sized by the caller");
    let mut list = Vec::with_capacity(documents.ranges().len() * parts);
    for range in documents.ranges() {
        let (document, tail) = rest.split_at(Axis(0), range.len());
        rest = tail;
        let mut heads_left = document;
        for part in 0..parts {
            let (head, tail) = heads_left.split_at(Axis(1), heads / parts);
            heads_left = tail;
            list.push((part, range.clone(), head));
        }
    }
    list
}

/// Cuts the log-sum-exp (n · heads) in the order of `tasks`: one run of `group` rows of the document's length each.
fn split_rows<'a>(lse: &'a mut [f32], documents: &Documents, parts: usize, group: usize) -> Vec<&'a mut [f32]> {
    let mut rest = lse;
    let mut list = Vec::with_capacity(documents.ranges().len() * parts);
    for range in documents.ranges() {
        for _ in 0..parts {
            let (run, tail) = rest.split_at_mut(range.len() * group);
            list.push(run);
            rest = tail;
        }
    }
    list
}
