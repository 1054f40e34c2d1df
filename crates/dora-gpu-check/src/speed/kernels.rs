//! Launches of the kernels that training steps and generation consist of, in bf16 where activations are concerned.

use std::ops::Range;

use anyhow::Result;
use dora_kernels::Element::{BF16, F32, F64, U8, U32};
use dora_kernels::launch::{
    Angles, AttentionDocument, AttentionGradients, AttentionHeads, AttentionInputs, AttentionTiles, DoraBackward,
    DoraColumns, DoraComposeDropout, DoraLayers, DoraNorms, DoraProjection, Gradients, LowRankBase, LowRankCompose,
    LowRankFactor, LowRankProject, Nf4ScalesView, Nf4View, RmsNorm, RmsNormBackward, Slot, Slots, adamw, add,
    attention_backward, attention_forward, cast, cross_entropy, dora_backward, dora_compose_dropout, dora_gram,
    dora_norms, dora_row_norms_squared, dora_strips, dropout, embedding, low_rank_compose, low_rank_project,
    nf4_dequantize, nf4_product, nf4_quantize, parts_of_rows, rms_norm_backward, rms_norm_backward_weight,
    rms_norm_forward, rope, sum_of_squares, swiglu_backward, swiglu_forward,
};
use dora_kernels::{Buffer, Driver};

use super::{Bench, Sizes};

pub(super) fn measure(bench: &mut Bench<'_>, sizes: &Sizes) -> Result<()> {
    flat(bench, sizes)?;
    rows(bench, sizes)?;
    dora(bench, sizes)?;
    nf4(bench, sizes)?;
    attention(bench, sizes)
}

fn words(bench: &Bench<'_>, words: Range<usize>) -> Result<Buffer> {
    let bytes: Vec<u8> = words.flat_map(|word| (word as u32).to_le_bytes()).collect();
    Ok(Buffer::from_bytes(bench.clock.driver, U32, &bytes)?)
}

fn flat(bench: &mut Bench<'_>, sizes: &Sizes) -> Result<()> {
    let n = sizes.tokens * sizes.mlp;
    let (a, b) = (bench.random(BF16, n)?, bench.random(BF16, n)?);
    let (mut y, mut z) = (bench.random(BF16, n)?, bench.room(BF16, n)?);
    bench.memory("add_bf16", n, |d| add(d, Some(a.view()), b.view(), y.view_mut()))?;
    bench.memory("swiglu_forward_bf16", n, |d| swiglu_forward(d, a.view(), b.view(), y.view_mut()))?;
    bench.memory("swiglu_backward_bf16", n, |d| swiglu_backward(d, a.view(), b.view(), z.view_mut(), y.view_mut()))?;
    let address = words(bench, 0..4)?;
    bench.memory("dropout_bf16", n, |d| dropout(d, Some(a.view()), 0.1, address.view(), 1, y.view_mut()))?;
    let n = n / 2;
    let (mut p, g) = (bench.random(F32, n)?, bench.random(F32, n)?);
    let (mut u, mut v) = (bench.random(F32, n)?, bench.random(F32, n)?);
    let settings = [1.0f32, 1e-6, 0.1, 1e-8, 0.9, 0.999, 0.1, 0.001].map(f32::to_le_bytes).concat();
    let settings = Buffer::from_bytes(bench.clock.driver, F32, &settings)?;
    let clip = Buffer::from_bytes(bench.clock.driver, F64, &[1.0f64; 3].map(f64::to_le_bytes).concat())?;
    bench.memory("adamw_f32", n, |d| {
        let slot = Slot { p: p.view_mut(), g: g.view(), moments: [u.view_mut(), v.view_mut()], settings: 0 };
        adamw(d, Slots::new(g.driver(), vec![slot])?, settings.view(), clip.view())
    })?;
    let gradients = Gradients::new(g.driver(), &[g.view()])?;
    let mut parts = bench.room(F64, gradients.parts())?;
    bench.memory("sum_of_squares_f32", n, |d| sum_of_squares(d, &gradients, parts.view_mut()))?;
    let mut narrow = bench.room(BF16, n)?;
    bench.memory("cast_from_f32_bf16", n, |d| cast(d, g.view(), narrow.view_mut()))
}

