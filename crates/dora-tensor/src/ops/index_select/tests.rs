//! Rows and their gradients against f64, and what is refused.

use super::{RowIds, index_select};
use crate::gradcheck::{Input, gradcheck};
use std::sync::Arc;

#[test]
fn rows_and_gradients_agree_with_f64() {
    for (ids, n, width) in [(vec![0, 2, 5, 6], 7, 5), (vec![0], 1, 1), (vec![16], 17, 3), ((0..9).collect(), 9, 13)] {
        let rows = Arc::new(RowIds::new(ids.clone()).unwrap());
        gradcheck(
            &[Input::normal(1, 0, &[n, width])],
            1e-6,
            |t| index_select(&t[0], &rows),
            |v| ids.iter().flat_map(|&id| v[0][id as usize * width..(id as usize + 1) * width].to_vec()).collect(),
        );
    }
}

#[test]
fn rows_that_are_not_there_or_do_not_rise_are_refused() {
    let x = Input::normal(1, 0, &[3, 2]).tensor();
    let message =
        |ids: &[u32]| index_select(&x, &Arc::new(RowIds::new(ids.to_vec()).unwrap())).unwrap_err().to_string();
    assert_eq!(message(&[1, 3]), "index_select: row 3 of 3");
    assert_eq!(message(&[]), "index_select: no row, expected at least one");
    let message = RowIds::new(vec![0, 2, 2]).unwrap_err().to_string();
    assert_eq!(message, "index_select: row 2 before row 2, expected rising ones");
}
