//! dx (n, in) = (gain ⊙ dy)·W, a run of W's columns at a time.

use super::{Finish, Term, sum_of_products};
use crate::cpu::{Stored, for_column_panels};
use ndarray::{ArrayView2, ArrayViewMut2, s};

/// dx (n, in) = (gain ⊙ dy)·W for dy (n, out), and the product `low` added to it.
pub fn through(dy: ArrayView2<f32>, gain: Option<&[f32]>, w: &dyn Stored, low: Option<Term>, dx: ArrayViewMut2<f32>) {
    let (out, _) = w.dim();
    for_column_panels(w, dx, |rows, columns, panel, dx| {
        let finish = Finish { add: rows.start > 0, ..Finish::default() };
        let base = panel.term(dy.slice(s![.., rows.clone()]));
        let mut terms = vec![Term { rows: gain.map(|gain| &gain[rows.clone()]), ..base }];
        if let Some(low) = low.as_ref().filter(|_| rows.end == out) {
            terms.push(low.of_columns(columns));
        }
        sum_of_products(&terms, &finish, dx);
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::matmul::tests::random;
    use super::*;
    use crate::cpu::Widen;
    use crate::rng::Philox;
    use crate::{DType, DenseWeight, Nf4Options, Nf4Weight, Tensor, Weight};
    use half::bf16;
    use ndarray::Array2;

    /// With one run of columns and several, one part of rows and several, and a low-rank term of a rank that is large.
    #[test]
    fn gradients_go_through_weights_of_every_precision() {
        let mut rng = Philox::new(5, 0);
        let sizes = [
            (1, 1, 1, 1),
            (6, 7, 5, 2),
            (7, 200, 96, 3),
            (65, 193, 100, 17),
            (130, 401, 49, 5),
            (16, 97, 1160, 1),
            (521, 30, 51, 4),
            (20, 50, 40, 300),
            (33, 1000, 70, 3),
            (9, 0, 11, 2),
            (0, 5, 7, 2),
        ];
        for (n, out, inner, rank) in sizes {
            let wide = random(&mut rng, (out, inner)).mapv(|x| bf16::from_f32(x).widen());
            let tensor = Tensor::of(wide.iter().copied().collect::<Vec<_>>(), &[out, inner]);
            let mut weights: Vec<(Box<dyn Weight>, Array2<f32>)> = Vec::new();
            for dtype in [DType::F32, DType::BF16] {
                weights.push((Box::new(DenseWeight::new(tensor.to_dtype(dtype)).unwrap()), wide.clone()));
            }
            let nf4 = Nf4Weight::quantize(&tensor, Nf4Options::default()).unwrap();
            let rounded = nf4.dense().unwrap().view2("test", "w").unwrap().to_owned();
            weights.push((Box::new(nf4), rounded));
            let (dy, gain) = (random(&mut rng, (n, out)), random(&mut rng, (1, out)));
            let (dh, a) = (random(&mut rng, (n, rank)), random(&mut rng, (rank, inner)));
            let dz = &dy * &gain;
            let f64s = |m: &Array2<f32>| m.mapv(f64::from);
            let low = f64s(&dh).dot(&f64s(&a));
            let near = |got: &Array2<f32>, want: &Array2<f64>| {
                let most = 1e-5 * ((out + rank) as f64).sqrt().max(1.0);
                for (g, w) in got.iter().zip(want) {
                    assert!((f64::from(*g) - w).abs() < most * w.abs().max(1.0), "{g}, not {w}: {n} {out} {inner}");
                }
            };
            for (weight, w) in &weights {
                let (stored, base) = (weight.stored().unwrap(), f64s(&dz).dot(&f64s(w)));
                let mut dx = Array2::from_elem((n, inner), f32::NAN);
                let low_term = Term::new(dh.view(), a.view());
                through(dy.view(), gain.as_slice(), stored, Some(low_term), dx.view_mut());
                near(&dx, &(&base + &low));
                let mut dx = Array2::from_elem((n, inner), f32::NAN);
                through(dz.view(), None, stored, None, dx.view_mut());
                near(&dx, &base);
            }
        }
    }

    #[test]
    fn the_number_of_threads_moves_no_bit() {
        let mut rng = Philox::new(6, 0);
        for (n, out, inner) in [(65, 200, 1153), (9, 70, 400), (1100, 40, 50)] {
            let w = random(&mut rng, (out, inner));
            let w: Box<dyn Weight> =
                Box::new(DenseWeight::new(Tensor::of(w.iter().copied().collect::<Vec<_>>(), &[out, inner])).unwrap());
            let dy = random(&mut rng, (n, out));
            let of = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut dx = Array2::from_elem((n, inner), f32::NAN);
                pool.install(|| through(dy.view(), None, w.stored().unwrap(), None, dx.view_mut()));
                dx
            };
            let one = of(1);
            assert!(one.iter().all(|x| x.is_finite()));
            assert!([2, 3, 16].into_iter().all(|threads| of(threads) == one), "{n} {out} {inner}");
        }
    }
}
