//! The products of a low-rank update on the CPU, inside the panels of the base weight's own product.

use crate::cpu::{Stored, buffer, for_column_panels, for_row_panels, product, scale_each_row, scratch};
use crate::ops::linear::cpu::{add_bias, view};
use crate::{Result, Tensor};
use ndarray::{ArrayView2, ArrayViewMut2, s};
use std::ops::Range;

/// s·h·Bᵀ, a panel of B's rows at a time.
pub(crate) struct Expansion<'a> {
    /// h (n, r).
    pub h: ArrayView2<'a, f32>,
    /// B (out, r).
    pub b: ArrayView2<'a, f32>,
    /// s.
    pub scaling: f32,
}

impl Expansion<'_> {
    /// y += s·h·(gain ⊙ B)ᵀ for those rows of B, or without gain.
    pub fn add(&self, rows: Range<usize>, gain: Option<&[f32]>, y: ArrayViewMut2<f32>) {
        let b = self.b.slice(s![rows, ..]);
        match gain {
            None => product(self.h, b.t(), y, self.scaling, 1.0),
            Some(gain) => scratch(b.len(), |buffer| {
                let mut scaled = ArrayViewMut2::from_shape(b.dim(), buffer).expect("sized by the call");
                scaled.assign(&b);
                scale_each_row(scaled.view_mut(), gain);
                product(self.h, scaled.t(), y, self.scaling, 1.0);
            }),
        }
    }
}

/// y = x·Wᵀ + s·h·Bᵀ + b.
pub(crate) fn forward(x: &Tensor, w: &dyn Stored, low: &Expansion, bias: Option<&[f32]>) -> Result<Tensor> {
    let (x, out) = (x.view2("lora", "x")?, w.dim().0);
    let mut y = buffer(x.nrows() * out);
    for_row_panels(w, vec![view(&mut y, (x.nrows(), out))], |rows, panel, mut parts| {
        let mut y = parts.remove(0);
        product(x, panel.t(), y.view_mut(), 1.0, 0.0);
        low.add(rows.clone(), None, y.view_mut());
        add_bias(y, bias.map(|b| &b[rows]));
    });
    Ok(Tensor::of(y, &[x.nrows(), out]))
}

/// (gain ⊙ dy)·W + dh·A.
pub(super) fn input_gradient(
    w: &dyn Stored,
    dy: &Tensor,
    dh: &Tensor,
    a: &Tensor,
    gain: Option<&[f32]>,
) -> Result<Tensor> {
    let (dy, dh, a) = (dy.view2("lora", "dy")?, dh.view2("lora", "dh")?, a.view2("lora", "A")?);
    let (n, (out, inner)) = (dy.nrows(), w.dim());
    let mut dx = buffer(n * inner);
    for_column_panels(w, vec![view(&mut dx, (n, inner))], |rows, columns, mut panel, parts| {
        if let Some(gain) = gain {
            scale_each_row(panel.view_mut(), &gain[rows.clone()]);
        }
        let beta = if rows.start == 0 { 0.0 } else { 1.0 };
        product(dy.slice(s![.., rows.clone()]), panel.view(), parts[0].view_mut(), 1.0, beta);
        if rows.end == out {
            product(dh, a.slice(s![.., columns]), parts[0].view_mut(), 1.0, 1.0);
        }
    });
    Ok(Tensor::of(dx, &[n, inner]))
}

/// dy·W, and ((gain − 1) ⊙ dy)·W + dh·A, which is to go back through dropout.
pub(super) fn dropped_input_gradient(
    w: &dyn Stored,
    dy: &Tensor,
    dh: &Tensor,
    a: &Tensor,
    gain: Option<&[f32]>,
) -> Result<(Tensor, Tensor)> {
    let (dy, dh, a) = (dy.view2("lora", "dy")?, dh.view2("lora", "dh")?, a.view2("lora", "A")?);
    let (n, (out, inner)) = (dy.nrows(), w.dim());
    let less: Option<Vec<f32>> = gain.map(|gain| gain.iter().map(|g| g - 1.0).collect());
    let (mut straight, mut through) = (buffer(n * inner), buffer(n * inner));
    let outputs = vec![view(&mut straight, (n, inner)), view(&mut through, (n, inner))];
    for_column_panels(w, outputs, |rows, columns, mut panel, parts| {
        let beta = if rows.start == 0 { 0.0 } else { 1.0 };
        let dy = dy.slice(s![.., rows.clone()]);
        product(dy, panel.view(), parts[0].view_mut(), 1.0, beta);
        if let Some(less) = &less {
            scale_each_row(panel.view_mut(), &less[rows.clone()]);
            product(dy, panel.view(), parts[1].view_mut(), 1.0, beta);
        }
        if rows.end == out {
            let beta = if less.is_some() { 1.0 } else { 0.0 };
            product(dh, a.slice(s![.., columns]), parts[1].view_mut(), 1.0, beta);
        }
    });
    Ok((Tensor::of(straight, &[n, inner]), Tensor::of(through, &[n, inner])))
}
