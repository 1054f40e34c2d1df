//! Products of activations x (n, k) with a few rows of a matrix w (j, k): y = x·wᵀ. Where AVX2 or AVX-512 is at hand x is laid
//! out once with its rows side by side in the lanes of vectors, and elements of w are spread over a vector as they come: for few
//! rows, where each weight that is read does little work, w is read where it lies, so that their product runs near the rate of a
//! large one; for many it is packed first. Elsewhere, and for fewer rows than [`FEW`], the `gemm` crate does it.

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
use crate::profile;
#[cfg(target_arch = "x86_64")]
use ahead::Ahead;
#[cfg(target_arch = "x86_64")]
pub use attention::{KeyHead, Queries};
#[cfg(target_arch = "x86_64")]
use kernel::{Factor, GATHERED, Gather, LanesTerm, ROWS, SumOfProducts};
#[cfg(target_arch = "x86_64")]
use layout::Lanes;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
#[cfg(target_arch = "x86_64")]
use pack::PackRows;
use rayon::prelude::*;
use std::ops::Range;
pub use through::{Gradient, through};
#[cfg(target_arch = "x86_64")]
use vector::{Isa, MOST_LANES};

/// Rows below which vectors would be mostly empty.
const FEW: usize = 6;

/// Rows of x from which on w is packed for them, where its rows are contiguous, and that go through a packed w together. Fewer do
/// not pay for it.
#[cfg(target_arch = "x86_64")]
const PACKED_FROM: usize = 256;

/// Activations (n, k), laid out for products.
pub struct Operand<'a>(Layout<'a>);

enum Layout<'a> {
    /// Row-major elements and (n, k); not a view, whose lifetime could not be shortened.
    Plain(&'a [f32], (usize, usize)),
    Own(Array2<f32>),
    #[cfg(target_arch = "x86_64")]
    Lanes(Lanes),
}

impl<'a> Operand<'a> {
    /// x (n, k), its column i times `gain[i]` where there is a gain.
    pub fn new(x: ArrayView2<'a, f32>, gain: Option<&[f32]>) -> Self {
        #[cfg(target_arch = "x86_64")]
        if x.nrows() >= FEW
            && let Some(isa) = Isa::all().next()
        {
            return Self::lanes(isa, x, gain);
        }
        Self::plain(x, gain)
    }

    #[cfg(target_arch = "x86_64")]
    fn lanes(isa: Isa, x: ArrayView2<'a, f32>, gain: Option<&[f32]>) -> Self {
        Operand(Layout::Lanes(Lanes::new(isa, x, gain)))
    }

    /// For `gemm`.
    fn plain(x: ArrayView2<'a, f32>, gain: Option<&[f32]>) -> Self {
        if let (None, Some(elements)) = (gain, x.to_slice()) {
            return Operand(Layout::Plain(elements, x.dim()));
        }
        let mut own = x.as_standard_layout().into_owned();
        if let Some(gain) = gain {
            for_rows(own.view_mut(), |_, row| row.iter_mut().zip(gain).for_each(|(x, g)| *x *= g));
        }
        Operand(Layout::Own(own))
    }

    /// Whether w is best read where it lies.
    pub fn reads_in_place(&self) -> bool {
        !matches!(self.0, Layout::Plain(..) | Layout::Own(_))
    }

    /// Whether w is packed for it.
    pub fn packs(&self) -> bool {
        match &self.0 {
            Layout::Plain(..) | Layout::Own(_) => false,
            #[cfg(target_arch = "x86_64")]
            Layout::Lanes(x) => x.rows() >= PACKED_FROM,
        }
    }
}

/// x[:, columns]·wᵀ for w (j, columns) of any strides.
pub struct Term<'a> {
    /// x (n, k).
    pub x: &'a Operand<'a>,
    /// Columns of x.
    pub columns: Range<usize>,
    /// w.
    pub w: ArrayView2<'a, f32>,
    /// Whether the memory behind w is wanted next.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only lanes ask for it"))]
    goes_on: bool,
}

impl<'a> Term<'a> {
    /// x[:, columns]·wᵀ.
    pub fn new(x: &'a Operand<'a>, columns: Range<usize>, w: ArrayView2<'a, f32>) -> Self {
        Term { x, columns, w, goes_on: false }
    }

    /// The same, for a w in memory behind which its next rows lie.
    pub fn of_many(x: &'a Operand<'a>, columns: Range<usize>, w: ArrayView2<'a, f32>) -> Self {
        Term { goes_on: true, ..Self::new(x, columns, w) }
    }
}

/// What is done with a sum of products.
#[derive(Default)]
pub struct Finish<'a> {
    /// Column i of the sum is multiplied by `scale[i]`.
    pub scale: Option<&'a [f32]>,
    /// Is added to every row then.
    pub bias: Option<&'a [f32]>,
    /// Whether y stays, and the rest is added to it.
    pub add: bool,
}

