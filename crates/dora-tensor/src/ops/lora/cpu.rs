//! The products of a low-rank update on the CPU, summed with the base weight's own a panel at a time.

use super::LowRank;
use crate::cpu::{
    Dots, Finish, Stored, Term, add_assign, buffer, for_row_blocks, for_row_panels, gather, scratch, sum_of_products,
    through,
};
use crate::ops::linear::cpu::{product, view};
use crate::{Result, Tensor};
use ndarray::{ArrayView2, s};
use std::ops::Range;

/// s·h·Bᵀ, a panel of B's rows at a time.
pub(crate) struct Expansion<'a> {
    /// h (n, r).
    h: ArrayView2<'a, f32>,
    /// B (out, r).
    b: ArrayView2<'a, f32>,
    scaling: f32,
}

impl<'a> Expansion<'a> {
    /// Of h (n, r).
    pub fn new(update: &'a LowRank, h: &'a Tensor) -> Result<Self> {
        Ok(Expansion { h: h.view2("lora", "h")?, b: update.b.view2("lora", "B")?, scaling: update.scaling })
    }

    /// The term of those rows of B.
    pub fn term(&self, rows: Range<usize>) -> Term<'_> {
        Term { factor: self.scaling, ..Term::new(self.h, self.b.slice_move(s![rows, ..]).reversed_axes()) }
    }
}

/// h = x̃·Aᵀ.
pub(crate) fn project(update: &LowRank, x: ArrayView2<f32>) -> Result<Tensor> {
    let a = update.a.view2("lora", "A")?;
    let shape = (x.nrows(), a.nrows());
    let mut h = buffer(shape.0 * shape.1);
    sum_of_products(&[Term::new(x, a.reversed_axes()).narrow()], &Finish::default(), view(&mut h, shape));
    Ok(Tensor::of(h, &[shape.0, shape.1]))
}

/// Gives y = x·Wᵀ + s·h·Bᵀ + b, and h.
pub(super) fn forward(
    x: &Tensor,
    dropped: Option<&Tensor>,
    w: &dyn Stored,
    update: &LowRank,
    bias: Option<&[f32]>,
) -> Result<(Tensor, Tensor)> {
    let h = project(update, dropped.unwrap_or(x).view2("lora", "x")?)?;
    let y = combined(x.view2("lora", "x")?, w, &Expansion::new(update, &h)?, bias);
    Ok((y, h))
}

/// x·Wᵀ + s·h·Bᵀ + b.
pub(crate) fn combined(x: ArrayView2<f32>, w: &dyn Stored, low: &Expansion, bias: Option<&[f32]>) -> Tensor {
    let (rows, (out, _)) = (x.nrows(), w.dim());
    let mut y = buffer(rows * out);
    for_row_panels(w, rows, vec![view(&mut y, (rows, out))], |rows, panel, mut parts| {
        let terms = [panel.transposed(x), low.term(rows.clone())];
        let finish = Finish { bias: bias.map(|b| &b[rows]), ..Finish::default() };
        sum_of_products(&terms, &finish, parts.remove(0));
    });
    Tensor::of(y, &[rows, out])
}

/// What comes back through an update and its weight.
pub(crate) struct Gradients {
    /// Where there is a weight to go through.
    pub dx: Option<Tensor>,
    pub da: Tensor,
    pub db: Tensor,
}

/// For the gradient dz = gain ⊙ dy (or dy) of the update's output: dx = dz·W + dh·A, dA and dB; and what is wanted of dy beside it.
/// With dropout dx = dy·W + dropout(((gain − 1) ⊙ dy)·W + dh·A).
pub(crate) fn backward(
    update: &LowRank,
    x: &Tensor,
    h: &Tensor,
    dy: &Tensor,
    gain: Option<&[f32]>,
    weight: Option<&dyn Stored>,
    dots: Option<Dots>,
) -> Result<Gradients> {
    let (n, out) = dy.dims2("lora", "dy")?;
    let (rank, inner) = update.a.dims2("lora", "A")?;
    let dropped = update.dropped(x)?;
    let (dy_, x, h) =
        (dy.view2("lora", "dy")?, dropped.as_ref().unwrap_or(x).view2("lora", "x")?, h.view2("lora", "h")?);
    let (mut dh, mut da, mut db) = (buffer(n * rank), buffer(rank * inner), buffer(out * rank));
    let back = Term { rows: gain, factor: update.scaling, ..Term::new(dy_, update.b.view2("lora", "B")?).narrow() };
    // One needs nothing of the other.
    rayon::join(
        || {
            sum_of_products(&[back], &Finish::default(), view(&mut dh, (n, rank)));
            gather(view(&mut dh, (n, rank)).view(), x, None, view(&mut da, (rank, inner)));
        },
        || {
            scratch(rank * out, |turned| {
                let mut turned = view(turned, (rank, out));
                gather(h, dy_, dots, turned.view_mut());
                for_row_blocks(&mut db, rank, |first, rows| {
                    for (row, db) in rows.chunks_exact_mut(rank).enumerate() {
                        let factor = update.scaling * gain.map_or(1.0, |gain| gain[first + row]);
                        db.iter_mut().zip(turned.column(first + row)).for_each(|(db, t)| *db = factor * t);
                    }
                });
            });
        },
    );
    let dh = Tensor::of(dh, &[n, rank]);
    let dx = match (weight, update.dropout) {
        (None, _) => None,
        (Some(w), None) => Some(input_gradient(w, dy, gain, &dh, &update.a)?),
        (Some(w), Some(mask)) => {
            let (mut dx, through) = dropped_input_gradient(w, dy, &dh, &update.a, gain)?;
            add_assign(dx.make_mut(), mask.apply(through)?.as_f32("lora")?);
            Some(dx)
        }
    };
    Ok(Gradients { dx, da: Tensor::of(da, &[rank, inner]), db: Tensor::of(db, &[out, rank]) })
}

/// (gain ⊙ dy)·W + dh·A.
fn input_gradient(w: &dyn Stored, dy: &Tensor, gain: Option<&[f32]>, dh: &Tensor, a: &Tensor) -> Result<Tensor> {
    let (n, inner) = (dy.shape()[0], w.dim().1);
    let mut dx = buffer(n * inner);
    let low = Term::new(dh.view2("lora", "dh")?, a.view2("lora", "A")?);
    through(dy.view2("lora", "dy")?, gain, w, Some(low), view(&mut dx, (n, inner)));
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
    let mut straight = buffer(n * inner);
    through(dy.view2("lora", "dy")?, None, w, None, view(&mut straight, (n, inner)));
    let dropped = match gain {
        Some(gain) => {
            let less: Vec<f32> = gain.iter().map(|g| g - 1.0).collect();
            input_gradient(w, dy, Some(&less), dh, a)?
        }
        None => product(dh.view2("lora", "dh")?, a.view2("lora", "A")?, 1.0)?,
    };
    Ok((Tensor::of(straight, &[n, inner]), dropped))
}
