//! Against f64, far tails included.

use super::swiglu;
use crate::gradcheck::{Input, gradcheck};

fn reference(v: &[Vec<f64>]) -> Vec<f64> {
    v[0].iter().zip(&v[1]).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
}

#[test]
fn agrees_with_f64() {
    for shape in [[1, 1], [3, 17], [7, 31], [0, 5]] {
        let inputs = [Input::normal(2, 0, &shape), Input::normal(2, 1, &shape)];
        gradcheck(&inputs, 1e-6, |t| swiglu(&t[0], &t[1]), reference);
    }
    let tails = [Input::new(&[4], vec![-100.0, -30.0, 30.0, 100.0]), Input::new(&[4], vec![1.0, -2.0, 0.5, 3.0])];
    gradcheck(&tails, 1e-6, |t| swiglu(&t[0], &t[1]), reference);
}