/// y (n, j), of contiguous rows, becomes the sum of the terms, all of one n.
pub fn sum_of_products(terms: &[Term], finish: &Finish, mut y: ArrayViewMut2<f32>) {
    for term in terms {
        assert_eq!((term.w.nrows(), term.w.ncols()), (y.ncols(), term.columns.len()), "w of a product");
    }
    #[cfg(target_arch = "x86_64")]
    {
        let lanes = terms.iter().map(|term| match &term.x.0 {
            Layout::Lanes(x) => Some((x, term)),
            Layout::Plain(..) | Layout::Own(_) => None,
        });
        if let Some(terms) = lanes.collect::<Option<Vec<_>>>() {
            terms.iter().for_each(|(_, term)| profile::flops(2 * y.nrows() * y.ncols() * term.columns.len()));
            return packed_in_lanes(&terms, finish, y);
        }
    }
    assert!(finish.scale.is_none() || !finish.add, "what is there already is not scaled");
    let mut beta = if finish.add { 1.0 } else { 0.0 };
    for term in terms {
        let x = match &term.x.0 {
            Layout::Plain(elements, dim) => ArrayView2::from_shape(*dim, elements).expect("of that size"),
            Layout::Own(x) => x.view(),
            #[cfg(target_arch = "x86_64")]
            Layout::Lanes(_) => unreachable!("operands of as many rows have one layout"),
        };
        product(x.slice(s![.., term.columns.clone()]), term.w.t(), y.view_mut(), 1.0, beta);
        beta = 1.0;
    }
    if let Some(scale) = finish.scale {
        for_rows(y.view_mut(), |_, row| super::simd(|| row.iter_mut().zip(scale).for_each(|(y, g)| *y *= g)));
    }
    if let Some(bias) = finish.bias {
        for_rows(y, |_, row| super::simd(|| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b)));
    }
}

/// y becomes the sum of the terms, whose w is packed first if that pays.
#[cfg(target_arch = "x86_64")]
fn packed_in_lanes(terms: &[(&Lanes, &Term)], finish: &Finish, mut y: ArrayViewMut2<f32>) {
    let many = y.nrows() >= PACKED_FROM;
    let packs = |w: &ArrayView2<f32>| many && !w.is_empty() && w.strides()[1] == 1;
    let room = terms.iter().filter(|(_, term)| packs(&term.w)).map(|(_, term)| term.w.len() + MOST_LANES).sum();
    scratch(room, |mut room| {
        let mut ahead = Ahead::nothing();
        let mut of_lanes = Vec::with_capacity(terms.len());
        for (x, term) in terms {
            let w = if packs(&term.w) {
                let (packed, rest) = room.split_at_mut(term.w.len() + MOST_LANES);
                room = rest;
                x.isa().run(PackRows { w: term.w, packed });
                Factor::Packed(&packed[..term.w.len()], term.w.nrows())
            } else {
                if term.goes_on {
                    ahead = Ahead::behind(&term.w);
                }
                Factor::View(term.w)
            };
            of_lanes.push(LanesTerm { x, columns: term.columns.clone(), w });
        }
        if !many {
            return in_lanes(&of_lanes, finish, ahead, 0, y);
        }
        let chunks = y.axis_chunks_iter_mut(Axis(0), PACKED_FROM).into_par_iter().enumerate();
        chunks.for_each(|(i, y)| in_lanes(&of_lanes, finish, Ahead::nothing(), i * PACKED_FROM, y));
    });
}

/// y, the rows of x from `first` on, becomes the sum of the terms.
#[cfg(target_arch = "x86_64")]
fn in_lanes(terms: &[LanesTerm], finish: &Finish, ahead: Ahead, first: usize, y: ArrayViewMut2<f32>) {
    let isa = terms.first().expect("a sum has terms").x.isa();
    scratch(y.ncols() * isa.block(), |sums| isa.run(SumOfProducts { terms, finish, ahead, first, sums, y }));
}

