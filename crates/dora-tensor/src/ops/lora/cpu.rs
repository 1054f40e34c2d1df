//! The products of a low-rank update on the CPU, summed with the base weight's own a panel at a time.

use crate::cpu::{Finish, Operand, Stored, Term, buffer, for_column_panels, for_row_panels, sum_of_products};
use crate::ops::linear::cpu::view;
use crate::{Result, Tensor};
use ndarray::{ArrayView2, s};
use std::ops::Range;

/// s·h·Bᵀ, a panel of B's rows at a time.
pub(crate) struct Expansion<'a> {
    /// s·h (n, r).
    h: Operand<'a>,
    /// B (out, r).
    b: ArrayView2<'a, f32>,
}

impl<'a> Expansion<'a> {
    /// Of h (n, r) and B (out, r).
    pub fn new(h: ArrayView2<'a, f32>, b: ArrayView2<'a, f32>, scaling: f32) -> Self {
        Expansion { h: Operand::new(h, Some(&vec![scaling; b.ncols()])), b }
    }

    /// The term of those rows of B.
    pub fn term(&self, rows: Range<usize>) -> Term<'_, 'a> {
        Term { x: &self.h, columns: 0..self.b.ncols(), w: self.b.slice(s![rows, ..]) }
    }
}

/// y = x·Wᵀ + s·h·Bᵀ + b.
pub(crate) fn forward<'x>(x: &'x Tensor, w: &dyn Stored, low: &Expansion<'x>, bias: Option<&[f32]>) -> Result<Tensor> {
    let (rows, (out, inner)) = (x.shape()[0], w.dim());
    let x = Operand::new(x.view2("lora", "x")?, None);
    let mut y = buffer(rows * out);
    for_row_panels(w, x.reads_in_place(), vec![view(&mut y, (rows, out))], |rows, panel, mut parts| {
        let terms = [Term { x: &x, columns: 0..inner, w: panel.view() }, low.term(rows.clone())];
        let finish = Finish { bias: bias.map(|b| &b[rows]), ..Finish::default() };
        sum_of_products(&terms, &finish, parts.remove(0));
    });
    Ok(Tensor::of(y, &[rows, out]))
}

/// (gain ⊙ dy)·W + dh·A.
pub(super) fn input_gradient(
    w: &dyn Stored,
    dy: &Tensor,
    dh: &Tensor,
    a: &Tensor,
    gain: Option<&[f32]>,
) -> Result<Tensor> {
    let (n, (out, inner)) = (dy.shape()[0], w.dim());
    let (dz, dh) = (Operand::new(dy.view2("lora", "dy")?, gain), Operand::new(dh.view2("lora", "dh")?, None));
    let a = a.view2("lora", "A")?;
    let mut dx = buffer(n * inner);
    let outputs = vec![view(&mut dx, (n, inner))];
    for_column_panels(w, dz.reads_in_place(), outputs, |rows, columns, panel, parts| {
        let finish = Finish { add: rows.start > 0, ..Finish::default() };
        let last = rows.end == out;
        let base = Term { x: &dz, columns: rows, w: panel.t() };
        let low = Term { x: &dh, columns: 0..a.nrows(), w: a.slice(s![.., columns]).reversed_axes() };
        let terms = [base, low];
        sum_of_products(if last { &terms } else { &terms[..1] }, &finish, parts[0].view_mut());
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
    let (n, (out, inner)) = (dy.shape()[0], w.dim());
    let less: Option<Vec<f32>> = gain.map(|gain| gain.iter().map(|g| g - 1.0).collect());
    let (dy, dh, a) = (dy.view2("lora", "dy")?, dh.view2("lora", "dh")?, a.view2("lora", "A")?);
    let less = less.map(|less| Operand::new(dy, Some(&less)));
    let (dy, dh) = (Operand::new(dy, None), Operand::new(dh, None));
    let (mut straight, mut through) = (buffer(n * inner), buffer(n * inner));
    let outputs = vec![view(&mut straight, (n, inner)), view(&mut through, (n, inner))];
    for_column_panels(w, dy.reads_in_place(), outputs, |rows, columns, panel, parts| {
        let finish = Finish { add: rows.start > 0, ..Finish::default() };
        let base = |x| Term { x, columns: rows.clone(), w: panel.t() };
        sum_of_products(&[base(&dy)], &finish, parts[0].view_mut());
        let low = Term { x: &dh, columns: 0..a.nrows(), w: a.slice(s![.., columns]).reversed_axes() };
        let low = (rows.end == out).then_some(low);
        let terms: Vec<Term> = less.as_ref().map(base).into_iter().chain(low).collect();
        let finish = Finish { add: finish.add && less.is_some(), ..Finish::default() };
        if !terms.is_empty() {
            sum_of_products(&terms, &finish, parts[1].view_mut());
        }
    });
    Ok((Tensor::of(straight, &[n, inner]), Tensor::of(through, &[n, inner])))
}
