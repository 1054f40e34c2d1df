//! Against f64, from one element to rows wider than a vector lane block.

use super::rms_norm;
use crate::gradcheck::{Input, gradcheck};

#[test]
fn agrees_with_f64() {
    for (seed, (n, width)) in [(1, 1), (3, 7), (5, 33), (2, 131), (0, 4)].into_iter().enumerate() {
        gradcheck(
            &[Input::normal(seed as u64, 0, &[n, width]), Input::normal(seed as u64, 1, &[width])],
            3e-5,
            |t| rms_norm(&t[0], &t[1], 1e-5),
            |v| {
                v[0].chunks(width)
                    .flat_map(|x| {
                        let rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-5).sqrt();
                        x.iter().zip(&v[1]).map(move |(x, w)| x * rstd * w).collect::<Vec<_>>()
                    })
                    .collect()
            },
        );
    }
}

#[test]
fn a_weight_of_another_width_is_refused() {
    let error =
        rms_norm(&Input::normal(1, 0, &[2, 3]).tensor(), &Input::normal(1, 0, &[4]).tensor(), 1e-5).unwrap_err();
    assert_eq!(error.to_string(), "rms_norm: weight has shape [4], expected [3]");
}
