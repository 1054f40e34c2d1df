//! Products of activations x (n, k), as they lie, with a matrix w (k, j). Where AVX2 or AVX-512 is at hand w is packed, some hundred
//! of its rows and columns at a time, so that columns stand side by side in the lanes of vectors, and elements of x are spread over
//! a vector as they come. What w's rows are multiplied by is multiplied into it as it is packed; columns of the sum are scaled as y is
//! written, as it lies. Elsewhere, and for fewer than 6 rows, the `gemm` crate does it.

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
use kernel::{Gather, PackedProduct, Product, ROWS};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
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

/// Rows, at most, of a later term that go with the last ones of an earlier term, so that what they add is not written in between.
pub(super) const JOINED: usize = 64;

/// Rows of x that are one task, at most.
#[cfg(target_arch = "x86_64")]
const TASK: usize = 48;

/// Columns that [`gather`] takes at a time.
const STRIP: usize = 96;
/// Rows of them that are added up before their sum is added to others.
const GATHERED: usize = 128;

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
    /// Rows of w, at most, that are packed and added up at a time.
    pub depth: usize,
}

impl<'a> Term<'a> {
    /// x·w.
    pub fn new(x: ArrayView2<'a, f32>, w: ArrayView2<'a, f32>) -> Self {
        Term { x, w, rows: None, factor: 1.0, goes_on: false, depth: DEPTH }
    }

    /// The same in fewer goes, where all columns of w are few.
    pub fn narrow(self) -> Self {
        const COLUMNS: usize = 64;
        Term { depth: DEPTH.max(DEPTH * COLUMNS / self.w.ncols().max(1)), ..self }
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

/// What the columns of a sum of products are multiplied by.
#[derive(Clone, Copy)]
pub enum Scale<'a> {
    /// Values at hand.
    By(&'a [f32]),
    /// Those that are made of a·w, for the first term's w, which is at hand for it.
    Of {
        /// a (r, k), of contiguous rows.
        a: ArrayView2<'a, f32>,
        /// Makes the values of a·w (r, j).
        make: &'a dyn Fn(ArrayView2<f32>) -> Vec<f32>,
    },
}

impl Scale<'_> {
    /// The values for so many columns, where a·w can be had.
    fn values(self, columns: usize, product: impl FnOnce(ArrayView2<f32>) -> Array2<f32>) -> Vec<f32> {
        let values = match self {
            Scale::By(values) => values.to_vec(),
            Scale::Of { a, make } => make(product(a).view()),
        };
        assert!(values.len() == columns, "a value for each column");
        values
    }
}

/// What is done with a sum of products.
#[derive(Default)]
pub struct Finish<'a> {
    /// Column i of the sum is multiplied by value i.
    pub scale: Option<Scale<'a>>,
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

/// y (n, j), of contiguous rows, becomes the sum of the terms, at least one; rows of x in parallel.
pub fn sum_of_products(terms: &[Term], finish: &Finish, y: ArrayViewMut2<f32>) {
    for Term { x, w, rows, .. } in terms {
        let same = x.ncols() == w.nrows() && rows.is_none_or(|rows| rows.len() == w.nrows());
        assert!(same && x.nrows() == y.nrows() && w.ncols() == y.ncols(), "factors of one size");
    }
    assert!(!finish.add || finish.scale.is_none() && finish.bias.is_none(), "what is there already is only added to");
    if let Some(Scale::Of { a, .. }) = finish.scale {
        let Term { w, rows, factor, .. } = terms[0];
        assert!(rows.is_none() && factor == 1.0 && a.ncols() == w.nrows(), "a·w is of w itself");
    }
    assert!(finish.bias.is_none_or(|bias| bias.len() == y.ncols()), "a value for each column");
    #[cfg(target_arch = "x86_64")]
    if let Some(isa) = Isa::all().next().filter(|_| y.nrows() >= FEW) {
        return packed(isa, terms, finish, y);
    }
    by_gemm(terms, finish, y);
}

/// The sum by the `gemm` crate.
fn by_gemm(terms: &[Term], finish: &Finish, mut y: ArrayViewMut2<f32>) {
    let scale = finish.scale.map(|scale| {
        scale.values(y.ncols(), |a| {
            let mut u = Array2::zeros((a.nrows(), terms[0].w.ncols()));
            product(a, terms[0].w, u.view_mut(), 1.0, 0.0);
            u
        })
    });
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
    if let Some(scale) = scale {
        for_rows(y.view_mut(), |_, row| simd(|| row.iter_mut().zip(&scale).for_each(|(y, g)| *y *= g)));
    }
    if let Some(bias) = finish.bias {
        for_rows(y, |_, row| simd(|| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b)));
    }
}

