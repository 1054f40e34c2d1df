//! Kernels on flat arrays, and sums of them.

use dora_kernels::Element;
use dora_kernels::Element::{BF16, F16, F32, F64, U32};
use dora_kernels::launch::{
    Gradients, Slot, Slots, adamw, add, cast, clip, dropout, mul, scale, sub, sum_of_squares, swiglu_backward,
    swiglu_forward,
};

use super::{Row, Table};
use crate::support::Input;

const N: usize = 64 * 256;

pub(super) fn rows(table: &mut Table) {
    for element in [F32, BF16] {
        of(table, element);
    }
    for (from, to) in [(F32, BF16), (F32, F16), (BF16, F32), (BF16, F16), (F16, F32), (F16, BF16)] {
        let (x, mut y) = (table.input(from, 1, N), table.room(to, N));
        let least = (from.size() + to.size()) as f64;
        let row = Row { kernel: format!("cast_from_{from}_{to}"), of: "x", elements: N, least, because: "" };
        table.row(row, |d| cast(d, x.view(), y.view_mut()));
    }
    let [mut p, g, mut u, mut v] = [5, 6, 7, 8].map(|stream| table.input(F32, stream, N));
    let (settings, factor) = (table.input(F32, 9, 8), table.input(F64, 10, 3));
    let row = Row { kernel: "adamw_f32".into(), of: "p", elements: N, least: 28.0, because: "" };
    let slot = Slot { p: p.view_mut(), g: g.view(), moments: [u.view_mut(), v.view_mut()], settings: 0 };
    let slots = Slots::new(&table.device, vec![slot]).unwrap();
    table.row(row, |d| adamw(d, slots, settings.view(), factor.view()));
    let gradients = Gradients::new(&table.device, &[g.view()]).unwrap();
    let mut squares = table.room(F64, gradients.parts());
    let row = Row { kernel: "sum_of_squares_f32".into(), of: "g", elements: N, least: 4.0, because: "" };
    table.row(row, |d| sum_of_squares(d, &gradients, squares.view_mut()));
    let (parts, mut out) = (table.input(F64, 11, 1024), table.room(F64, 3));
    let row = Row { kernel: "clip_f32".into(), of: "parts", elements: 1024, least: 8.0, because: "" };
    table.row(row, |d| clip(d, parts.view(), None, 1.0, out.view_mut()));
}

fn of(table: &mut Table, element: Element) {
    let size = element.size() as f64;
    let [a, b] = [1, 2].map(|stream| table.input(element, stream, N));
    let [mut y, mut z] = [3, 4].map(|stream| table.input(element, stream, N));
    let row = |name: &str, elements: f64| {
        let kernel = format!("{name}_{element}");
        Row { kernel, of: "y", elements: N, least: elements * size, because: "" }
    };
    table.row(row("add", 3.0), |d| add(d, Some(a.view()), b.view(), y.view_mut()));
    table.row(row("sub", 3.0), |d| sub(d, Some(a.view()), b.view(), y.view_mut()));
    table.row(row("mul", 3.0), |d| mul(d, Some(a.view()), b.view(), y.view_mut()));
    table.row(row("scale", 2.0), |d| scale(d, Some(a.view()), 0.5, y.view_mut()));
    table.row(row("swiglu_forward", 3.0), |d| swiglu_forward(d, a.view(), b.view(), y.view_mut()));
    table.row(row("swiglu_backward", 5.0), |d| swiglu_backward(d, a.view(), b.view(), z.view_mut(), y.view_mut()));
    let address = Input::new(U32, &[1.0, 2.0, 3.0, 4.0]).on(&table.device);
    table.row(row("dropout", 2.0), |d| dropout(d, Some(a.view()), 0.1, address.view(), 5, y.view_mut()));
}
