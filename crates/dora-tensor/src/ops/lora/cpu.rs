//! The products of a low-rank update on the CPU, summed with the base weight's own a panel at a time.

use super::LowRank;
use crate::cpu::{
    Finish, Gradient, Operand, Stored, Term, add_assign, buffer, for_row_blocks, for_row_panels, gather,
    product_by_rows, scratch, sum_of_products, through,
};
use crate::ops::linear::cpu::{product, view};
use crate::{Error, Result, Tensor};
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
    /// Of h (n, r).
    pub fn new(update: &'a LowRank, h: &'a Tensor) -> Result<Self> {
        let (h, b) = (h.view2("lora", "h")?, update.b.view2("lora", "B")?);
        Ok(Expansion { h: Operand::new(h, Some(&vec![update.scaling; b.ncols()])), b })
    }

    /// The term of those rows of B.
    pub fn term(&self, rows: Range<usize>) -> Term<'_> {
        Term::new(&self.h, 0..self.b.ncols(), self.b.slice(s![rows, ..]))
    }
}

/// h = x̃·Aᵀ.
pub(crate) fn project(update: &LowRank, x: &Operand, rows: usize) -> Result<Tensor> {
    let a = update.a.view2("lora", "A")?;
    let mut h = buffer(rows * a.nrows());
    product_by_rows(x, a, None, view(&mut h, (rows, a.nrows())));
    Ok(Tensor::of(h, &[rows, a.nrows()]))
}

/// Gives y = x·Wᵀ + s·h·Bᵀ + b, and h.
pub(super) fn forward(
    x: &Tensor,
    dropped: Option<&Tensor>,
    w: &dyn Stored,
    update: &LowRank,
    bias: Option<&[f32]>,
) -> Result<(Tensor, Tensor)> {
    let rows = x.shape()[0];
    let operand = Operand::new(x.view2("lora", "x")?, None);
    let h = match dropped {
        None => project(update, &operand, rows)?,
        Some(dropped) => project(update, &Operand::new(dropped.view2("lora", "x")?, None), rows)?,
    };
    let y = combined(&operand, rows, w, &Expansion::new(update, &h)?, bias);
    Ok((y, h))
}

/// x·Wᵀ + s·h·Bᵀ + b for an x of so many rows.
pub(crate) fn combined(x: &Operand, rows: usize, w: &dyn Stored, low: &Expansion, bias: Option<&[f32]>) -> Tensor {
    let (out, _) = w.dim();
    let mut y = buffer(rows * out);
    for_row_panels(w, x, vec![view(&mut y, (rows, out))], |rows, panel, mut parts| {
        let terms = [panel.term(x), low.term(rows.clone())];
        let finish = Finish { bias: bias.map(|b| &b[rows]), ..Finish::default() };
        sum_of_products(&terms, &finish, parts.remove(0));
    });
    Tensor::of(y, &[rows, out])
}

/// For the gradient dz = gain ⊙ dy (or dy) of the update's output: dx = dz·W + dh·A, where there is a weight to go through, dA
/// and dB. With dropout dx = dy·W + dropout(((gain − 1) ⊙ dy)·W + dh·A).
pub(crate) fn backward(
    update: &LowRank,
    x: &Tensor,
    h: &Tensor,
    dy: &Tensor,
    gain: Option<&[f32]>,
    weight: Option<&dyn Stored>,
) -> Result<(Option<Tensor>, Tensor, Tensor)> {
    let (n, out) = dy.dims2("lora", "dy")?;
    let (rank, inner) = update.a.dims2("lora", "A")?;
    let dz = Operand::new(dy.view2("lora", "dy")?, gain);
    let (mut dh, mut da) = (buffer(n * rank), buffer(rank * inner));
    let scale = vec![update.scaling; rank];
    product_by_rows(&dz, update.b.view2("lora", "B")?.t(), Some(&scale), view(&mut dh, (n, rank)));
    let dh = Tensor::of(dh, &[n, rank]);
    let dropped = update.dropped(x)?;
    let through = dropped.as_ref().unwrap_or(x).view2("lora", "x")?;
    gather(dh.view2("lora", "dh")?, through, view(&mut da, (rank, inner)));
    let db = scratch(rank * out, |turned| {
        let mut turned = view(turned, (rank, out));
        gather(h.view2("lora", "h")?, dy.view2("lora", "dy")?, turned.view_mut());
        let mut db = buffer(out * rank);
        for_row_blocks(&mut db, rank, |first, rows| {
            for (row, db) in rows.chunks_exact_mut(rank).enumerate() {
                let factor = update.scaling * gain.map_or(1.0, |gain| gain[first + row]);
                db.iter_mut().zip(turned.column(first + row)).for_each(|(db, t)| *db = factor * t);
            }
        });
        Ok::<_, Error>(Tensor::of(db, &[out, rank]))
    })?;
    let dx = match (weight, update.dropout) {
        (None, _) => None,
        (Some(w), None) => Some(input_gradient(w, &dz, n, &dh, &update.a)?),
        (Some(w), Some(mask)) => {
            drop(dz);
            let (mut dx, through) = dropped_input_gradient(w, dy, &dh, &update.a, gain)?;
            add_assign(dx.make_mut(), mask.apply(through)?.as_f32("lora")?);
            Some(dx)
        }
    };
    Ok((dx, Tensor::of(da, &[rank, inner]), db))
}

/// dz·W + dh·A for a dz of n rows.
fn input_gradient(w: &dyn Stored, dz: &Operand, n: usize, dh: &Tensor, a: &Tensor) -> Result<Tensor> {
    let inner = w.dim().1;
    let (dh, a) = (Operand::new(dh.view2("lora", "dh")?, None), a.view2("lora", "A")?);
    let mut dx = buffer(n * inner);
    let low = Term::new(&dh, 0..a.nrows(), a.reversed_axes());
    through(Gradient::Laid(dz), w, Some(low), view(&mut dx, (n, inner)));
    Ok(Tensor::of(dx, &[n, inner]))
}

/// dy·W, and ((gain − 1) ⊙ dy)·W + dh·A, which is to go back through dropout.
fn dropped_input_gradient(
    w: &dyn Stored,
    dy: &Tensor,
    dh: &Tensor,
    a: &Tensor,
    gain: Option<&[f32]>,
) -> Result<(Tensor, Tensor)> {
    let (n, inner) = (dy.shape()[0], w.dim().1);
    let rows = dy.view2("lora", "dy")?;
    let mut straight = buffer(n * inner);
    through(Gradient::Laid(&Operand::new(rows, None)), w, None, view(&mut straight, (n, inner)));
    let dropped = match gain {
        Some(gain) => {
            let less: Vec<f32> = gain.iter().map(|g| g - 1.0).collect();
            input_gradient(w, &Operand::new(rows, Some(&less)), n, dh, a)?
        }
        None => product(dh.view2("lora", "dh")?, a.view2("lora", "A")?, 1.0)?,
    };
    Ok((Tensor::of(straight, &[n, inner]), dropped))
}
