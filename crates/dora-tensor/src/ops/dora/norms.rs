//! Row norms n (out) of W + sBA without forming it: n² = ‖W‖² + 2s·Σ(B ∘ U) + s²·Σ((BG) ∘ B) over the rank, with
//! U (out, r) = W·Aᵀ and G (r, r) = A·Aᵀ; sums in f64, clamped at 0. Computed for a panel of W's rows that is at hand.
//!
//! Where the terms all but cancel, rounding is as large as n² itself; such rows are computed from W's row and B·A's.

use super::super::LowRank;
use super::super::linear::cpu::{product, view};
use crate::cpu::{Finish, Panel, for_row_panels, product as matrix_product, scratch, sum_of_products};
use crate::profile::{self, Direction};
use crate::{Device, Error, Result, Tensor, Weight};
use ndarray::{ArrayView2, s};
use std::ops::Range;
use std::sync::Arc;

/// A row whose n² is below this part of the sum of its terms' sizes is computed exactly. The terms carry f32 rounding (1e-7
/// of their size), so n keeps 5 digits above it.
const CANCELLED: f64 = 0.01;

/// The norms, where `base` holds ‖W‖² (out).
pub fn dora_norms(weight: &Arc<dyn Weight>, update: &LowRank, base: &Tensor) -> Result<Tensor> {
    let _running = profile::operation("dora_norms", Direction::Forward);
    update.check(weight.shape())?;
    let (out, _) = weight.shape();
    match base.device() {
        Device::Cpu => {
            let terms = Terms::new(update, base, out)?;
            let w = weight.stored()?;
            let panels = for_row_panels(w, terms.a.nrows(), Vec::new(), |rows, panel, _| terms.of_panel(rows, panel));
            Ok(Tensor::of(panels.concat(), &[out]))
        }
        Device::Cuda(gpu) => Ok(super::cuda::norms(gpu, &[(&weight.materialized()?, update, base)])?.remove(0)),
    }
}

/// A layer whose norms are wanted.
#[derive(Debug)]
pub struct NormsOf<'a> {
    /// W (out, in), as [`Weight::resident`] gives it.
    pub weight: &'a Tensor,
    /// A and B.
    pub update: LowRank,
    /// ‖W‖² (out).
    pub base: &'a Tensor,
}

/// The norms of layers that lie on one device, in one go: each alone leaves most of a device idle.
pub fn dora_norms_together(layers: &[NormsOf]) -> Result<Vec<Tensor>> {
    let _running = profile::operation("dora_norms", Direction::Forward);
    let mut operands = Vec::with_capacity(layers.len());
    for NormsOf { weight, update, base } in layers {
        let shape = weight.dims2("dora", "W")?;
        update.check(shape)?;
        base.expect_shape("dora", "base norms", &[shape.0])?;
        operands.push((*weight, update, *base));
    }
    match layers.first().map(|layer| layer.weight.device()) {
        None => Ok(Vec::new()),
        Some(Device::Cuda(gpu)) => super::cuda::norms(gpu, &operands),
        Some(Device::Cpu) => Err(Error::Device("norms of many layers on the CPU, expected a GPU for them".to_owned())),
    }
}

/// What the norms of any row are made of, but for W.
pub(super) struct Terms<'a> {
    /// A (r, in).
    pub(super) a: ArrayView2<'a, f32>,
    b: ArrayView2<'a, f32>,
    /// G (r, r).
    gram: Tensor,
    /// ‖W‖².
    base: &'a [f32],
    scaling: f64,
}

impl<'a> Terms<'a> {
    /// `base` holds ‖W‖² (out).
    pub(super) fn new(update: &'a LowRank, base: &'a Tensor, out: usize) -> Result<Self> {
        base.expect_shape("dora", "base norms", &[out])?;
        let (a, b) = (update.a.view2("dora", "A")?, update.b.view2("dora", "B")?);
        let gram = product(a, a.t(), 1.0)?;
        Ok(Terms { a, b, gram, base: base.as_f32("dora")?, scaling: f64::from(update.scaling) })
    }

    /// Norms of `rows`, where `panel` (rows, in) holds these of W.
    pub(super) fn of_panel(&self, rows: Range<usize>, panel: &Panel) -> Vec<f32> {
        scratch(self.a.nrows() * rows.len(), |cross| {
            let mut cross = view(cross, (self.a.nrows(), rows.len()));
            sum_of_products(&[panel.transposed(self.a)], &Finish::default(), cross.view_mut());
            self.with_cross(rows, panel.w, cross.view())
        })
    }

    /// The same, where Uᵀ (r, rows) is at hand.
    pub(super) fn with_cross(&self, rows: Range<usize>, panel: ArrayView2<f32>, cross: ArrayView2<f32>) -> Vec<f32> {
        let (rank, gram) = (self.a.nrows(), self.gram.view2("dora", "G").expect("a product is f32"));
        scratch(rows.len() * rank, |spread| {
            // B·G.
            matrix_product(self.b.slice(s![rows.clone(), ..]), gram, view(spread, (rows.len(), rank)), 1.0, 0.0);
            let norm = |(i, row): (usize, usize)| {
                let (mut twice, mut square) = (0.0, 0.0);
                let spread = &spread[i * rank..(i + 1) * rank];
                for ((&b, &bg), &u) in self.b.row(row).iter().zip(spread).zip(cross.column(i)) {
                    twice += f64::from(b) * f64::from(u);
                    square += f64::from(b) * f64::from(bg);
                }
                let terms = [f64::from(self.base[row]), 2.0 * self.scaling * twice, self.scaling.powi(2) * square];
                let (sum, sizes) = (terms.iter().sum::<f64>(), terms.iter().map(|t| t.abs()).sum::<f64>());
                match sizes > 0.0 && sum < CANCELLED * sizes {
                    true => self.exact(row, panel.row(i)),
                    // NaN stays NaN, so that a base that is not finite shows in the loss.
                    false => (if sum < 0.0 { 0.0 } else { sum }).sqrt() as f32,
                }
            };
            rows.enumerate().map(norm).collect()
        })
    }

    /// The norm of a row from its elements.
    fn exact(&self, row: usize, w: ndarray::ArrayView1<f32>) -> f32 {
        let mut sum: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
        for (&b, a) in self.b.row(row).iter().zip(self.a.rows()) {
            let factor = self.scaling * f64::from(b);
            sum.iter_mut().zip(a).for_each(|(sum, &a)| *sum += factor * f64::from(a));
        }
        sum.iter().map(|x| x * x).sum::<f64>().sqrt() as f32
    }
}