/// The sum with factors w that are packed; y carries it from go to go.
#[cfg(target_arch = "x86_64")]
fn packed(isa: Isa, terms: &[Term], finish: &Finish, mut y: ArrayViewMut2<f32>) {
    let (n, j) = y.dim();
    let (tile, filled) = (isa.tile(j), j.next_multiple_of(isa.lanes()));
    let task = n.div_ceil(n.div_ceil(TASK).max(1)).max(1).next_multiple_of(ROWS);
    let mut u = match finish.scale {
        Some(Scale::Of { a, .. }) => Array2::zeros((a.nrows(), j)),
        _ => Array2::default((0, 0)),
    };
    let goes = goes(terms);
    for (i, go) in goes.iter().enumerate() {
        let add = finish.add || i > 0;
        let parts: Vec<Term> = go.iter().map(|(term, rows)| terms[*term].of_rows(rows.clone())).collect();
        scratch(parts.iter().map(|part| part.w.nrows() * filled).sum(), |mut room| {
            let mut factors = Vec::with_capacity(parts.len());
            for &Term { x, w, rows: by_row, factor, .. } in &parts {
                let (packed, rest) = std::mem::take(&mut room).split_at_mut(w.nrows() * filled);
                isa.run(PackColumns { w, by_row, factor, tile, packed });
                room = rest;
                factors.push(Product { x, w: packed });
            }
            if let Some((Scale::Of { a, .. }, (0, rows))) = finish.scale.zip(go.first().cloned()) {
                let factors = &[Product { x: a.slice(s![.., rows]), w: factors[0].w }];
                profile::flops(2 * u.len() * factors[0].x.ncols());
                let (rows, ahead) = (0..a.nrows(), Ahead::nothing());
                isa.run(PackedProduct { factors, rows, tile, add: i > 0, by: None, ahead, y: u.view_mut() });
            }
            let by = if i + 1 == goes.len() { finish.by_column(u.view(), (j, filled)) } else { None };
            let by = by.as_ref().map(|(scale, bias)| (&scale[..], &bias[..]));
            let ahead = match &go[0] {
                (term, rows) if terms[*term].goes_on => behind(&terms[*term].w, rows),
                _ => Ahead::nothing(),
            };
            y.axis_chunks_iter_mut(Axis(0), task).into_par_iter().enumerate().for_each(|(i, y)| {
                let rows = i * task..i * task + y.nrows();
                profile::flops(2 * y.len() * factors.iter().map(|factor| factor.x.ncols()).sum::<usize>());
                let ahead = ahead.part(rows.clone(), n);
                isa.run(PackedProduct { factors: &factors, rows, tile, add, by, ahead, y });
            });
        });
    }
}

#[cfg(target_arch = "x86_64")]
impl Finish<'_> {
    /// What columns are multiplied by, and what is added to them, filled up to so many.
    fn by_column(&self, u: ArrayView2<f32>, (columns, filled): (usize, usize)) -> Option<(Vec<f32>, Vec<f32>)> {
        if self.scale.is_none() && self.bias.is_none() {
            return None;
        }
        let mut scale = self.scale.map_or(Vec::new(), |scale| scale.values(columns, |_| u.to_owned()));
        let mut bias = self.bias.map_or(Vec::new(), <[f32]>::to_vec);
        scale.resize(filled, 1.0);
        bias.resize(filled, 0.0);
        Some((scale, bias))
    }
}

/// Parts of the terms' w, each by its term and rows, that are packed and added up in one go: by the terms alone, so that no sum
/// depends on what lies beside it.
#[cfg(target_arch = "x86_64")]
fn goes(terms: &[Term]) -> Vec<Vec<(usize, Range<usize>)>> {
    let mut goes: Vec<Vec<(usize, Range<usize>)>> = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let rows = term.w.nrows();
        let depth = rows.div_ceil(rows.div_ceil(term.depth).max(1)).max(1);
        for first in (0..rows.max(1)).step_by(depth) {
            let part = (i, first..rows.min(first + depth));
            match goes.last_mut() {
                Some(go) if first == 0 && rows <= JOINED => go.push(part),
                _ => goes.push(vec![part]),
            }
        }
    }
    goes
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

/// Σ_rows x ⊙ (y − before − less), a value for each column.
pub struct Dots<'a> {
    /// y (n, k), of contiguous rows.
    pub y: ArrayView2<'a, f32>,
    /// As y.
    pub before: Option<ArrayView2<'a, f32>>,
    /// Is subtracted from every row.
    pub less: Option<&'a [f32]>,
    /// The values.
    pub sums: &'a mut [f32],
}

impl<'a> Dots<'a> {
    /// For strips of so many columns.
    fn strips(self, width: usize) -> Vec<Dots<'a>> {
        let Dots { y, before, less, sums } = self;
        let strip = |(i, sums): (usize, &'a mut [f32])| {
            let columns = i * width..i * width + sums.len();
            let of = |rows: ArrayView2<'a, f32>| rows.slice_move(s![.., columns.clone()]);
            Dots { y: of(y), before: before.map(of), less: less.map(|less| &less[columns.clone()]), sums }
        };
        sums.chunks_mut(width).enumerate().map(strip).collect()
    }
}