fn rows(bench: &mut Bench<'_>, sizes: &Sizes) -> Result<()> {
    let Sizes { tokens, hidden, heads: (_, _, width), vocab: (vocab, chunk), .. } = *sizes;
    let n = tokens * hidden;
    let (x, z, dy) = (bench.random(BF16, n)?, bench.random(BF16, n)?, bench.random(BF16, n)?);
    let (mut y, mut h) = (bench.room(BF16, n)?, bench.room(BF16, n)?);
    let (w, mut rstd) = (bench.random(F32, hidden)?, bench.room(F32, tokens)?);
    bench.memory("rms_norm_forward_bf16", n, |d| {
        let (residual, y, rstd) = (Some((z.view(), h.view_mut())), y.view_mut(), rstd.view_mut());
        rms_norm_forward(d, RmsNorm { x: x.view(), residual, w: w.view(), y, rstd, eps: 1e-5 })
    })?;
    bench.memory("rms_norm_backward_bf16", n, |d| {
        let (dy, skip, dx) = (Some(dy.view()), Some(z.view()), y.view_mut());
        rms_norm_backward(d, RmsNormBackward { h: x.view(), w: w.view(), rstd: rstd.view(), dy, skip, dx })
    })?;
    let mut parts = bench.room(F32, parts_of_rows(tokens) * hidden)?;
    bench.memory("rms_norm_backward_weight_bf16", n, |d| {
        rms_norm_backward_weight(d, x.view(), rstd.view(), dy.view(), parts.view_mut())
    })?;
    let (positions, table) = (words(bench, 0..tokens)?, bench.random(F32, tokens * width / 2)?);
    let angles = Angles { cosines: table.view(), sines: table.view(), half: width / 2 };
    bench.memory("rope_bf16", n, |d| rope(d, Some(x.view()), positions.view(), angles, 1.0, y.view_mut()))?;
    let words_of = bench.random(BF16, vocab * hidden)?;
    let ids: Vec<u8> = (0..tokens).flat_map(|i| (i as u32 * 7919 % vocab as u32).to_le_bytes()).collect();
    let ids = Buffer::from_bytes(bench.clock.driver, U32, &ids)?;
    bench.memory("embedding_from_bf16_bf16", n, |d| embedding(d, ids.view(), words_of.view(), vocab, y.view_mut()))?;
    let (mut logits, mut loss) = (bench.random(BF16, chunk * vocab)?, bench.room(F32, chunk)?);
    let targets = words(bench, 0..chunk)?;
    bench.memory("cross_entropy_bf16", chunk * vocab, |d| {
        cross_entropy(d, logits.view_mut(), targets.view(), 1.0, loss.view_mut())
    })
}

fn dora(bench: &mut Bench<'_>, sizes: &Sizes) -> Result<()> {
    let Sizes { tokens, mlp, hidden, .. } = *sizes;
    let n = tokens * mlp;
    let (a, low) = (bench.random(BF16, n)?, bench.random(BF16, n)?);
    let (mut y, mut z) = (bench.random(BF16, n)?, bench.random(BF16, n)?);
    let (m, norms, bias) = (bench.random(F32, mlp)?, bench.random(F32, mlp)?, bench.random(F32, mlp)?);
    let columns = DoraColumns { m: m.view(), n: norms.view(), bias: Some(bias.view()) };
    let scaling = 0.5;
    let rank = 16;
    let (p, q) = (bench.random(F32, rank * mlp)?, bench.random(F32, rank * hidden)?);
    let (mut h, factor) = (bench.random(BF16, rank * tokens)?, LowRankFactor::B(p.view()));
    bench.memory("low_rank_compose_bf16", n, |d| {
        let (z, h, columns, y) = (LowRankBase::Own, h.view(), Some(columns), y.view_mut());
        low_rank_compose(d, LowRankCompose { z, h, factor, rank, scaling, columns, y })
    })?;
    bench.memory("low_rank_project_bf16", n, |d| {
        low_rank_project(d, LowRankProject { x: a.view(), factor, rank, scaling, h: h.view_mut() })
    })?;
    bench.memory("dora_compose_dropout_bf16", n, |d| {
        let (base, low, z, y) = (Some(a.view()), low.view(), z.view_mut(), y.view_mut());
        dora_compose_dropout(d, DoraComposeDropout { base, z, low, scaling, columns, y })
    })?;
    let mut partial = bench.room(F32, dora_strips(tokens) * mlp)?;
    bench.memory("dora_backward_bf16", n, |d| {
        let (dy, value, dz, partial) = (Some(a.view()), low.view(), y.view_mut(), partial.view_mut());
        let h = Some(DoraProjection { b: p.view(), rank, scaling, dh: h.view_mut() });
        dora_backward(d, DoraBackward { dy, value, columns, dz, rest: None, partial, h })
    })?;
    let (w, mut squares) = (bench.random(BF16, mlp * hidden)?, bench.room(F32, mlp)?);
    bench.memory("dora_row_norms_squared_bf16", mlp * hidden, |d| {
        dora_row_norms_squared(d, w.view(), squares.view_mut())
    })?;
    let mut n = bench.room(F32, mlp)?;
    let (base, w, a, b, n) = (squares.view(), w.view(), q.view(), p.view(), n.view_mut());
    let mut layers = DoraLayers::new(bench.clock.driver, vec![DoraNorms { base, w, a, b, scaling, n }])?;
    dora_gram(&**bench.clock.driver, &mut layers)?;
    bench.memory("dora_norms_bf16", mlp * hidden, |d| dora_norms(d, &mut layers))
}

