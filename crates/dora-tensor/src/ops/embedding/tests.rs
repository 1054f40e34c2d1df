//! Gather and scatter against f64, repeated ids included.

use super::embedding;
use crate::DType;
use crate::gradcheck::{Input, gradcheck};

#[test]
fn rows_and_gradients_agree_with_f64() {
    for (ids, vocab, width) in [(vec![3, 0, 3, 6, 3], 7, 5), (vec![0], 1, 1), (vec![], 3, 2), (vec![2; 17], 3, 13)] {
        gradcheck(
            &[Input::normal(1, 0, &[vocab, width])],
            1e-6,
            |t| embedding(&ids, &t[0]),
            |v| ids.iter().flat_map(|&id| v[0][id as usize * width..(id as usize + 1) * width].to_vec()).collect(),
        );
    }
}

#[test]
fn half_tables_widen() {
    let table = Input::normal(1, 0, &[5, 3]).tensor();
    for dtype in [DType::BF16, DType::F16] {
        let half = table.to_dtype(dtype);
        let want = half.to_vec();
        assert_eq!(embedding(&[4, 1], &half).unwrap().to_vec(), [&want[12..15], &want[3..6]].concat());
    }
}

#[test]
fn an_id_beyond_the_table_is_named() {
    let error = embedding(&[1, 9], &Input::normal(1, 0, &[9, 2]).tensor()).unwrap_err().to_string();
    assert_eq!(error, "embedding: token id 9 is beyond the embedding's 9 rows");
}
