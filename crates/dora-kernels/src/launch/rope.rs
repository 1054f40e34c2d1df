//! Launcher of `kernels/rope.cu`: a block a row.

use crate::kernel::{ACTIVATIONS, Call, Kernel, f32s, float, int, own, u32s};
use crate::launch::Columns;
use crate::{Driver, Error, Result, Shape, View, ViewMut};

pub(super) const ROPE: Kernel = Kernel {
    module: "rope",
    name: "rope",
    elements: ACTIVATIONS,
    parameters: &[
        own("x"),
        u32s("positions"),
        f32s("cosines"),
        f32s("sines"),
        own("y"),
        int("known"),
        int("heads"),
        int("half"),
        float("direction"),
    ],
};

/// Angles of every position: cosines and sines (positions, half).
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// Cosines.
    pub cosines: View<'a>,
    /// Sines.
    pub sines: View<'a>,
    /// Half of the elements of a head.
    pub half: usize,
}

/// Turns every head of x (rows, heads · 2 · half) by its row's position; `direction` is 1, or −1 for the backward pass. Where x is
/// `None`, y is turned in place. A position beyond the angles gives NaN.
pub fn rope(
    driver: &dyn Driver,
    x: Option<View<'_>>,
    positions: View<'_>,
    angles: Angles<'_>,
    direction: f32,
    mut y: ViewMut<'_>,
) -> Result<()> {
    let (rows, half) = (positions.len, angles.half);
    let columns = y.len.checked_div(rows).unwrap_or(0);
    if half == 0 || !columns.is_multiple_of(2 * half) {
        return Err(Error::argument(ROPE.name, format!("rows of {columns} elements, expected heads of {}", 2 * half)));
    }
    let x = x.unwrap_or(y.as_view());
    let (known, heads) = (angles.cosines.len / half, columns / (2 * half));
    let groups = Columns::new(half, x.element.size()).groups() as usize * heads;
    let call = Call::new(&ROPE, x.element)
        .read("x", x, rows * columns)
        .read("positions", positions, rows)
        .read("cosines", angles.cosines, known * half)
        .read("sines", angles.sines, known * half)
        .write("y", &mut y, rows * columns)
        .int("known", known)
        .int("heads", heads)
        .int("half", half)
        .float("direction", direction);
    let threads = groups.next_multiple_of(32).clamp(32, 256) as u32;
    // SAFETY: a block a row of x and y; angles beyond the known ones are not read; pairs are read before they are written.
    unsafe { call.launch(driver, Shape { grid: [rows as u32, 1, 1], threads, shared: 0 }) }
}
