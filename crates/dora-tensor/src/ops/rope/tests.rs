//! Against f64 rotations.

use super::{RopeTable, rope};
use crate::gradcheck::{Input, gradcheck};
use std::sync::Arc;

#[test]
fn agrees_with_f64() {
    for (heads, half, positions) in [(1, 1, vec![0]), (3, 5, vec![4, 0, 9]), (2, 8, vec![1, 1, 2, 3, 0])] {
        let inv_freq: Vec<f64> = (0..half).map(|i| 100f64.powf(-(i as f64) / half as f64)).collect();
        let table = Arc::new(RopeTable::new(&inv_freq, 10));
        let rows = Arc::new(positions.clone().into());
        let width = heads * 2 * half;
        gradcheck(
            &[Input::normal(1, 0, &[positions.len(), width])],
            2e-6,
            |t| rope(&t[0], &rows, &table),
            |v| {
                let mut y = v[0].clone();
                for (row, &p) in y.chunks_mut(width).zip(positions.iter()) {
                    for head in row.chunks_mut(2 * half) {
                        for i in 0..half {
                            let (s, c) = (f64::from(p) * inv_freq[i]).sin_cos();
                            (head[i], head[i + half]) =
                                (head[i] * c - head[i + half] * s, head[i + half] * c + head[i] * s);
                        }
                    }
                }
                y
            },
        );
    }
}

#[test]
fn a_position_beyond_the_table_is_named() {
    let table = Arc::new(RopeTable::new(&[1.0], 4));
    let error = rope(&Input::normal(1, 0, &[1, 2]).tensor(), &Arc::new(vec![4].into()), &table).unwrap_err();
    assert_eq!(error.to_string(), "rope: position 4 is beyond the table's 4");
}