/// y (n, j) = x·wᵀ ⊙ scale for few rows of w (j, k): blocks of x's rows, and a few rows of w each, in parallel.
pub fn product_by_rows(x: &Operand, w: ArrayView2<f32>, scale: Option<&[f32]>, mut y: ArrayViewMut2<f32>) {
    #[cfg(target_arch = "x86_64")]
    if let Layout::Lanes(lanes) = &x.0 {
        profile::flops(2 * y.nrows() * w.len());
        let size = lanes.isa().block();
        let blocks = y.axis_chunks_iter_mut(Axis(0), size).into_par_iter().enumerate();
        return blocks.for_each(|(block, mut y)| {
            let parts = y.axis_chunks_iter_mut(Axis(1), ROWS).into_par_iter();
            parts.zip(w.axis_chunks_iter(Axis(0), ROWS)).enumerate().for_each(|(part, (y, w))| {
                let scale = scale.map(|scale| &scale[part * ROWS..][..w.nrows()]);
                let finish = Finish { scale, ..Finish::default() };
                let term = LanesTerm { x: lanes, columns: 0..w.ncols(), w: Factor::View(w) };
                in_lanes(&[term], &finish, Ahead::nothing(), block * size, y);
            });
        });
    }
    let finish = Finish { scale, ..Finish::default() };
    sum_of_products(&[Term::new(x, 0..w.ncols(), w)], &finish, y);
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

    /// x in every layout that this processor multiplies.
    pub fn layouts<'a>(x: ArrayView2<'a, f32>, gain: Option<&[f32]>) -> Vec<Operand<'a>> {
        let mut layouts = vec![Operand::plain(x, gain)];
        #[cfg(target_arch = "x86_64")]
        layouts.extend(Isa::tested().map(|isa| Operand::lanes(isa, x, gain)));
        layouts
    }

    #[test]
    fn sums_of_products_agree_with_f64_at_awkward_sizes() {
        let mut rng = Philox::new(3, 0);
        for (n, k, j) in [
            (1, 7, 3),
            (6, 1, 1),
            (17, 300, 6),
            (64, 257, 13),
            (65, 16, 48),
            (131, 517, 97),
            (259, 43, 17),
            (256, 0, 5),
            (0, 3, 4),
        ] {
            for transposed in [false, true] {
                let (x, h) = (random(&mut rng, (n, k)), random(&mut rng, (n, 5)));
                let (w, b) = (random(&mut rng, (j, k + 2)), random(&mut rng, (j, 5)));
                let turned = w.t().as_standard_layout().to_owned();
                let w = if transposed { turned.t() } else { w.view() };
                let w = w.slice(s![.., 1..k + 1]);
                let gain: Vec<f32> = (0..k).map(|_| rng.normal()).collect();
                let (scale, bias): (Vec<f32>, Vec<f32>) = (0..j).map(|_| (rng.normal(), rng.normal())).unzip();
                let y0 = random(&mut rng, (n, j));
                let wide = |m: ArrayView2<f32>| m.mapv(f64::from);
                let scaled = wide(x.view()) * Array2::from_shape_fn((n, k), |(_, c)| f64::from(gain[c]));
                let (part, rest) = (k / 3..k, wide(h.view()).dot(&wide(b.t())));
                let plain = scaled.slice(s![.., part.clone()]).dot(&wide(w.slice(s![.., part.clone()])).t()) + &rest;
                for (xs, hs) in layouts(x.view(), Some(&gain)).into_iter().zip(layouts(h.view(), None)) {
                    let terms = [
                        Term::of_many(&xs, part.clone(), w.slice(s![.., part.clone()])),
                        Term::new(&hs, 0..5, b.view()),
                    ];
                    let near = |got: &Array2<f32>, want: &Array2<f64>| {
                        let most = 1e-5 * (k as f64).sqrt().max(1.0);
                        for (g, w) in got.iter().zip(want) {
                            assert!((f64::from(*g) - w).abs() < most * w.abs().max(1.0), "{g}, not {w}: {n} {k} {j}");
                        }
                    };
                    let mut y = Array2::from_elem((n, j), f32::NAN);
                    sum_of_products(&terms, &Finish::default(), y.view_mut());
                    near(&y, &plain);
                    let mut y = Array2::from_elem((n, j), f32::NAN);
                    let finish = Finish { scale: Some(&scale), bias: Some(&bias), add: false };
                    sum_of_products(&terms, &finish, y.view_mut());
                    let columns = |v: &[f32]| Array2::from_shape_fn((n, j), |(_, c)| f64::from(v[c]));
                    near(&y, &(&plain * &columns(&scale) + &columns(&bias)));
                    let mut y = y0.clone();
                    sum_of_products(&terms, &Finish { add: true, ..Finish::default() }, y.view_mut());
                    near(&y, &(&plain + &wide(y0.view())));
                }
            }
        }
    }

    #[test]
    fn products_with_few_rows_or_columns_agree_with_f64() {
        let mut rng = Philox::new(4, 0);
        for (n, k, j) in [(1, 16, 1), (7, 48, 3), (64, 192, 16), (130, 200, 7), (521, 336, 8), (3, 5, 2), (0, 16, 2)] {
            let (x, w, v) = (random(&mut rng, (n, k)), random(&mut rng, (j, k)), random(&mut rng, (n, j)));
            let scale: Vec<f32> = (0..j).map(|_| rng.normal()).collect();
            let wide = |m: &Array2<f32>| m.mapv(f64::from);
            let near = |got: &Array2<f32>, want: &Array2<f64>, depth: usize| {
                for (g, w) in got.iter().zip(want) {
                    let most = 1e-5 * (depth as f64).sqrt().max(1.0);
                    assert!((f64::from(*g) - w).abs() < most * w.abs().max(1.0), "{g}, not {w}: {n} {k} {j}");
                }
            };
            let want = wide(&x).dot(&wide(&w).t()) * Array2::from_shape_fn((n, j), |(_, c)| f64::from(scale[c]));
            for x in layouts(x.view(), None) {
                let mut y = Array2::from_elem((n, j), f32::NAN);
                product_by_rows(&x, w.view(), Some(&scale), y.view_mut());
                near(&y, &want, k);
            }
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
