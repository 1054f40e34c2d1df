//! Against f64 with the norm held constant; norms that cancel, vanish or are zero; magnitudes of 0.

use super::{NormGradient, Norms, dora_linear, dora_linear_with, dora_norms, merged};
use crate::gradcheck::{Input, compare, gradcheck};
use crate::ops::lora::tests::{SIZES, dot_rows, mask, weight};
use crate::ops::{Dropout, LowRank, lora_linear};
use crate::rng::Stream;
use crate::{DenseWeight, Parameter, Role, Tensor, Weight};
use std::sync::Arc;

const S: f64 = 0.75;

/// W + sBA in f64.
fn updated(w: &[f64], a: &[f64], b: &[f64], inner: usize, r: usize) -> Vec<f64> {
    let out = w.len() / inner;
    let ba = |o: usize, i: usize| (0..r).map(|k| b[o * r + k] * a[k * inner + i]).sum::<f64>();
    (0..out * inner).map(|j| w[j] + S * ba(j / inner, j % inner)).collect()
}

fn row_norms(w: &[f64], inner: usize) -> Vec<f64> {
    w.chunks(inner).map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt()).collect()
}

fn exact(input: &Input) -> Vec<f64> {
    input.tensor().to_vec().into_iter().map(f64::from).collect()
}

fn check(seed: u64, (n, inner, out, r): (usize, usize, usize, usize), dropout: Option<Dropout>, m: &Input, fold: bool) {
    let (weight, w) = weight(seed, out, inner);
    let [x, a, b, bias] =
        [&[n, inner], &[r, inner], &[out, r], &[1, out]].map(|s: &[usize; 2]| Input::normal(seed, s[0] as u64 + 10, s));
    let bias = Input::new(&[out], bias.tensor().to_vec());
    let norms = row_norms(&updated(&w, &exact(&a), &exact(&b), inner, r), inner);
    let base = weight.row_norms_squared().unwrap();
    gradcheck(
        &[x, a, b, m.clone(), bias],
        2e-5,
        |t| {
            let update = LowRank { a: t[1].clone(), b: t[2].clone(), scaling: S as f32, dropout };
            let known = dora_norms(&weight, &update.detach(), &base)?;
            let source = if fold { Norms::From(&base) } else { Norms::Known(&known) };
            let (y, n) = dora_linear(&t[0], &weight, Some(&t[4]), &update, &t[3], source)?;
            compare("norms", &n.to_vec(), &norms, 1e-6);
            Ok(y)
        },
        |v| {
            let dropped: Vec<f64> = v[0].iter().zip(mask(dropout, n * inner)).map(|(x, k)| x * k).collect();
            let low = dot_rows(&dot_rows(&dropped, &v[1], inner), &v[2], r);
            let (plain, base) = (dot_rows(&v[0], &w, inner), dot_rows(&dropped, &w, inner));
            (0..n * out)
                .map(|i| {
                    let g = v[3][i % out] / norms[i % out];
                    plain[i] + (g - 1.0) * base[i] + g * S * low[i] + v[4][i % out]
                })
                .collect()
        },
    );
}

#[test]
fn agrees_with_f64() {
    let mask = Dropout::new(0.4, Stream { seed: 9, step: 1, op: 3 }).unwrap();
    for (seed, size) in SIZES.into_iter().enumerate() {
        for dropout in [None, Some(mask)] {
            let m = Input::normal(seed as u64, 77, &[size.2]);
            for fold in [false, true] {
                check(seed as u64, size, dropout, &m, fold);
            }
        }
    }
}

/// Against central differences of a reference in which the norm moves with A and B.
#[test]
fn exact_gradient_of_the_norm() {
    let half = Dropout::new(0.4, Stream { seed: 9, step: 1, op: 3 }).unwrap();
    for (seed, (n, inner, out, r)) in SIZES.into_iter().enumerate() {
        let seed = seed as u64;
        let (weight, w) = weight(seed, out, inner);
        let base = weight.row_norms_squared().unwrap();
        let [x, a, b] =
            [[n, inner], [r, inner], [out, r]].map(|s: [usize; 2]| Input::normal(seed, s[0] as u64 + 10, &s));
        let m = Input::normal(seed, 77, &[out]);
        for dropout in [None, Some(half)] {
            let reference = |v: &[Vec<f64>]| -> Vec<f64> {
                let dropped: Vec<f64> = v[0].iter().zip(mask(dropout, n * inner)).map(|(x, k)| x * k).collect();
                let low = dot_rows(&dot_rows(&dropped, &v[1], inner), &v[2], r);
                let (plain, base) = (dot_rows(&v[0], &w, inner), dot_rows(&dropped, &w, inner));
                let norms = row_norms(&updated(&w, &v[1], &v[2], inner, r), inner);
                let y = |i: usize| {
                    let g = v[3][i % out] / norms[i % out];
                    plain[i] + (g - 1.0) * base[i] + g * S * low[i]
                };
                (0..n * out).map(y).collect()
            };
            let op = |t: &[Tensor], gradient| {
                let update = LowRank { a: t[1].clone(), b: t[2].clone(), scaling: S as f32, dropout };
                Ok(dora_linear_with(&t[0], &weight, None, &update, &t[3], Norms::From(&base), gradient)?.0)
            };
            let inputs = [x.clone(), a.clone(), b.clone(), m.clone()];
            // A row of one element has no direction to move: its terms cancel, which leaves rounding.
            let tolerance = if inner == 1 { 5e-4 } else { 5e-5 };
            gradcheck(&inputs, tolerance, |t| op(t, NormGradient::Exact), reference);
            // The check sees the difference.
            if n * inner > 1 {
                let detached = || gradcheck(&inputs, 5e-5, |t| op(t, NormGradient::Detached), reference);
                assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(detached)).is_err());
            }
        }
    }
}

