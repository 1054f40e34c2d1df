//! Against f64, frozen and trained, more rows than a chunk holds, rows without label, extreme logits.

use super::{IGNORE, LOGIT_CHUNK, cross_entropy, token_losses};
use crate::gradcheck::{Input, compare, gradcheck};
use crate::ops::Matrix;
use crate::ops::lora::tests::{dot_rows, weight};
use crate::{DType, DenseWeight, Tensor};
use std::sync::Arc;

fn losses(hidden: &[f64], w: &[f64], targets: &[i32], width: usize) -> Vec<f64> {
    let vocab = w.len() / width;
    let logits = dot_rows(hidden, w, width);
    let rows = logits.chunks(vocab).zip(targets).filter(|(_, target)| **target != IGNORE);
    rows.map(|(z, &target)| {
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln() - z[target as usize]
    })
    .collect()
}

#[test]
fn agrees_with_f64() {
    for (n, width, vocab) in [(1, 1, 1), (1, 1, 3), (5, 7, 11), (13, 3, 257)] {
        let targets: Vec<i32> = (0..n as i32).map(|t| if t % 3 == 1 { IGNORE } else { t * 5 % vocab as i32 }).collect();
        let reference = |v: &[f64], w: &[f64]| vec![losses(v, w, &targets, width).iter().sum::<f64>() / 3.5];
        let inputs = [Input::normal(1, 0, &[n, width]), Input::normal(1, 1, &[vocab, width])];
        gradcheck(
            &inputs,
            1e-5,
            |t| cross_entropy(&t[0], &Matrix::Trained(t[1].clone()), &targets, 3.5),
            |v| reference(&v[0], &v[1]),
        );
        let (frozen, w) = weight(2, vocab, width);
        let head = Matrix::Frozen(frozen);
        gradcheck(&inputs[..1], 1e-5, |t| cross_entropy(&t[0], &head, &targets, 3.5), |v| reference(&v[0], &w));
        let exact: Vec<f64> = inputs[0].tensor().to_vec().into_iter().map(f64::from).collect();
        let got = token_losses(&inputs[0].tensor(), &head, &targets).unwrap();
        compare("token losses", &got, &losses(&exact, &w, &targets, width), 1e-6);
    }
}

/// A vocabulary of a third of a chunk: 7 rows take three chunks.
#[test]
fn chunks_add_up() {
    let vocab = LOGIT_CHUNK / 3;
    let head =
        Tensor::of((0..vocab).map(|v| (v % 101) as f32 * 0.01).collect::<Vec<_>>(), &[vocab, 1]).to_dtype(DType::BF16);
    let w: Vec<f64> = head.to_vec().into_iter().map(f64::from).collect();
    let head = Matrix::Frozen(Arc::new(DenseWeight::new(head).unwrap()));
    let hidden = Input::normal(1, 0, &[7, 1]).tensor();
    let exact: Vec<f64> = hidden.to_vec().into_iter().map(f64::from).collect();
    let targets = [3, IGNORE, 100_000, 0, vocab as i32 - 1, 7, 8];
    let want = losses(&exact, &w, &targets, 1);
    // 2.1 million terms, added 16,384 at a time in f32 and then in f64.
    let tolerance = 2e-6;
    compare("token losses", &token_losses(&hidden, &head, &targets).unwrap(), &want, tolerance);
    let mean = cross_entropy(&hidden, &head, &targets, 6.0).unwrap().to_vec();
    compare("mean", &mean, &[want.iter().sum::<f64>() / 6.0], tolerance);
}

#[test]
fn logits_far_apart_stay_finite() {
    let head = Matrix::Trained(Tensor::of(vec![1000.0, -1000.0, 0.0], &[3, 1]));
    let losses = token_losses(&Tensor::of(vec![1.0, 1.0], &[2, 1]), &head, &[0, 1]).unwrap();
    assert_eq!(losses, [0.0, 2000.0]);
}

#[test]
fn no_label_is_a_loss_of_zero_and_a_bad_one_is_refused() {
    let (hidden, head) = (Tensor::zeros(&[2, 1]), Matrix::Trained(Tensor::zeros(&[3, 1])));
    assert_eq!(cross_entropy(&hidden, &head, &[IGNORE; 2], 1.0).unwrap().item().unwrap(), 0.0);
    let message = |targets: &[i32]| cross_entropy(&hidden, &head, targets, 1.0).unwrap_err().to_string();
    assert_eq!(message(&[IGNORE, 3]), "cross_entropy: target 3 of row 1 is no token id below 3");
    assert_eq!(message(&[-1, 0]), "cross_entropy: target -1 of row 0 is no token id below 3");
    assert_eq!(message(&[0]), "cross_entropy: 1 targets for 2 rows");
}
