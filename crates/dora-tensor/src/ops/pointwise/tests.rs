//! Every row of the table against f64.

use super::{Pointwise, pointwise};
use crate::gradcheck::{Input, gradcheck};

#[test]
fn every_row_agrees_with_f64() {
    type Reference = fn(f64, f64) -> f64;
    let table: [(&'static Pointwise, Reference); 3] =
        [(&Pointwise::ADD, |a, b| a + b), (&Pointwise::SUB, |a, b| a - b), (&Pointwise::MUL, |a, b| a * b)];
    for (row, f) in table {
        for shape in [vec![1], vec![7, 13], vec![3, 1, 5], vec![0, 4], vec![16_385]] {
            if shape == [16_385] && row.name != "mul" {
                continue;
            }
            let inputs = [Input::normal(1, 0, &shape), Input::normal(1, 1, &shape)];
            if shape == [16_385] {
                // Longer than a block: the value only, since differences over so many inputs take minutes.
                let [a, b] = inputs.map(|i| i.tensor());
                let y = pointwise(row, &a, &b).unwrap().to_vec();
                assert!(y.iter().zip(a.to_vec()).zip(b.to_vec()).all(|((y, a), b)| *y == a * b));
                continue;
            }
            gradcheck(
                &inputs,
                1e-6,
                |t| pointwise(row, &t[0], &t[1]),
                |v| v[0].iter().zip(&v[1]).map(|(&a, &b)| f(a, b)).collect(),
            );
        }
    }
}

#[test]
fn unequal_shapes_are_refused() {
    let (a, b) = (Input::normal(1, 0, &[2, 3]).tensor(), Input::normal(1, 0, &[3, 2]).tensor());
    let error = pointwise(&Pointwise::ADD, &a, &b).unwrap_err().to_string();
    assert_eq!(error, "add: b has shape [3, 2], expected [2, 3]");
}