/// c (j, k) = wᵀ·x for few columns of w (n, j) and x (n, k), whose rows are contiguous, and what is wanted of x beside it; strips of
/// columns in parallel.
pub fn gather(w: ArrayView2<f32>, x: ArrayView2<f32>, dots: Option<Dots>, mut c: ArrayViewMut2<f32>) {
    if let Some(Dots { y, before, less, sums }) = &dots {
        let same = y.dim() == x.dim() && before.is_none_or(|before| before.dim() == x.dim());
        assert!(same && sums.len() == x.ncols() && less.is_none_or(|less| less.len() == x.ncols()), "of one size");
    }
    let mut dots = dots.map_or(Vec::new(), |dots| dots.strips(STRIP)).into_iter();
    let strips: Vec<_> = c.axis_chunks_iter_mut(Axis(1), STRIP).map(|c| (c, dots.next())).collect();
    strips.into_par_iter().zip(x.axis_chunks_iter(Axis(1), STRIP)).for_each(|((c, dots), x)| {
        #[cfg(target_arch = "x86_64")]
        if let Some(isa) = Isa::all().next().filter(|isa| x.ncols().is_multiple_of(isa.lanes())) {
            return gather_in_lanes(isa, w, x, dots, c);
        }
        product(w.t(), x, c, 1.0, 0.0);
        if let Some(Dots { y, before, less, sums }) = dots {
            sums.fill(0.0);
            for first in (0..x.nrows()).step_by(GATHERED) {
                let mut part = [0.0; STRIP];
                for row in first..x.nrows().min(first + GATHERED) {
                    for (i, part) in part.iter_mut().enumerate().take(sums.len()) {
                        let y = y[[row, i]] - before.map_or(0.0, |before| before[[row, i]]);
                        *part += x[[row, i]] * (y - less.map_or(0.0, |less| less[i]));
                    }
                }
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
        }
    });
}

#[cfg(target_arch = "x86_64")]
fn gather_in_lanes(isa: Isa, w: ArrayView2<f32>, x: ArrayView2<f32>, dots: Option<Dots>, c: ArrayViewMut2<f32>) {
    profile::flops(2 * w.len() * x.ncols());
    scratch(GATHERED * x.ncols(), |room| isa.run(Gather { w, x, dots, room, c }));
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
                let a = random(&mut rng, (2, k));
                let a_w = wide(a.view()).dot(&wide(w));
                let make = |u: ArrayView2<f32>| {
                    near(&u.to_owned(), &a_w, k);
                    u.row(1).to_vec()
                };
                let of = Finish { scale: Some(Scale::Of { a: a.view(), make: &make }), ..Finish::default() };
                let made =
                    (wide(x).dot(&wide(w)) + wide(h.view()).dot(&wide(b.view())) * 0.75) * a_w.slice(s![1..2, ..]);
                for y in sums(&[Term::new(x, w), terms[1]], &of, &nothing) {
                    near(&y, &made, (k + 5) * (k + 5));
                }
                for (finish, y, want) in [
                    (Finish::default(), &nothing, plain.clone()),
                    (Finish { scale: Some(Scale::By(&scale)), bias: Some(&bias), add: false }, &nothing, both),
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
        for (n, k, j) in
            [(1, 16, 1), (7, 48, 3), (64, 96, 16), (130, 200, 7), (521, 336, 8), (300, 80, 5), (3, 5, 2), (0, 16, 2)]
        {
            let (x, v) = (random(&mut rng, (n, k)), random(&mut rng, (n, j)));
            let wide = |m: &Array2<f32>| m.mapv(f64::from);
            let want = wide(&v).t().dot(&wide(&x));
            let (y, y0) = (random(&mut rng, (n, k)), random(&mut rng, (n, k)));
            let b: Vec<f32> = (0..k).map(|_| rng.normal()).collect();
            for (before, less) in
                [(None, None), (None, Some(&b[..])), (Some(y0.view()), None), (Some(y0.view()), Some(&b))]
            {
                let from = |at: [usize; 2]| {
                    let both = before.map_or(0.0, |before| before[at]) + less.map_or(0.0, |less| less[at[1]]);
                    f64::from(x[at]) * (f64::from(y[at]) - f64::from(both))
                };
                let want_sums = Array2::from_shape_fn((1, k), |(_, i)| (0..n).map(|row| from([row, i])).sum());
                let check = |f: &dyn Fn(Dots, ArrayViewMut2<f32>)| {
                    let (mut c, mut sums) = (Array2::from_elem((j, k), f32::NAN), Array2::from_elem((1, k), f32::NAN));
                    let dots = Dots { y: y.view(), before, less, sums: sums.as_slice_mut().unwrap() };
                    f(dots, c.view_mut());
                    near(&c, &want, n);
                    near(&sums, &want_sums, n);
                };
                check(&|dots, c| gather(v.view(), x.view(), Some(dots), c));
                #[cfg(target_arch = "x86_64")]
                for isa in Isa::tested().filter(|isa| k <= STRIP && k.is_multiple_of(isa.lanes())) {
                    check(&|dots, c| gather_in_lanes(isa, v.view(), x.view(), Some(dots), c));
                }
            }
        }
    }
}