#[test]
fn a_row_of_norm_zero_adds_nothing_to_the_exact_gradient() {
    // W's first row is −sB·A, so that the row of W + sBA is 0.
    let (a, b) =
        (Tensor::from_vec(vec![1.0, -2.0], &[1, 2]).unwrap(), Tensor::from_vec(vec![4.0, 0.5], &[2, 1]).unwrap());
    let weight: Arc<dyn Weight> =
        Arc::new(DenseWeight::new(Tensor::from_vec(vec![-3.0, 6.0, 1.0, 5.0], &[2, 2]).unwrap()).unwrap());
    let base = weight.row_norms_squared().unwrap();
    let [a, b, m] = [("a", a), ("b", b), ("m", Tensor::from_vec(vec![0.7, 2.0], &[2]).unwrap())]
        .map(|(name, value)| Parameter::new(name, Role::Matrix, value).unwrap());
    let x = Tensor::from_vec(vec![0.3, -1.1, 2.0, 0.4], &[2, 2]).unwrap();
    let gradients = |gradient| {
        let update = LowRank { a: a.tensor(), b: b.tensor(), scaling: S as f32, dropout: None };
        let y = dora_linear_with(&x, &weight, None, &update, &m.tensor(), Norms::From(&base), gradient).unwrap().0;
        y.backward_from(Tensor::from_vec(vec![1.0, 0.5, -2.0, 3.0], &[2, 2]).unwrap()).unwrap();
        [&a, &b, &m].map(|p| p.take_gradient().unwrap().to_vec())
    };
    let (exact, detached) = (gradients(NormGradient::Exact), gradients(NormGradient::Detached));
    assert_eq!((exact[1][0], exact[2][0]), (detached[1][0], 0.0));
    assert!(exact[1][1] != detached[1][1] && exact[0] != detached[0]);
    assert!(exact.iter().flatten().all(|x| x.is_finite()), "{exact:?}");
}

#[test]
fn a_magnitude_of_zero_still_has_its_gradient() {
    check(3, (3, 7, 5, 2), None, &Input::new(&[5], vec![1.0, 0.0, -2.0, 0.5, 1e-9]), true);
}

/// W and an update whose rows: 0 is zero in both; 1 is zero in W only; 2 cancels W to 1e-4 of it; 3 cancels wholly.
fn degenerate() -> (Arc<dyn Weight>, LowRank, Vec<f64>) {
    let (inner, r) = (131, 2);
    let a = Input::normal(8, 1, &[r, inner]).tensor();
    let noise = Input::normal(8, 2, &[inner]).tensor().to_vec();
    let (a0, a1) = (a.rows(0, 1).unwrap().to_vec(), a.rows(1, 1).unwrap().to_vec());
    let mut w = vec![0.0; 4 * inner];
    for i in 0..inner {
        w[2 * inner + i] = -S as f32 * 2.0 * a0[i] + 1e-4 * noise[i];
        w[3 * inner + i] = -S as f32 * a1[i];
    }
    let b = Tensor::of(vec![0.0, 0.0, 0.3, -0.2, 2.0, 0.0, 0.0, 1.0], &[4, r]);
    let wide = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let norms = row_norms(&updated(&wide(&w), &wide(&a.to_vec()), &wide(&b.to_vec()), inner, r), inner);
    let weight = DenseWeight::new(Tensor::of(w, &[4, inner])).unwrap();
    (Arc::new(weight), LowRank { a, b, scaling: S as f32, dropout: None }, norms)
}

