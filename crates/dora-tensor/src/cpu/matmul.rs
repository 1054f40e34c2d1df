//! Matrix products through the `gemm` crate. The output is cut into panels of rows or columns, one single-threaded product
//! each; a panel's size depends on the shape alone, so a result does not depend on the number of threads.
//!
//! Weights stored in fewer bits are widened to `f32` a panel at a time in scratch that fits a core's cache.

use super::scratch;
use crate::profile;
use half::{bf16, f16};
use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;
use std::ops::Range;

/// c = alpha · a·b + beta · c for `a` (m, k), `b` (k, n), `c` (m, n) of any strides; `beta` 0 overwrites, whatever `c` held.
pub fn matmul(a: ArrayView2<f32>, b: ArrayView2<f32>, mut c: ArrayViewMut2<f32>, alpha: f32, beta: f32) {
    let ((m, k), n) = (a.dim(), b.ncols());
    assert!(b.nrows() == k && c.dim() == (m, n), "product of ({m}, {k}) and {:?} into {:?}", b.dim(), c.dim());
    match panels(m, k, n) {
        None => product(a, b, c, alpha, beta),
        Some((Axis(0), size)) => c
            .axis_chunks_iter_mut(Axis(0), size)
            .into_par_iter()
            .zip(a.axis_chunks_iter(Axis(0), size))
            .for_each(|(c, a)| product(a, b, c, alpha, beta)),
        Some((axis, size)) => c
            .axis_chunks_iter_mut(axis, size)
            .into_par_iter()
            .zip(b.axis_chunks_iter(axis, size))
            .for_each(|(c, b)| product(a, b, c, alpha, beta)),
    }
}

/// How to cut an (m, n) output: along the longer side, in panels of at least 2 MFLOP and 48 rows.
fn panels(m: usize, k: usize, n: usize) -> Option<(Axis, usize)> {
    const MIN_FLOPS: usize = 2 << 20;
    const MAX_PANELS: usize = 32;
    let flops = 2 * m * k * n;
    let (axis, side) = if m > n { (Axis(0), m) } else { (Axis(1), n) };
    let count = (flops / MIN_FLOPS).min(side / 48).min(MAX_PANELS);
    (count >= 2).then(|| (axis, side.div_ceil(count).next_multiple_of(16)))
}

/// As [`matmul`], on this thread alone.
pub fn product(a: ArrayView2<f32>, b: ArrayView2<f32>, mut c: ArrayViewMut2<f32>, alpha: f32, beta: f32) {
    let ((m, k), n) = (a.dim(), b.ncols());
    profile::flops(2 * m * k * n);
    let (sa, sb, sc) = (a.strides(), b.strides(), c.strides());
    let (sc0, sc1) = (sc[0], sc[1]);
    // SAFETY: the dimensions were checked by `matmul` (or are those of the views just cut), and pointer and strides of each
    // operand come from a live ndarray view of that size; `c` is borrowed mutably.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            sc1,
            sc0,
            beta != 0.0,
            a.as_ptr(),
            sa[1],
            sa[0],
            b.as_ptr(),
            sb[1],
            sb[0],
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// A storage-only element that widens to `f32`.
pub trait Half: Copy + Sync {
    /// Widens.
    fn widen(self) -> f32;
}

impl Half for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Half for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// A stored matrix W whose elements widen to `f32`, a rectangle at a time.
pub trait Stored: Sync {
    /// (rows, columns).
    fn dim(&self) -> (usize, usize);
    /// Widens a rectangle into `out`, row-major.
    fn widen_into(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]);
}

impl<T: Half> Stored for ArrayView2<'_, T> {
    fn dim(&self) -> (usize, usize) {
        self.dim()
    }

    fn widen_into(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        let width = columns.len().max(1);
        for (row, out) in self.slice(s![rows, columns]).rows().into_iter().zip(out.chunks_exact_mut(width)) {
            match row.as_slice() {
                Some(row) => super::simd(|| out.iter_mut().zip(row).for_each(|(o, x)| *o = x.widen())),
                None => out.iter_mut().zip(row).for_each(|(o, x)| *o = x.widen()),
            }
        }
    }
}

/// Elements of a panel of W kept in `f32`: 1 MiB, half of a usual second-level cache.
const PANEL: usize = 1 << 18;

fn widened(w: &impl Stored, rows: Range<usize>, columns: Range<usize>, f: impl FnOnce(ArrayView2<f32>)) {
    let dim = (rows.len(), columns.len());
    scratch(dim.0 * dim.1, |buffer| {
        w.widen_into(rows, columns, buffer);
        f(ArrayView2::from_shape(dim, buffer).expect("the scratch has the panel's size"));
    });
}

/// Each y (n, out) = x (n, in) · Wᵀ for a stored W (out, in), a panel of W's rows at a time.
pub fn matmul_stored_nt(xs: &[ArrayView2<f32>], w: &impl Stored, ys: Vec<ArrayViewMut2<f32>>) {
    let (out, inner) = w.dim();
    let rows = (PANEL / inner.max(1)).clamp(1, out.div_ceil(8).max(16));
    column_panels(ys, out, rows).into_par_iter().enumerate().for_each(|(i, ys)| {
        widened(w, i * rows..out.min((i + 1) * rows), 0..inner, |w| {
            xs.iter().zip(ys).for_each(|(x, y)| product(*x, w.t(), y, 1.0, 0.0));
        });
    });
}

