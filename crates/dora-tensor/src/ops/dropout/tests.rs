//! Rate, scale, address and adjoint.

use super::{Dropout, dropout};
use crate::gradcheck::{Input, gradcheck};
use crate::rng::Stream;

fn stream(step: u64) -> Stream {
    Stream { seed: 5, step, op: 3 }
}

#[test]
fn the_mask_has_its_rate_and_scale_and_depends_on_its_address_alone() {
    let ones = Input::new(&[20_001], vec![1.0; 20_001]).tensor();
    let drop = Dropout::new(0.3, stream(1)).unwrap();
    let y = drop.apply(ones.clone()).unwrap().to_vec();
    let zeros = y.iter().filter(|&&x| x == 0.0).count();
    assert!((5_700..6_300).contains(&zeros), "{zeros} of 20001 dropped at p = 0.3");
    assert!(y.iter().all(|&x| x == 0.0 || (x - 1.0 / 0.7).abs() < 1e-6));
    assert_eq!(y, drop.apply(ones.clone()).unwrap().to_vec());
    assert_ne!(y, Dropout::new(0.3, stream(2)).unwrap().apply(ones).unwrap().to_vec());
}

#[test]
fn gradients_pass_the_same_mask() {
    let drop = Dropout::new(0.4, stream(9)).unwrap();
    let mask: Vec<f64> =
        drop.apply(Input::new(&[7, 5], vec![1.0; 35]).tensor()).unwrap().to_vec().into_iter().map(f64::from).collect();
    gradcheck(
        &[Input::normal(1, 0, &[7, 5])],
        1e-6,
        |t| dropout(&t[0], drop),
        |v| v[0].iter().zip(&mask).map(|(x, m)| x * m).collect(),
    );
}

#[test]
fn a_probability_of_one_is_refused() {
    let error = Dropout::new(1.0, stream(0)).unwrap_err().to_string();
    assert_eq!(error, "dropout: probability 1, expected at least 0 and below 1");
}
