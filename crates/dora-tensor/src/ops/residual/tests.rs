//! Against f64, and DoRA's dm where its output is only there as a difference.

use super::residual;
use crate::gradcheck::{Input, gradcheck};
use crate::ops::{LowRank, Norms, dora_linear};
use crate::{DType, DenseWeight, Parameter, Role, Weight};
use std::sync::Arc;

#[test]
fn agrees_with_f64() {
    for shape in [[1, 1], [3, 7], [0, 5]] {
        let inputs = [Input::normal(1, 0, &shape), Input::normal(1, 1, &shape)];
        let sum = |v: &[Vec<f64>]| v[0].iter().zip(&v[1]).map(|(x, y)| x + y).collect();
        gradcheck(&inputs, 1e-6, |t| residual(&t[0], t[1].clone()), sum);
    }
}

/// y goes into the stream in place, and dm is that of a y that was kept.
#[test]
fn the_output_of_dora_is_not_kept() {
    let (n, inner, out) = (5, 7, 6);
    let stored = Input::normal(2, 0, &[out, inner]).tensor().to_dtype(DType::BF16);
    let weight: Arc<dyn Weight> = Arc::new(DenseWeight::new(stored).unwrap());
    let base = weight.row_norms_squared().unwrap();
    let tensor = |stream, shape: &[usize]| Input::normal(2, stream, shape).tensor();
    let (x, stream, dy) = (tensor(1, &[n, inner]), tensor(2, &[n, out]), tensor(3, &[n, out]));
    let gradient = |through: bool| {
        let m = Parameter::new("m", Role::Magnitude, tensor(4, &[out])).unwrap();
        let update = LowRank { a: tensor(5, &[2, inner]), b: tensor(6, &[out, 2]), scaling: 0.5, dropout: None };
        let (y, _) = dora_linear(&x, &weight, None, &update, &m.tensor(), Norms::From(&base)).unwrap();
        let before = y.as_f32("test").unwrap().as_ptr();
        let y = if through { residual(&stream, y).unwrap() } else { y };
        assert_eq!(y.as_f32("test").unwrap().as_ptr(), before);
        y.backward_from(dy.clone()).unwrap();
        m.take_gradient().unwrap().to_vec()
    };
    for (got, want) in gradient(true).iter().zip(gradient(false)) {
        assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{got} instead of {want}");
    }
}