/// Each dx (n, in) = dy (n, out) · W for a stored W (out, in), a panel of W's columns at a time.
pub fn matmul_stored_nn(dys: &[ArrayView2<f32>], w: &impl Stored, dxs: Vec<ArrayViewMut2<f32>>) {
    let (out, inner) = w.dim();
    let columns = inner.div_ceil(8).clamp(64.min(inner.max(1)), 1024);
    let rows = (PANEL / columns).max(1);
    column_panels(dxs, inner, columns).into_par_iter().enumerate().for_each(|(i, mut dxs)| {
        let columns = i * columns..inner.min((i + 1) * columns);
        for first in (0..out).step_by(rows) {
            let rows = first..out.min(first + rows);
            let beta = if first == 0 { 0.0 } else { 1.0 };
            widened(w, rows.clone(), columns.clone(), |panel| {
                for (dy, dx) in dys.iter().zip(&mut dxs) {
                    product(dy.slice(s![.., rows.clone()]), panel, dx.view_mut(), 1.0, beta);
                }
            });
        }
    });
}

/// Cuts outputs of one width into panels of columns: for each panel, its part of every output.
fn column_panels(ys: Vec<ArrayViewMut2<'_, f32>>, width: usize, size: usize) -> Vec<Vec<ArrayViewMut2<'_, f32>>> {
    let mut panels: Vec<Vec<_>> = (0..width.div_ceil(size)).map(|_| Vec::with_capacity(ys.len())).collect();
    for mut rest in ys {
        for panel in &mut panels {
            let columns = size.min(rest.ncols());
            let (part, tail) = rest.split_at(Axis(1), columns);
            panel.push(part);
            rest = tail;
        }
    }
    panels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Philox;
    use ndarray::Array2;

    fn random(rng: &mut Philox, shape: (usize, usize)) -> Array2<f32> {
        Array2::from_shape_simple_fn(shape, || rng.normal())
    }

    fn check(got: &Array2<f32>, a: &Array2<f32>, b: &Array2<f32>) {
        let (a, b) = (a.mapv(f64::from), b.mapv(f64::from));
        let want = a.dot(&b);
        let scale = (a.ncols() as f64).sqrt();
        for (g, w) in got.iter().zip(&want) {
            assert!(
                (f64::from(*g) - w).abs() < 1e-5 * scale.max(1.0),
                "{g} instead of {w} for {:?}·{:?}",
                a.dim(),
                b.dim()
            );
        }
    }

    const SIZES: [(usize, usize, usize); 9] = [
        (1, 1, 1),
        (1, 576, 131),
        (3, 7, 5),
        (17, 257, 31),
        (128, 96, 512),
        (301, 67, 129),
        (64, 200, 1031),
        (0, 3, 4),
        (5, 0, 3),
    ];

    #[test]
    fn products_agree_with_f64_for_every_layout() {
        let mut rng = Philox::new(1, 0);
        for (m, k, n) in SIZES {
            let (a, b) = (random(&mut rng, (m, k)), random(&mut rng, (k, n)));
            let mut c = Array2::from_elem((m, n), f32::NAN);
            matmul(a.view(), b.view(), c.view_mut(), 1.0, 0.0);
            check(&c, &a, &b);
            let bt = b.t().as_standard_layout().to_owned();
            let mut c = Array2::from_elem((m, n), f32::NAN);
            matmul(a.view(), bt.t(), c.view_mut(), 1.0, 0.0);
            check(&c, &a, &b);
            let mut twice = c.clone();
            matmul(a.view(), b.view(), twice.view_mut(), 1.0, 1.0);
            check(&(twice / 2.0), &a, &b);
        }
    }

    #[test]
    fn half_weights_multiply_as_their_widened_values() {
        let mut rng = Philox::new(2, 0);
        for (n, inner, out) in SIZES {
            let w = random(&mut rng, (out, inner)).mapv(bf16::from_f32);
            let wide = w.mapv(bf16::to_f32);
            let (x, dy) = (random(&mut rng, (n, inner)), random(&mut rng, (n, out)));
            let one = (random(&mut rng, (1, inner)), random(&mut rng, (1, out)));
            let outputs = |width| (Array2::from_elem((n, width), f32::NAN), Array2::from_elem((1, width), f32::NAN));
            let (mut y, mut y1) = outputs(out);
            matmul_stored_nt(&[x.view(), one.0.view()], &w.view(), vec![y.view_mut(), y1.view_mut()]);
            check(&y, &x, &wide.t().to_owned());
            check(&y1, &one.0, &wide.t().to_owned());
            let (mut dx, mut dx1) = outputs(inner);
            matmul_stored_nn(&[dy.view(), one.1.view()], &w.view(), vec![dx.view_mut(), dx1.view_mut()]);
            check(&dx, &dy, &wide);
            check(&dx1, &one.1, &wide);
        }
    }
}
