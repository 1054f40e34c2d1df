//! Matrix products through the `gemm` crate. The output is cut into panels of rows or columns, one single-threaded product
//! each; a panel's size depends on the shape alone, so a result does not depend on the number of threads.

use crate::profile;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rng::Philox;
    use ndarray::Array2;

    pub fn random(rng: &mut Philox, shape: (usize, usize)) -> Array2<f32> {
        Array2::from_shape_simple_fn(shape, || rng.normal())
    }

    pub fn check(got: &Array2<f32>, a: &Array2<f32>, b: &Array2<f32>) {
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

    pub const SIZES: [(usize, usize, usize); 9] = [
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
}
