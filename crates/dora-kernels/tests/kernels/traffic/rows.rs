//! Kernels on rows: norms, added rows, rotary embedding, tables, sums of columns, cross-entropy.

use dora_kernels::Element;
use dora_kernels::Element::{BF16, F16, F32};
use dora_kernels::launch::{
    Angles, RmsNorm, RmsNormBackward, RowsById, add_row, column_parts, column_sum, cross_entropy, cross_entropy_losses,
    embedding, embedding_backward, parts_of_rows, rms_norm_backward, rms_norm_backward_weight, rms_norm_forward, rope,
    scatter_rows,
};

use super::{Row, Table};

const ROWS: usize = 64;
const COLUMNS: usize = 256;
const N: usize = ROWS * COLUMNS;

pub(super) fn rows(table: &mut Table) {
    for element in [F32, BF16] {
        norms(table, element);
        tables(table, element);
        losses(table, element);
    }
    let (parts, mut y) = (table.input(F32, 1, 32 * COLUMNS), table.room(F32, COLUMNS));
    let row = Row { kernel: "column_sum_f32".into(), of: "parts", elements: 32 * COLUMNS, least: 4.0, because: "" };
    table.row(row, |d| column_sum(d, parts.view(), false, y.view_mut()));
}

fn row(name: &str, element: Element, of: &'static str, elements: f64) -> Row<'static> {
    let least = elements * element.size() as f64;
    Row { kernel: format!("{name}_{element}"), of, elements: N, least, because: "" }
}

fn norms(table: &mut Table, element: Element) {
    let [x, z, dy] = [1, 2, 3].map(|stream| table.input(element, stream, N));
    let (mut y, mut h) = (table.room(element, N), table.room(element, N));
    let (w, mut rstd) = (table.input(F32, 4, COLUMNS), table.room(F32, ROWS));
    let (x_, w_) = (x.view(), w.view());
    table.row(row("rms_norm_forward", element, "x", 4.0), |d| {
        let residual = Some((z.view(), h.view_mut()));
        let a = RmsNorm { x: x_, residual, w: w_, y: y.view_mut(), rstd: rstd.view_mut(), eps: 1e-5 };
        rms_norm_forward(d, a)
    });
    table.row(row("rms_norm_backward", element, "h", 4.0), |d| {
        let (rstd, dy, skip) = (rstd.view(), Some(dy.view()), Some(z.view()));
        rms_norm_backward(d, RmsNormBackward { h: x_, w: w_, rstd, dy, skip, dx: y.view_mut() })
    });
    let mut parts = table.room(F32, parts_of_rows(ROWS) * COLUMNS);
    table.row(row("rms_norm_backward_weight", element, "h", 2.0), |d| {
        rms_norm_backward_weight(d, x_, rstd.view(), dy.view(), parts.view_mut())
    });
    table.row(row("column_parts", element, "x", 1.0), |d| column_parts(d, x_, ROWS, parts.view_mut()));
    table.row(row("add_row", element, "x", 2.0), |d| add_row(d, Some(x_), w_, y.view_mut()));
    let positions = table.ids(&(0..ROWS).collect::<Vec<_>>());
    let angles = table.input(F32, 5, ROWS * 32);
    let angles = Angles { cosines: angles.view(), sines: angles.view(), half: 32 };
    table.row(row("rope", element, "x", 2.0), |d| rope(d, Some(x_), positions.view(), angles, 1.0, y.view_mut()));
}

/// Every row of the table once.
fn tables(table: &mut Table, element: Element) {
    let ids: Vec<usize> = (0..ROWS).map(|t| t * 7 % ROWS).collect();
    let (ids_, x, mut y) = (table.ids(&ids), table.input(element, 1, N), table.room(element, N));
    for from in [F32, BF16, F16] {
        let w = table.input(from, 2, N);
        let least = (from.size() + element.size()) as f64;
        let row = Row { least, ..row(&format!("embedding_from_{from}"), element, "y", 0.0) };
        table.row(row, |d| embedding(d, ids_.view(), w.view(), ROWS, y.view_mut()));
    }
    table.row(row("scatter_rows", element, "x", 2.0), |d| scatter_rows(d, ids_.view(), x.view(), ROWS, y.view_mut()));
    let list: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    let rows = RowsById::new(&table.device, &list).unwrap();
    let mut dtable = table.input(F32, 6, N);
    let row = Row { least: 8.0 + element.size() as f64, ..row("embedding_backward", element, "dy", 0.0) };
    table.row(row, |d| embedding_backward(d, &rows, x.view(), ROWS, dtable.view_mut()));
}

fn losses(table: &mut Table, element: Element) {
    let (rows, vocab) = (3, 8192);
    let (targets, mut logits) = (table.ids(&[5, 8191, 0]), table.input(element, 7, rows * vocab));
    let mut loss = table.room(F32, rows);
    let row = |name, elements| Row { elements: rows * vocab, ..row(name, element, "logits", elements) };
    table.row(row("cross_entropy_losses", 1.0), |d| {
        cross_entropy_losses(d, logits.view(), targets.view(), loss.view_mut())
    });
    table.row(row("cross_entropy", 2.0), |d| cross_entropy(d, logits.view_mut(), targets.view(), 1.0, loss.view_mut()));
}
