//! Products of activations x (n, k), as they lie, with a matrix w (k, j). Where AVX2 or AVX-512 is at hand w is packed, some hundred
//! of its rows and columns at a time, so that columns stand side by side in the lanes of vectors, and elements of x are spread over
//! a vector as they come. What w's rows or columns are multiplied by is multiplied into it as it is packed, and y is written as it
//! lies. Elsewhere, and for fewer than 6 rows, the `gemm` crate does it.

#[cfg(target_arch = "x86_64")]
mod ahead;
#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(target_arch = "x86_64")]
mod layout;
#[cfg(target_arch = "x86_64")]
mod pack;
mod through;
#[cfg(target_arch = "x86_64")]
mod vector;

use super::for_rows;
use super::matmul::product;
#[cfg(target_arch = "x86_64")]
use super::scratch;
use super::simd;
#[cfg(target_arch = "x86_64")]
use crate::profile;
#[cfg(target_arch = "x86_64")]
use ahead::Ahead;
#[cfg(target_arch = "x86_64")]
pub use attention::{KeyHead, Queries};
#[cfg(target_arch = "x86_64")]
use kernel::{GATHERED, Gather, PackedProduct};
use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};
#[cfg(target_arch = "x86_64")]
use pack::PackColumns;
use rayon::prelude::*;
use std::ops::Range;
pub use through::through;
#[cfg(target_arch = "x86_64")]
use vector::Isa;

/// Rows below which packing w does not pay.
#[cfg(target_arch = "x86_64")]
const FEW: usize = 6;

/// Rows of w, at most, that are packed at a time: those of a tile's columns then stream from the second-level cache, and a few rows
/// of as many elements of x stay in the first-level one.
pub(super) const DEPTH: usize = 384;

/// Rows of x that are one task.
#[cfg(target_arch = "x86_64")]
const TASK: usize = 48;

/// x·diag(rows)·w·factor.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    /// x (n, k), whose rows are contiguous.
    pub x: ArrayView2<'a, f32>,
    /// w (k, j), of any strides.
    pub w: ArrayView2<'a, f32>,
    /// What w's rows are multiplied by, (k).
    pub rows: Option<&'a [f32]>,
    /// What all of it is multiplied by.
    pub factor: f32,
    /// Whether w lies in memory among more of its kind, which is wanted next.
    pub goes_on: bool,
}

impl<'a> Term<'a> {
    /// x·w.
    pub fn new(x: ArrayView2<'a, f32>, w: ArrayView2<'a, f32>) -> Self {
        Term { x, w, rows: None, factor: 1.0, goes_on: false }
    }

    /// For some columns of w.
    fn of_columns(&self, columns: Range<usize>) -> Term<'_> {
        Term { x: self.x.view(), w: self.w.slice(s![.., columns]), ..*self }
    }

    /// For some rows of w, and as many columns of x.
    #[cfg(target_arch = "x86_64")]
    fn of_rows(&self, rows: Range<usize>) -> Term<'_> {
        let (x, w) = (self.x.slice(s![.., rows.clone()]), self.w.slice(s![rows.clone(), ..]));
        Term { x, w, rows: self.rows.map(|gain| &gain[rows]), ..*self }
    }
}

/// What is done with a sum of products.
#[derive(Default)]
pub struct Finish<'a> {
    /// Column i of the sum is multiplied by `scale[i]`.
    pub scale: Option<&'a [f32]>,
    /// Is added to every row then.
    pub bias: Option<&'a [f32]>,
    /// Whether y stays, and the sum is added to it: then without scale and bias.
    pub add: bool,
}

/// Whether w is best read where it lies, for an x of so many rows.
pub fn reads_in_place(rows: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    if rows >= FEW {
        return Isa::all().next().is_some();
    }
    let _ = rows;
    false
}

/// y (n, j), of contiguous rows, becomes the sum of the terms; rows of x in parallel.
pub fn sum_of_products(terms: &[Term], finish: &Finish, y: ArrayViewMut2<f32>) {
    for Term { x, w, rows, .. } in terms {
        let same = x.ncols() == w.nrows() && rows.is_none_or(|rows| rows.len() == w.nrows());
        assert!(same && x.nrows() == y.nrows() && w.ncols() == y.ncols(), "factors of one size");
    }
    assert!(!finish.add || finish.scale.is_none() && finish.bias.is_none(), "what is there already is only added to");
    let each = |v: Option<&[f32]>| v.is_none_or(|v| v.len() == y.ncols());
    assert!(each(finish.scale) && each(finish.bias), "a value for each column");
    #[cfg(target_arch = "x86_64")]
    if let Some(isa) = Isa::all().next().filter(|_| y.nrows() >= FEW) {
        return packed(isa, terms, finish, y);
    }
    by_gemm(terms, finish, y);
}

