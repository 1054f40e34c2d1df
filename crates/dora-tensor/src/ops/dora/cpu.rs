//! Pieces of DoRA on the CPU, all over rows of width out.

use super::norms::Terms;
use crate::cpu::{Finish, Floats, Scale, Stored, buffer, for_row_panels, for_rows, simd, sum_of_products};
use crate::ops::LowRank;
use crate::ops::linear::cpu::view;
use crate::ops::lora::cpu::{Expansion, project};
use crate::{Result, Tensor};
use ndarray::ArrayView2;
use rayon::prelude::*;
use std::cell::OnceCell;

/// m/n, and 1 where n is 0.
pub(super) fn gain(m: &[f32], n: &[f32]) -> Vec<f32> {
    m.iter().zip(n).map(|(m, &n)| if n == 0.0 { 1.0 } else { m / n }).collect()
}

/// Where the norms of a panel's rows come from.
pub(super) enum Norms<'a> {
    Known(&'a [f32]),
    From(Box<Terms<'a>>),
}

/// A layer's base and magnitudes.
pub(super) struct Layer<'a> {
    pub weight: &'a dyn Stored,
    pub m: &'a [f32],
    pub norms: Norms<'a>,
    pub bias: Option<&'a [f32]>,
}

/// Gives y, z̃ with dropout, the norms, and h.
pub(super) fn forward(
    x: &Tensor,
    dropped: Option<&Tensor>,
    layer: &Layer,
    update: &LowRank,
) -> Result<(Tensor, Option<Tensor>, Tensor, Tensor)> {
    let shape = (x.shape()[0], layer.m.len());
    let out = shape.1;
    let x = x.view2("dora", "x")?;
    let dropped = dropped.map(|x| x.view2("dora", "x")).transpose()?;
    let h = project(update, dropped.unwrap_or(x))?;
    let low = Expansion::new(update, &h)?;
    let mut y = buffer(shape.0 * out);
    let mut z = dropped.is_some().then(|| buffer(shape.0 * out));
    let outputs = std::iter::once(&mut y).chain(&mut z).map(|v| view(v, shape)).collect();
    let norms = for_row_panels(layer.weight, shape.0, outputs, |rows, panel, parts| {
        let gain = |n: &[f32]| gain(&layer.m[rows.clone()], n);
        let bias = layer.bias.map(|b| &b[rows.clone()]);
        let terms = |x| [panel.transposed(x), low.term(rows.clone())];
        let mut parts = parts.into_iter();
        let mut y = parts.next().expect("y is always asked for");
        match (dropped, parts.next(), &layer.norms) {
            (Some(dropped), Some(mut z), norms) => {
                let n = match norms {
                    Norms::Known(n) => n[rows.clone()].to_vec(),
                    Norms::From(norms) => norms.of_panel(rows.clone(), panel),
                };
                let gain = gain(&n);
                sum_of_products(&terms(x), &Finish { bias, ..Finish::default() }, y.view_mut());
                sum_of_products(&terms(dropped), &Finish::default(), z.view_mut());
                for_rows(y, |i, y| {
                    let z = z.row(i);
                    let z = z.as_slice().expect("z is laid out as y");
                    simd(|| y.iter_mut().zip(z).zip(&gain).for_each(|((y, z), g)| *y += (g - 1.0) * z));
                });
                n
            }
            (_, _, Norms::Known(n)) => {
                let n = n[rows.clone()].to_vec();
                let scale = Some(Scale::By(&gain(&n)));
                sum_of_products(&terms(x), &Finish { scale, bias, add: false }, y);
                n
            }
            (_, _, Norms::From(norms)) => {
                let made = OnceCell::new();
                let make = |u: ArrayView2<f32>| gain(made.get_or_init(|| norms.with_cross(rows.clone(), panel.w, u)));
                let scale = Some(Scale::Of { a: norms.a, make: &make });
                sum_of_products(&terms(x), &Finish { scale, bias, add: false }, y);
                made.into_inner().expect("every sum is scaled")
            }
        }
    });
    let tensor = |v| Tensor::of(v, &[shape.0, out]);
    let norms = Tensor::of(norms.concat(), &[out]);
    Ok((tensor(y), z.map(tensor), norms, h))
}

/// Whether a row of norm n > 0 has an m too small to divide by.
pub(super) fn vanishes(m: &[f32], n: &[f32]) -> bool {
    m.iter().zip(n).any(|(m, &n)| n > 0.0 && m.abs() <= 1e-6 * n)
}

/// Sums over rows of dy ⊙ z, or of dy ⊙ g ⊙ z, by n or m; and 0 where n is 0.
pub(super) fn magnitude_gradient(mut sums: Floats, by: &[f32], n: &[f32]) -> Tensor {
    sums.iter_mut().zip(by).zip(n).for_each(|((s, by), &n)| *s = if n == 0.0 { 0.0 } else { *s / by });
    let width = sums.len();
    Tensor::of(sums, &[width])
}

/// Norm of every row of w (rows, inner), summed in f64.
pub(super) fn row_norms(w: &[f32], inner: usize) -> Vec<f32> {
    let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt() as f32;
    w.par_chunks_exact(inner.max(1)).map(norm).collect()
}
