//! Launchers of `kernels/reduce.cu`. How a sum is cut depends on lengths alone, so results do not depend on the device.

use crate::kernel::{ACTIVATIONS, Call, Kernel, Kind, f32s, float, int, own};
use crate::launch::{Columns, parts_of_rows};
use crate::{Driver, Element, Result, Shape, View, ViewMut};

pub(super) const CLIP: Kernel = Kernel {
    module: "reduce",
    name: "clip",
    elements: &[Element::F32],
    parameters: &[
        ("parts", Kind::Of(Element::F64)),
        own("losses"),
        ("out", Kind::Of(Element::F64)),
        float("most"),
        int("count"),
        int("passes"),
    ],
};
pub(super) const COLUMN_PARTS: Kernel = Kernel {
    module: "reduce",
    name: "column_parts",
    elements: ACTIVATIONS,
    parameters: &[own("x"), f32s("parts"), int("rows"), int("columns")],
};
pub(super) const COLUMN_SUM: Kernel = Kernel {
    module: "reduce",
    name: "column_sum",
    elements: &[Element::F32],
    parameters: &[own("parts"), own("y"), int("count"), int("columns"), int("accumulate")],
};

/// out (3) of f64: the norm of everything that the parts are squares of, the factor that brings it down to `most` (1 where `most`
/// is 0), and the sum of the losses, which are f32; the factor is NaN where norm or loss is not finite.
pub fn clip(
    driver: &dyn Driver,
    parts: View<'_>,
    losses: Option<View<'_>>,
    most: f32,
    mut out: ViewMut<'_>,
) -> Result<()> {
    let (count, passes) = (parts.len, losses.map_or(0, |losses| losses.len));
    let call = Call::new(&CLIP, Element::F32)
        .read("parts", parts, count)
        .read_if("losses", losses, passes)
        .write("out", &mut out, 3)
        .float("most", most)
        .int("count", count)
        .int("passes", passes);
    // SAFETY: one block reads `count` parts and `passes` losses, and writes three numbers.
    unsafe { call.launch(driver, Shape { grid: [1, 1, 1], threads: 256, shared: 0 }) }
}

/// Sums over the rows of x (rows, columns), in `parts_of_rows(rows)` parts (parts, columns) of f32, to be added by `column_sum`.
pub fn column_parts(driver: &dyn Driver, x: View<'_>, rows: usize, mut parts: ViewMut<'_>) -> Result<()> {
    let (count, columns) = (parts_of_rows(rows), x.len.checked_div(rows).unwrap_or(0));
    let call = Call::new(&COLUMN_PARTS, x.element)
        .read("x", x, rows * columns)
        .write("parts", &mut parts, count * columns)
        .int("rows", rows)
        .int("columns", columns);
    let threads = 128;
    let groups = Columns::new(columns, x.element.size()).groups();
    // SAFETY: threads beyond the columns leave; part p writes row p of the parts.
    unsafe { call.launch(driver, Shape { grid: [groups.div_ceil(threads), count as u32, 1], threads, shared: 0 }) }
}

/// y (columns) = Σ over the parts (count, columns), added to what y holds when `accumulate`.
pub fn column_sum(driver: &dyn Driver, parts: View<'_>, accumulate: bool, mut y: ViewMut<'_>) -> Result<()> {
    let columns = y.len;
    let count = parts.len.checked_div(columns).unwrap_or(0);
    let call = Call::new(&COLUMN_SUM, y.element)
        .read("parts", parts, count * columns)
        .write("y", &mut y, columns)
        .int("count", count)
        .int("columns", columns)
        .int("accumulate", accumulate.into());
    let threads = 128;
    // SAFETY: threads beyond the columns leave.
    unsafe {
        call.launch(
            driver,
            Shape { grid: [columns.div_ceil(threads) as u32, 1, 1], threads: threads as u32, shared: 0 },
        )
    }
}
