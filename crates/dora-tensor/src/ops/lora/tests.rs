//! Against f64, with and without bias and dropout, in every size that is awkward.

use super::{LowRank, lora_linear};
use crate::gradcheck::{Input, gradcheck};
use crate::ops::Dropout;
use crate::rng::Stream;
use crate::{DType, DenseWeight, Tensor, Weight};
use std::sync::Arc;

/// (n, in, out, r).
pub(crate) const SIZES: [(usize, usize, usize, usize); 7] =
    [(1, 1, 1, 1), (3, 7, 5, 2), (5, 13, 11, 3), (0, 3, 2, 1), (2, 31, 17, 7), (4, 3, 2, 5), (9, 40, 32, 3)];

/// A frozen bf16 weight and its values.
pub(crate) fn weight(seed: u64, out: usize, inner: usize) -> (Arc<dyn Weight>, Vec<f64>) {
    let stored = Input::normal(seed, 9, &[out, inner]).tensor().to_dtype(DType::BF16);
    let exact = stored.to_vec().into_iter().map(f64::from).collect();
    (Arc::new(DenseWeight::new(stored).unwrap()), exact)
}

/// a (n, k) · b (m, k)ᵀ.
pub(crate) fn dot_rows(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    a.chunks(k).flat_map(|a| b.chunks(k).map(move |b| dot(a, b))).collect()
}

/// The mask of `dropout`, as factors.
pub(crate) fn mask(dropout: Option<Dropout>, len: usize) -> Vec<f64> {
    let ones = Tensor::from_vec(vec![1.0; len], &[len]).unwrap();
    let kept = dropout.map_or(ones.clone(), |d| d.apply(ones).unwrap());
    kept.to_vec().into_iter().map(f64::from).collect()
}

#[test]
fn agrees_with_f64() {
    let stream = Stream { seed: 4, step: 2, op: 1 };
    for (seed, (n, inner, out, r)) in SIZES.into_iter().enumerate() {
        for dropout in [None, Some(Dropout::new(0.3, stream).unwrap())] {
            let seed = seed as u64;
            let (weight, w) = weight(seed, out, inner);
            let inputs = [
                Input::normal(seed, 0, &[n, inner]),
                Input::normal(seed, 1, &[r, inner]),
                Input::normal(seed, 2, &[out, r]),
                Input::normal(seed, 3, &[out]),
            ];
            gradcheck(
                &inputs,
                1e-5,
                |t| {
                    let update = LowRank { a: t[1].clone(), b: t[2].clone(), scaling: 0.75, dropout };
                    lora_linear(&t[0], &weight, Some(&t[3]), &update)
                },
                |v| {
                    let dropped: Vec<f64> = v[0].iter().zip(mask(dropout, n * inner)).map(|(x, k)| x * k).collect();
                    let low = dot_rows(&dot_rows(&dropped, &v[1], inner), &v[2], r);
                    let base = dot_rows(&v[0], &w, inner);
                    base.iter().zip(low).enumerate().map(|(i, (z, l))| z + 0.75 * l + v[3][i % out]).collect()
                },
            );
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let (weight, _) = weight(1, 4, 3);
    let x = Input::normal(1, 0, &[2, 3]).tensor();
    let message = |a: [usize; 2], b: [usize; 2]| {
        let (a, b) = (Input::normal(1, 1, &a).tensor(), Input::normal(1, 2, &b).tensor());
        let update = LowRank { a, b, scaling: 1.0, dropout: None };
        lora_linear(&x, &weight, None, &update).unwrap_err().to_string()
    };
    assert_eq!(message([2, 5], [4, 2]), "lora: A has shape [2, 5], expected [2, 3]");
    assert_eq!(message([2, 3], [4, 1]), "lora: B has shape [4, 1], expected [4, 2]");
    assert_eq!(message([0, 3], [4, 0]), "lora: A has shape [0, 3], expected (r, in) with r at least 1");
}
