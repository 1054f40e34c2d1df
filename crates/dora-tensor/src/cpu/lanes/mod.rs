//! Products of activations x (n, k) with a few rows of a matrix w (j, k): y = x·wᵀ. Where AVX-512 is at hand x is laid out once
//! with its rows side by side in the lanes of vectors, and elements of w are spread over a vector as they come: w is read
//! where it lies, once for every 64 rows of x, and never packed. So a product of few rows, which reads each weight for little
//! work, runs near the rate of a large one. Elsewhere, and for fewer rows than [`FEW`], the `gemm` crate does it.

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::for_rows;
use super::matmul::product;
use crate::profile;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};
use std::ops::Range;

/// Rows below which vectors would be mostly empty.
const FEW: usize = 6;

/// Activations (n, k), laid out for products.
pub struct Operand<'a>(Layout<'a>);

enum Layout<'a> {
    Plain(ArrayView2<'a, f32>),
    Scaled(Array2<f32>),
    #[cfg(target_arch = "x86_64")]
    Lanes(avx512::Lanes),
}

impl<'a> Operand<'a> {
    /// x (n, k), its column i times `gain[i]` where there is a gain.
    pub fn new(x: ArrayView2<'a, f32>, gain: Option<&[f32]>) -> Self {
        #[cfg(target_arch = "x86_64")]
        if x.nrows() >= FEW
            && let Some(lanes) = avx512::Lanes::new(x, gain)
        {
            return Operand(Layout::Lanes(lanes));
        }
        Operand(match gain {
            None => Layout::Plain(x),
            Some(gain) => {
                let mut scaled = x.as_standard_layout().into_owned();
                for_rows(scaled.view_mut(), |_, row| row.iter_mut().zip(gain).for_each(|(x, g)| *x *= g));
                Layout::Scaled(scaled)
            }
        })
    }

    /// Whether w is best read where it lies.
    pub fn reads_in_place(&self) -> bool {
        !matches!(self.0, Layout::Plain(_) | Layout::Scaled(_))
    }
}

/// x[:, columns]·wᵀ for w (j, columns) of any strides.
pub struct Term<'a, 'x> {
    /// x (n, k).
    pub x: &'a Operand<'x>,
    /// Columns of x.
    pub columns: Range<usize>,
    /// w.
    pub w: ArrayView2<'a, f32>,
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
            Layout::Lanes(lanes) => Some((lanes, term.columns.clone(), term.w)),
            Layout::Plain(_) | Layout::Scaled(_) => None,
        });
        if let Some(lanes) = lanes.collect::<Option<Vec<_>>>() {
            terms.iter().for_each(|term| profile::flops(2 * y.nrows() * y.ncols() * term.columns.len()));
            return avx512::sum_of_products(&lanes, finish, y);
        }
    }
    assert!(finish.scale.is_none() || !finish.add, "what is there already is not scaled");
    let mut beta = if finish.add { 1.0 } else { 0.0 };
    for term in terms {
        let x = match &term.x.0 {
            Layout::Plain(x) => *x,
            Layout::Scaled(x) => x.view(),
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

#[cfg(test)]
mod tests {
    use super::super::matmul::tests::random;
    use super::*;
    use crate::rng::Philox;

    #[test]
    fn sums_of_products_agree_with_f64_at_awkward_sizes() {
        let mut rng = Philox::new(3, 0);
        for (n, k, j) in
            [(1, 7, 3), (6, 1, 1), (17, 300, 6), (64, 257, 13), (65, 16, 48), (131, 517, 97), (16, 0, 5), (0, 3, 4)]
        {
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
                let (xs, hs) = (Operand::new(x.view(), Some(&gain)), Operand::new(h.view(), None));
                let terms = [
                    Term { x: &xs, columns: part.clone(), w: w.slice(s![.., part]) },
                    Term { x: &hs, columns: 0..5, w: b.view() },
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
                near(&y, &(plain + wide(y0.view())));
            }
        }
    }
}
