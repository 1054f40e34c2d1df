//! Against f64: trained with a bias, and frozen in every storage type.

use super::{Matrix, linear};
use crate::gradcheck::{Input, gradcheck};
use crate::{DType, DenseWeight};
use std::sync::Arc;

/// x·Wᵀ + b in f64.
pub(crate) fn reference(x: &[f64], w: &[f64], b: &[f64], inner: usize) -> Vec<f64> {
    x.chunks(inner)
        .flat_map(|x| {
            w.chunks(inner)
                .zip(b)
                .map(move |(w, b)| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + b)
                .collect::<Vec<_>>()
        })
        .collect()
}

const SIZES: [(usize, usize, usize); 5] = [(1, 1, 1), (3, 7, 5), (13, 5, 11), (0, 3, 2), (2, 31, 17)];

#[test]
fn trained_agrees_with_f64() {
    for (n, inner, out) in SIZES {
        let inputs =
            [Input::normal(1, 0, &[n, inner]), Input::normal(1, 1, &[out, inner]), Input::normal(1, 2, &[out])];
        gradcheck(
            &inputs,
            1e-5,
            |t| linear(&t[0], &Matrix::Trained(t[1].clone()), Some(&t[2])),
            |v| reference(&v[0], &v[1], &v[2], inner),
        );
    }
}

#[test]
fn frozen_agrees_with_f64_in_every_precision() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (n, inner, out) in SIZES {
            let stored = Input::normal(1, 1, &[out, inner]).tensor().to_dtype(dtype);
            let w: Vec<f64> = stored.to_vec().into_iter().map(f64::from).collect();
            let weight = Matrix::Frozen(Arc::new(DenseWeight::new(stored).unwrap()));
            gradcheck(
                &[Input::normal(1, 0, &[n, inner])],
                1e-5,
                |t| linear(&t[0], &weight, None),
                |v| reference(&v[0], &w, &vec![0.0; out], inner),
            );
        }
    }
}

#[test]
fn a_wrong_width_is_refused() {
    let weight = Matrix::Trained(Input::normal(1, 0, &[4, 3]).tensor());
    let error = linear(&Input::normal(1, 0, &[2, 5]).tensor(), &weight, None).unwrap_err().to_string();
    assert_eq!(error, "weight: x has shape [2, 5], expected (n, in) = (n, 3)");
}