/// The sum by the `gemm` crate.
fn by_gemm(terms: &[Term], finish: &Finish, mut y: ArrayViewMut2<f32>) {
    let mut beta = if finish.add { 1.0 } else { 0.0 };
    for term in terms {
        let own = term.rows.map(|rows| {
            let mut own = term.x.as_standard_layout().into_owned();
            for_rows(own.view_mut(), |_, row| row.iter_mut().zip(rows).for_each(|(x, g)| *x *= g));
            own
        });
        let x = own.as_ref().map_or(term.x, |own| own.view());
        product(x, term.w, y.view_mut(), term.factor, beta);
        beta = 1.0;
    }
    if let Some(scale) = finish.scale {
        for_rows(y.view_mut(), |_, row| simd(|| row.iter_mut().zip(scale).for_each(|(y, g)| *y *= g)));
    }
    if let Some(bias) = finish.bias {
        for_rows(y, |_, row| simd(|| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b)));
    }
}

/// The sum with factors w that are packed; y carries it from part to part.
#[cfg(target_arch = "x86_64")]
fn packed(isa: Isa, terms: &[Term], finish: &Finish, mut y: ArrayViewMut2<f32>) {
    let mut add = finish.add;
    if let Some(bias) = finish.bias {
        for_rows(y.view_mut(), |_, row| row.copy_from_slice(bias));
        add = true;
    }
    for term in terms {
        profile::flops(2 * y.len() * term.x.ncols());
        for rows in parts(term.w.nrows()) {
            let ahead = if term.goes_on { behind(&term.w, &rows) } else { Ahead::nothing() };
            let Term { x, w, rows: by_row, factor, .. } = term.of_rows(rows);
            let tile = isa.tile(w.ncols());
            scratch(w.nrows() * w.ncols().next_multiple_of(isa.lanes()), |packed| {
                isa.run(PackColumns { w, by_row, by_column: finish.scale, factor, tile, packed });
                let n = y.nrows();
                let chunks = y.axis_chunks_iter_mut(Axis(0), TASK).into_par_iter();
                chunks.zip(x.axis_chunks_iter(Axis(0), TASK)).enumerate().for_each(|(i, (y, x))| {
                    let ahead = ahead.part(i * TASK..(i + 1) * TASK, n);
                    isa.run(PackedProduct { x, packed, tile, add, ahead, y });
                });
            });
            add = true;
        }
    }
    if !add {
        y.fill(0.0);
    }
}

/// What is wanted after those rows of w: the next of them or, where w is a panel of the rows of a matrix, the next panel.
#[cfg(target_arch = "x86_64")]
fn behind(w: &ArrayView2<f32>, rows: &Range<usize>) -> Ahead {
    let (down, along) = (w.strides()[0], w.strides()[1]);
    let part = w.slice(s![rows.clone(), ..]);
    match rows.end < w.nrows() {
        true => Ahead::behind(&part, rows.len() as isize * down),
        false if along != 1 => Ahead::behind(&part, w.ncols() as isize * along - rows.start as isize * down),
        false => Ahead::nothing(),
    }
}

/// Parts of so many rows of w, of about one size.
#[cfg(target_arch = "x86_64")]
fn parts(rows: usize) -> impl Iterator<Item = Range<usize>> {
    let depth = rows.div_ceil(rows.div_ceil(DEPTH).max(1)).max(1);
    (0..rows).step_by(depth).map(move |first| first..rows.min(first + depth))
}

/// c (j, k) = wᵀ·x for few columns of w (n, j) and x (n, k), whose rows are contiguous; blocks of columns in parallel.
pub fn gather(w: ArrayView2<f32>, x: ArrayView2<f32>, mut c: ArrayViewMut2<f32>) {
    const WIDTH: usize = 96;
    let parts = x.axis_chunks_iter(Axis(1), WIDTH).into_par_iter();
    parts.zip(c.axis_chunks_iter_mut(Axis(1), WIDTH)).for_each(|(x, c)| {
        #[cfg(target_arch = "x86_64")]
        if let Some(isa) = Isa::all().next().filter(|isa| x.ncols().is_multiple_of(isa.lanes())) {
            profile::flops(2 * w.len() * x.ncols());
            return gather_in_lanes(isa, w, x, c);
        }
        product(w.t(), x, c, 1.0, 0.0);
    });
}

#[cfg(target_arch = "x86_64")]
fn gather_in_lanes(isa: Isa, w: ArrayView2<f32>, x: ArrayView2<f32>, c: ArrayViewMut2<f32>) {
    scratch(GATHERED * x.ncols(), |room| isa.run(Gather { w, x, room, c }));
}

