//! NF4: codes and scales, back, and the product from them. Blocks of 64, scales nested.

use dora_kernels::Element;
use dora_kernels::Element::{BF16, F16, F32, U8};
use dora_kernels::launch::{nf4_dequantize, nf4_nest, nf4_offset, nf4_product, nf4_quantize};

use super::{Row, Table};
use crate::nf4_codec::{Matrix, floats, nested_map};

const OUT: usize = 128;
const INNER: usize = 1024;
const N: usize = OUT * INNER;
const BLOCKS: usize = N / 64;
/// Codes, and the scale's byte of a block.
const CODES: f64 = 0.5 + 1.0 / 64.0;

pub(super) fn rows(table: &mut Table) {
    let matrix = Matrix::new(&table.device, N, 64, true);
    for element in [F32, BF16, F16] {
        let (x, mut wide) = (table.input(element, 1, N), table.room(element, N));
        let (mut codes, mut scales) = (table.room(U8, N / 2), table.room(F32, BLOCKS));
        let size = element.size() as f64;
        let row = |name, least| Row { kernel: format!("{name}_{element}"), of: "W", elements: N, least, because: "" };
        table.row(row("nf4_quantize", size + 0.5 + 4.0 / 64.0), |d| {
            nf4_quantize(d, x.view(), 64, codes.view_mut(), scales.view_mut())
        });
        table.row(row("nf4_dequantize", size + CODES), |d| nf4_dequantize(d, &matrix.view(), wide.view_mut()));
    }
    product(table, &matrix, "nf4_product_8", (BF16, 1), "");
    product(table, &matrix, "nf4_product_16", (BF16, 16), "");
    product(table, &matrix, "nf4_product", (F32, 1), "eight lanes read the byte of their block's scale, in one access");
    let (scales, mut offset) = (table.input(F32, 2, BLOCKS), table.room(F32, 1));
    let row = |name: &str, least| Row { kernel: name.into(), of: "scales", elements: BLOCKS, least, because: "" };
    table.row(row("nf4_offset_f32", 4.0), |d| nf4_offset(d, scales.view(), offset.view_mut()));
    let (map, mut codes) = (floats(&table.device, &nested_map()), table.room(U8, BLOCKS));
    let mut absmax = table.room(F32, BLOCKS / 256);
    table.row(row("nf4_nest_f32", 5.0), |d| {
        nf4_nest(d, scales.view(), map.view(), offset.view(), codes.view_mut(), absmax.view_mut())
    });
}

/// y (rows, OUT) is written once; x comes from cache.
fn product(table: &mut Table, matrix: &Matrix, kernel: &str, (element, rows): (Element, usize), because: &str) {
    let (x, mut y) = (table.input(element, 3, rows * INNER), table.room(element, rows * OUT));
    let least = CODES + (rows * element.size()) as f64 / INNER as f64;
    let row = Row { kernel: format!("{kernel}_{element}"), of: "W", elements: N, least, because };
    table.row(row, |d| nf4_product(d, x.view(), &matrix.view(), (OUT, INNER), y.view_mut()));
}