fn nf4(bench: &mut Bench<'_>, sizes: &Sizes) -> Result<()> {
    let (out, inner) = (sizes.mlp, sizes.hidden);
    let n = out * inner;
    let (codes, scale_codes) = (bench.random(U8, n / 2)?, bench.random(U8, n / 64)?);
    let (absmax, map) = (bench.random(F32, (n / 64).div_ceil(256))?, bench.random(F32, 256)?);
    let offset = bench.random(F32, 1)?;
    let scales = Nf4ScalesView::Nested {
        codes: scale_codes.view(),
        absmax: absmax.view(),
        map: map.view(),
        offset: offset.view(),
    };
    let weight = Nf4View { block_size: 64, codes: codes.view(), scales };
    let mut wide = bench.room(BF16, n)?;
    bench.memory("nf4_dequantize_bf16", n, |d| nf4_dequantize(d, &weight, wide.view_mut()))?;
    let (mut new_codes, mut new_scales) = (bench.room(U8, n / 2)?, bench.room(F32, n / 64)?);
    bench.memory("nf4_quantize_bf16", n, |d| {
        nf4_quantize(d, wide.view(), 64, new_codes.view_mut(), new_scales.view_mut())
    })?;
    for (kernel, rows) in [("nf4_product_8_bf16", 1), ("nf4_product_16_bf16", 16)] {
        let (x, mut y) = (bench.random(BF16, rows * inner)?, bench.room(BF16, rows * out)?);
        bench.memory(kernel, n, |d| nf4_product(d, x.view(), &weight, (out, inner), y.view_mut()))?;
    }
    Ok(())
}

/// Documents of 2,048 tokens. A query sees half of the keys; the backward pass has five products of the forward pass's two.
fn attention(bench: &mut Bench<'_>, sizes: &Sizes) -> Result<()> {
    let (heads, kv_heads, width) = sizes.heads;
    let (tokens, document) = (sizes.tokens, sizes.tokens.min(2048));
    let ranges = (0..tokens).step_by(document).map(|start| start..(start + document).min(tokens));
    let documents: Vec<_> = ranges.map(|r| AttentionDocument { queries: r.clone(), keys: r }).collect();
    let tiles = AttentionTiles::new(bench.clock.driver, &documents, (tokens, tokens), 1)?;
    let (wide, narrow) = (tokens * heads * width, tokens * kv_heads * width);
    let (q, k, v) = (bench.random(BF16, wide)?, bench.random(BF16, narrow)?, bench.random(BF16, narrow)?);
    let inputs = AttentionInputs {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        tiles: &tiles,
        heads: AttentionHeads { heads, kv_heads, width },
        scale: 1.0 / (width as f32).sqrt(),
    };
    let (mut o, mut lse) = (bench.room(BF16, wide)?, bench.room(F32, heads * tokens)?);
    let flops = 4.0 * (tokens * document * heads * width) as f64 / 2.0;
    bench.products(&format!("attention_forward_{width}_bf16"), flops, |d: &dyn Driver| {
        attention_forward(d, &inputs, o.view_mut(), lse.view_mut())
    })?;
    let (d_o, mut delta) = (bench.random(BF16, wide)?, bench.room(F32, heads * tokens)?);
    let (mut dq, mut dk, mut dv) = (bench.room(BF16, wide)?, bench.room(BF16, narrow)?, bench.room(BF16, narrow)?);
    bench.products(&format!("attention_delta, dq and dkv_{width}_bf16"), 2.5 * flops, |d| {
        let (o, lse, d_o, delta) = (o.view(), lse.view(), d_o.view(), delta.view_mut());
        let (dq, dk, dv) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
        attention_backward(d, &inputs, AttentionGradients { o, lse, d_o, delta, dq, dk, dv })
    })
}