/// Without the exact fallback the third norm would be off by a factor, and the fourth anything below 1e-3 of ‖W‖.
#[test]
fn norms_survive_cancellation() {
    let (weight, update, want) = degenerate();
    let got = dora_norms(&weight, &update, &weight.row_norms_squared().unwrap()).unwrap().to_vec();
    assert_eq!(got[0], 0.0);
    for row in 1..3 {
        let error = (f64::from(got[row]) - want[row]).abs() / want[row];
        assert!(error < 1e-5, "row {row}: {} instead of {}", got[row], want[row]);
    }
    assert!(f64::from(got[3]) < 1e-6 && want[3] < 1e-6, "{} and {}", got[3], want[3]);
}

#[test]
fn zero_rows_pass_through_and_leave_their_magnitude_alone() {
    let (weight, update, _) = degenerate();
    let x = Input::normal(8, 4, &[3, 131]).tensor();
    let leaf = |name: &str, t: &Tensor| Parameter::new(name, Role::Matrix, t.clone()).unwrap();
    let (a, b, m) = (leaf("a", &update.a), leaf("b", &update.b), leaf("m", &Tensor::of(vec![0.25; 4], &[4])));
    let update = LowRank { a: a.tensor(), b: b.tensor(), ..update };
    let base = weight.row_norms_squared().unwrap();
    let (y, n) = dora_linear(&x, &weight, None, &update, &m.tensor(), Norms::From(&base)).unwrap();
    assert!(y.to_vec().iter().all(|v| v.is_finite()) && y.to_vec().chunks(4).all(|row| row[0] == 0.0));
    assert_eq!(n.to_vec()[0], 0.0);
    y.backward_from(Input::normal(8, 5, &[3, 4]).tensor()).unwrap();
    let dm = m.take_gradient().unwrap().to_vec();
    assert_eq!(dm[0], 0.0);
    assert!(dm[1] != 0.0 && dm.iter().all(|v| v.is_finite()));
    // g = 1 there, so B's first row learns as in LoRA.
    let db = b.take_gradient().unwrap().to_vec();
    assert!(db[0] != 0.0 && db.iter().all(|v| v.is_finite()));
}

/// What the layer computes is what its merged weight computes, for LoRA and for DoRA, zero rows and all.
#[test]
fn merged_weights_compute_the_same() {
    let x = Input::normal(8, 4, &[3, 131]).tensor();
    let m = Tensor::of(vec![0.25, 0.5, -1e-4, 2.0], &[4]);
    let (weight, update, _) = degenerate();
    // The last row cancels wholly: its direction is rounding, so its magnitude says nothing; leave it out.
    let first = |y: Tensor| y.to_vec().chunks(4).flat_map(|row| row[..3].to_vec()).collect::<Vec<f32>>();
    let base = weight.row_norms_squared().unwrap();
    let (y, _) = dora_linear(&x, &weight, None, &update, &m, Norms::From(&base)).unwrap();
    let plain = |w: Tensor| DenseWeight::new(w).unwrap().apply(&x).unwrap();
    let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<_>>();
    compare("dora", &first(plain(merged(&*weight, &update, Some(&m)).unwrap())), &wide(first(y)), 1e-5);
    let y = lora_linear(&x, &weight, None, &update).unwrap();
    compare("lora", &first(plain(merged(&*weight, &update, None).unwrap())), &wide(first(y)), 1e-5);
}

/// With panels of W of several sizes, a last one of few rows, and rows of x that are few, not many, and many.
#[test]
fn the_number_of_threads_moves_no_bit() {
    let (inner, out, r) = (97, 581, 5);
    let (weight, _) = weight(11, out, inner);
    let base = weight.row_norms_squared().unwrap();
    let of = |seed, shape: &[usize]| Input::normal(11, seed, shape).tensor();
    let update = LowRank { a: of(1, &[r, inner]), b: of(2, &[out, r]), scaling: S as f32, dropout: None };
    let m = of(3, &[out]);
    for n in [3, 17, 300] {
        let x = of(4, &[n, inner]);
        let with = |threads| {
            let leaves = [&x, &update.a, &update.b, &m].map(|t| Parameter::new("t", Role::Matrix, t.clone()).unwrap());
            let [x, a, b, m] = leaves.each_ref().map(Parameter::tensor);
            let update = LowRank { a, b, ..update.clone() };
            let run = || {
                let (y, norms) = dora_linear(&x, &weight, None, &update, &m, Norms::From(&base))?;
                y.backward_from(of(5, &[n, out]))?;
                crate::Result::Ok([y.to_vec(), norms.to_vec()].concat())
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let results = pool.install(run).unwrap();
            let gradients = leaves.iter().flat_map(|leaf| leaf.take_gradient().unwrap().to_vec());
            results.into_iter().chain(gradients).collect::<Vec<f32>>()
        };
        let one = with(1);
        assert!(one.iter().all(|x| x.is_finite() && *x != 0.0));
        assert!([2, 3, 16].into_iter().all(|threads| with(threads) == one), "{n} rows");
    }
}
