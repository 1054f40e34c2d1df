//! Checks an operation against a plain f64 function: the output, and every gradient against central differences of that
//! function. Tolerances are relative to the largest element compared, so they speak of f32 rounding, not of the step.

use crate::{Parameter, Result, Role, Tensor};

/// An input of a check: shape and elements.
#[derive(Debug, Clone)]
pub struct Input {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Input {
    /// Input of those elements.
    pub fn new(shape: &[usize], values: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "elements for shape {shape:?}");
        Input { shape: shape.to_vec(), values }
    }

    /// Normal draws from stream `stream` of `seed`.
    pub fn normal(seed: u64, stream: u64, shape: &[usize]) -> Self {
        let mut rng = crate::rng::Philox::new(seed, stream);
        Input::new(shape, (0..shape.iter().product()).map(|_| rng.normal()).collect())
    }

    /// The input as a tensor off the tape.
    pub fn tensor(&self) -> Tensor {
        Tensor::of(self.values.clone(), &self.shape)
    }
}

/// Panics unless `op` agrees with `reference` in value and in the gradient by every input, within `tolerance`.
pub fn gradcheck(
    inputs: &[Input],
    tolerance: f64,
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    let parameters: Vec<Parameter> = inputs
        .iter()
        .map(|i| Parameter::new("input", Role::Matrix, i.tensor()))
        .collect::<Result<_>>()
        .expect("inputs are f32");
    let leaves: Vec<Tensor> = parameters.iter().map(Parameter::tensor).collect();
    let output = op(&leaves).expect("the operation accepts its inputs");
    let exact: Vec<Vec<f64>> = inputs.iter().map(|i| i.values.iter().map(|&x| f64::from(x)).collect()).collect();
    compare("output", &output.to_vec(), &reference(&exact), tolerance);

    // A random cotangent c turns the output into the scalar Σ c·y.
    let cotangent = Input::normal(0x5eed, 99, output.shape()).values;
    output
        .backward_from(Tensor::from_vec(cotangent.clone(), output.shape()).expect("as many as the output has"))
        .expect("the backward pass accepts its own shapes");
    let loss = |at: &[Vec<f64>]| reference(at).iter().zip(&cotangent).map(|(y, &c)| y * f64::from(c)).sum::<f64>();
    for (i, parameter) in parameters.iter().enumerate() {
        let mut at = exact.clone();
        let numeric: Vec<f64> = (0..exact[i].len())
            .map(|j| {
                let h = 1e-5 * exact[i][j].abs().max(1.0);
                at[i][j] = exact[i][j] + h;
                let up = loss(&at);
                at[i][j] = exact[i][j] - h;
                let down = loss(&at);
                at[i][j] = exact[i][j];
                (up - down) / (2.0 * h)
            })
            .collect();
        let gradient = parameter.take_gradient().unwrap_or_else(|| panic!("input {i} received no gradient"));
        compare(&format!("gradient by input {i}"), &gradient.to_vec(), &numeric, tolerance);
    }
}

/// Panics unless every element of `got` is within `tolerance` of `want`, relative to the largest of `want` (at least 1e-3).
pub fn compare(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    let scale = want.iter().fold(1e-3f64, |m, w| m.max(w.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs() / scale;
        assert!(error <= tolerance, "{what}[{i}] is {g}, expected {w} (off by {error:.2e} of {scale:.3})");
    }
}
