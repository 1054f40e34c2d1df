//! Launchers of `kernels/embedding.cu`: rows of a table by number, their gradient, and rows put where numbers say.

use std::sync::Arc;

use crate::kernel::{ACTIVATIONS, Call, Kernel, Kind, f32s, int, own, u32s};
use crate::launch::Columns;
use crate::{Buffer, Driver, Element, Error, Result, Shape, View, ViewMut};

pub(super) const FROM_F32: Kernel = Kernel {
    module: "embedding",
    name: "embedding_from_f32",
    elements: ACTIVATIONS,
    parameters: &[u32s("ids"), ("table", Kind::Of(Element::F32)), own("y"), int("vocab"), int("columns")],
};
pub(super) const FROM_BF16: Kernel = Kernel {
    module: "embedding",
    name: "embedding_from_bf16",
    elements: ACTIVATIONS,
    parameters: &[u32s("ids"), ("table", Kind::Of(Element::BF16)), own("y"), int("vocab"), int("columns")],
};
pub(super) const FROM_F16: Kernel = Kernel {
    module: "embedding",
    name: "embedding_from_f16",
    elements: ACTIVATIONS,
    parameters: &[u32s("ids"), ("table", Kind::Of(Element::F16)), own("y"), int("vocab"), int("columns")],
};
pub(super) const BACKWARD: Kernel = Kernel {
    module: "embedding",
    name: "embedding_backward",
    elements: ACTIVATIONS,
    parameters: &[u32s("ids"), u32s("starts"), u32s("order"), own("dy"), f32s("dtable"), int("vocab"), int("columns")],
};
pub(super) const SCATTER_ROWS: Kernel = Kernel {
    module: "embedding",
    name: "scatter_rows",
    elements: ACTIVATIONS,
    parameters: &[u32s("ids"), own("x"), own("y"), int("rows"), int("columns")],
};

/// y (n, columns): row t is row `ids[t]` of the table (vocab, columns), which may be of another type. An id beyond it gives NaN.
pub fn embedding(driver: &dyn Driver, ids: View<'_>, table: View<'_>, vocab: usize, mut y: ViewMut<'_>) -> Result<()> {
    let kernel = match table.element {
        Element::F32 => &FROM_F32,
        Element::BF16 => &FROM_BF16,
        Element::F16 => &FROM_F16,
        found => {
            let expected = "f32, bf16 or f16".to_owned();
            return Err(Error::Element { kernel: "embedding", operand: "table", found, expected });
        }
    };
    let (n, columns) = (ids.len, table.len.checked_div(vocab).unwrap_or(0));
    let call = Call::new(kernel, y.element)
        .read("ids", ids, n)
        .read("table", table, vocab * columns)
        .write("y", &mut y, n * columns)
        .int("vocab", vocab)
        .int("columns", columns);
    // SAFETY: a block a row of y; an id beyond the table is not followed.
    unsafe { call.launch(driver, row_shape(n, columns)) }
}

/// The rows that each distinct id was read for, on the device. Made here, so that no address comes from unchecked data.
#[derive(Debug)]
pub struct RowsById {
    /// Distinct ids, ascending.
    ids: Buffer,
    /// Where each id's rows begin in `order`, and the end of the last.
    starts: Buffer,
    /// Rows, by id and then by number.
    order: Buffer,
}

impl RowsById {
    /// Groups rows 0, 1, … by their ids.
    pub fn new(driver: &Arc<dyn Driver>, of_rows: &[u32]) -> Result<Self> {
        let [ids, starts, order] = grouped(of_rows).map(|list| {
            let bytes: Vec<u8> = list.iter().flat_map(|x| x.to_ne_bytes()).collect();
            Buffer::from_bytes(driver, Element::U32, &bytes)
        });
        Ok(RowsById { ids: ids?, starts: starts?, order: order? })
    }
}

/// The lists of [`RowsById`].
fn grouped(of_rows: &[u32]) -> [Vec<u32>; 3] {
    let mut order: Vec<u32> = (0..of_rows.len() as u32).collect();
    order.sort_by_key(|&row| of_rows[row as usize]);
    let mut ids = Vec::new();
    let mut starts = Vec::new();
    for (at, &row) in order.iter().enumerate() {
        let id = of_rows[row as usize];
        if ids.last() != Some(&id) {
            ids.push(id);
            starts.push(at as u32);
        }
    }
    starts.push(of_rows.len() as u32);
    [ids, starts, order]
}

/// Adds to dtable (vocab, columns) the rows of dy (n, columns) by id.
pub fn embedding_backward(
    driver: &dyn Driver,
    rows: &RowsById,
    dy: View<'_>,
    vocab: usize,
    mut dtable: ViewMut<'_>,
) -> Result<()> {
    let (count, n, columns) = (rows.ids.len(), rows.order.len(), dtable.len.checked_div(vocab).unwrap_or(0));
    let call = Call::new(&BACKWARD, dy.element)
        .read("ids", rows.ids.view(), count)
        .read("starts", rows.starts.view(), count + 1)
        .read("order", rows.order.view(), n)
        .read("dy", dy, n * columns)
        .write("dtable", &mut dtable, vocab * columns)
        .int("vocab", vocab)
        .int("columns", columns);
    // SAFETY: a block a distinct id, which alone writes that row, where it is one of the table's; `RowsById` made offsets and
    // rows below n.
    unsafe { call.launch(driver, row_shape(count, columns)) }
}

/// Row `ids[t]` of y (rows, columns) becomes row t of x; ids are distinct, and one beyond y is left out.
pub fn scatter_rows(driver: &dyn Driver, ids: View<'_>, x: View<'_>, rows: usize, mut y: ViewMut<'_>) -> Result<()> {
    let (n, columns) = (ids.len, y.len.checked_div(rows).unwrap_or(0));
    let call = Call::new(&SCATTER_ROWS, x.element)
        .read("ids", ids, n)
        .read("x", x, n * columns)
        .write("y", &mut y, rows * columns)
        .int("rows", rows)
        .int("columns", columns);
    // SAFETY: a block a row of x; an id beyond y is not followed.
    unsafe { call.launch(driver, row_shape(n, columns)) }
}

/// A block a row, a thread per eight elements where rows allow it.
fn row_shape(rows: usize, columns: usize) -> Shape {
    let threads = Columns::new(columns, Element::BF16.size()).threads_of_row();
    Shape { grid: [if columns == 0 { 0 } else { rows as u32 }, 1, 1], threads, shared: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_grouped_in_their_order() {
        assert_eq!(grouped(&[5, 2, 5, 2, 9]), [vec![2, 5, 9], vec![0, 2, 4, 5], vec![1, 3, 0, 2, 4]]);
        assert_eq!(grouped(&[]), [vec![], vec![0], vec![]]);
    }
}