#[cfg(test)]
mod tests {
    use super::super::matmul::tests::random;
    use super::*;
    use crate::rng::Philox;
    use ndarray::Array2;

    /// The sum of products in every way that it is computed, on this processor and with AVX-512's sizes.
    fn sums(terms: &[Term], finish: &Finish, y: &Array2<f32>) -> Vec<Array2<f32>> {
        let with = |f: &dyn Fn(ArrayViewMut2<f32>)| {
            let mut y = y.clone();
            f(y.view_mut());
            y
        };
        let mut sums = vec![with(&|y| sum_of_products(terms, finish, y)), with(&|y| by_gemm(terms, finish, y))];
        #[cfg(target_arch = "x86_64")]
        sums.extend(Isa::tested().map(|isa| with(&|y| packed(isa, terms, finish, y))));
        sums
    }

    fn near(got: &Array2<f32>, want: &Array2<f64>, depth: usize) {
        let most = 1e-5 * (depth as f64).sqrt().max(1.0);
        for (g, w) in got.iter().zip(want) {
            assert!((f64::from(*g) - w).abs() < most * w.abs().max(1.0), "{g}, not {w}: {:?} over {depth}", got.dim());
        }
    }

    /// More rows than a task has, more columns than a tile, more of both factors than are packed at once; factors as they lie and
    /// transposed.
    #[test]
    fn sums_of_products_agree_with_f64_at_awkward_sizes() {
        let mut rng = Philox::new(3, 0);
        let sizes = [
            (1, 7, 3),
            (6, 1, 1),
            (17, 300, 6),
            (64, 257, 13),
            (65, 16, 48),
            (131, 517, 97),
            (259, 43, 17),
            (25, 900, 131),
            (256, 0, 5),
            (0, 3, 4),
        ];
        for (n, k, j) in sizes {
            for transposed in [false, true] {
                let (x, h) = (random(&mut rng, (n, k + 2)), random(&mut rng, (n, 5)));
                let x = x.slice(s![.., 1..k + 1]);
                let (w, b) = (random(&mut rng, (k, j + 2)), random(&mut rng, (5, j)));
                let turned = w.t().as_standard_layout().to_owned();
                let w = if transposed { turned.t() } else { w.view() };
                let w = w.slice(s![.., 1..j + 1]);
                let gain: Vec<f32> = (0..k).map(|_| rng.normal()).collect();
                let (scale, bias): (Vec<f32>, Vec<f32>) = (0..j).map(|_| (rng.normal(), rng.normal())).unzip();
                let y0 = random(&mut rng, (n, j));
                let wide = |m: ArrayView2<f32>| m.mapv(f64::from);
                let scaled = wide(x) * Array2::from_shape_fn((n, k), |(_, c)| f64::from(gain[c]));
                let plain = scaled.dot(&wide(w)) + wide(h.view()).dot(&wide(b.view())) * 0.75;
                let terms = [
                    Term { rows: Some(&gain), ..Term::new(x, w) },
                    Term { factor: 0.75, ..Term::new(h.view(), b.view()) },
                ];
                let nothing = Array2::from_elem((n, j), f32::NAN);
                let columns = |v: &[f32]| Array2::from_shape_fn((n, j), |(_, c)| f64::from(v[c]));
                let both = &plain * &columns(&scale) + &columns(&bias);
                for (finish, y, want) in [
                    (Finish::default(), &nothing, plain.clone()),
                    (Finish { scale: Some(&scale), bias: Some(&bias), add: false }, &nothing, both),
                    (Finish { add: true, ..Finish::default() }, &y0, &plain + &wide(y0.view())),
                ] {
                    for y in sums(&terms, &finish, y) {
                        near(&y, &want, k + 5);
                    }
                }
            }
        }
    }

    #[test]
    fn products_over_many_rows_agree_with_f64() {
        let mut rng = Philox::new(4, 0);
        for (n, k, j) in [(1, 16, 1), (7, 48, 3), (64, 192, 16), (130, 200, 7), (521, 336, 8), (3, 5, 2), (0, 16, 2)] {
            let (x, v) = (random(&mut rng, (n, k)), random(&mut rng, (n, j)));
            let wide = |m: &Array2<f32>| m.mapv(f64::from);
            let want = wide(&v).t().dot(&wide(&x));
            let mut c = Array2::from_elem((j, k), f32::NAN);
            gather(v.view(), x.view(), c.view_mut());
            near(&c, &want, n);
            #[cfg(target_arch = "x86_64")]
            for isa in Isa::tested().filter(|isa| k.is_multiple_of(isa.lanes())) {
                c.fill(f32::NAN);
                gather_in_lanes(isa, v.view(), x.view(), c.view_mut());
                near(&c, &want, n);
            }
        }
    }
}
