//! Clipping and AdamW in two groups against PyTorch's, step by step. The golden group without decay and with a learning rate
//! of its own stands for DoRA's magnitudes.

use dora_tensor::{Parameter, Role};
use dora_tests::Case;
use dora_train::optimizer::{Optimizer, OptimizerOptions};

/// Relative to a parameter's largest element.
const TOLERANCE: f64 = 2e-6;

#[test]
fn parameters_follow_pytorch() {
    let case = Case::open("adamw");
    let groups = &case.json["groups"];
    let number = |group: usize, key: &str| groups[group][key].as_f64().unwrap();
    assert_eq!(number(1, "weight_decay"), 0.0);
    let roles = [("matrix", Role::Matrix), ("scalar", Role::Matrix), ("vector", Role::Magnitude)];
    let parameter =
        |(name, role): (&str, Role)| Parameter::new(name, role, case.expected(&format!("param.0.{name}"))).unwrap();
    let parameters = roles.map(parameter);
    let options = OptimizerOptions {
        lr: number(0, "lr"),
        lr_b: number(0, "lr"),
        lr_magnitude: number(1, "lr"),
        weight_decay: number(0, "weight_decay"),
        magnitudes_decay: false,
        max_grad_norm: case.json["max_norm"].as_f64().unwrap(),
    };
    let mut optimizer = Optimizer::new(&parameters, options).unwrap();
    let norms = case.expected("grad_norm").to_vec();
    for (step, want) in (1..).zip(norms) {
        for parameter in &parameters {
            let gradient = case.expected(&format!("grad.{step}.{}", parameter.name()));
            parameter.tensor().backward_from(gradient).unwrap();
        }
        let norm = optimizer.step(&[], 1.0).unwrap().norm;
        assert!((norm - f64::from(want)).abs() <= 1e-6 * f64::from(want), "step {step}: norm {norm}, expected {want}");
        for parameter in &parameters {
            let (found, want) =
                (parameter.value().to_vec(), case.expected(&format!("param.{step}.{}", parameter.name())).to_vec());
            let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            for (found, want) in found.into_iter().zip(want) {
                let error = f64::from((found - want).abs() / largest);
                assert!(error <= TOLERANCE, "step {step}, {}: {found}, expected {want}", parameter.name());
            }
        }
    }
}
