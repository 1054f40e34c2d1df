//! Launchers of `kernels/pointwise.cu`: sums, differences and products of two operands, multiples, and a row added to every row.

use crate::kernel::{ACTIVATIONS, Call, Kernel, Parameter, f32s, float, int, long, own};
use crate::launch::{Columns, flat_shape};
use crate::{Driver, Result, Shape, View, ViewMut};

pub(super) const ADD: Kernel = binary("add");
pub(super) const SUB: Kernel = binary("sub");
pub(super) const MUL: Kernel = binary("mul");
pub(super) const SCALE: Kernel = Kernel {
    module: "pointwise",
    name: "scale",
    elements: ACTIVATIONS,
    parameters: &[own("a"), own("y"), float("alpha"), long("n")],
};
pub(super) const ADD_ROW: Kernel = Kernel {
    module: "pointwise",
    name: "add_row",
    elements: ACTIVATIONS,
    parameters: &[own("x"), f32s("b"), own("y"), int("columns")],
};

const OF_TWO: &[Parameter] = &[own("a"), own("b"), own("y"), long("n")];

const fn binary(name: &'static str) -> Kernel {
    Kernel { module: "pointwise", name, elements: ACTIVATIONS, parameters: OF_TWO }
}

/// y = a + b; where a is `None`, b is added to what y holds.
pub fn add(driver: &dyn Driver, a: Option<View<'_>>, b: View<'_>, y: ViewMut<'_>) -> Result<()> {
    of_two(driver, &ADD, a, b, y)
}

/// y = a − b; where a is `None`, b is taken from what y holds.
pub fn sub(driver: &dyn Driver, a: Option<View<'_>>, b: View<'_>, y: ViewMut<'_>) -> Result<()> {
    of_two(driver, &SUB, a, b, y)
}

/// y = a · b, element by element; where a is `None`, y is multiplied by b.
pub fn mul(driver: &dyn Driver, a: Option<View<'_>>, b: View<'_>, y: ViewMut<'_>) -> Result<()> {
    of_two(driver, &MUL, a, b, y)
}

/// y = alpha · a; where a is `None`, y is multiplied.
pub fn scale(driver: &dyn Driver, a: Option<View<'_>>, alpha: f32, mut y: ViewMut<'_>) -> Result<()> {
    let (n, shape) = (y.len, flat_shape(y.len, y.element.size()));
    let a = a.unwrap_or(y.as_view());
    let call = Call::new(&SCALE, a.element).read("a", a, n).write("y", &mut y, n).float("alpha", alpha).long("n", n);
    // SAFETY: both operands have n elements, and each is read before it is written, by the same thread.
    unsafe { call.launch(driver, shape) }
}

/// y (rows, columns) = x + b, b (columns); where x is `None`, b is added to every row of y.
pub fn add_row(driver: &dyn Driver, x: Option<View<'_>>, b: View<'_>, mut y: ViewMut<'_>) -> Result<()> {
    let columns = b.len;
    let rows = y.len.checked_div(columns).unwrap_or(0);
    let x = x.unwrap_or(y.as_view());
    let threads = Columns::new(columns, x.element.size()).threads_of_row();
    let call = Call::new(&ADD_ROW, x.element)
        .read("x", x, rows * columns)
        .read("b", b, columns)
        .write("y", &mut y, rows * columns)
        .int("columns", columns);
    // SAFETY: a block a row of `columns` elements, of which there are `rows`.
    unsafe { call.launch(driver, Shape { grid: [rows as u32, 1, 1], threads, shared: 0 }) }
}

fn of_two(
    driver: &dyn Driver,
    kernel: &'static Kernel,
    a: Option<View<'_>>,
    b: View<'_>,
    mut y: ViewMut<'_>,
) -> Result<()> {
    let (n, shape) = (y.len, flat_shape(y.len, y.element.size()));
    let a = a.unwrap_or(y.as_view());
    let call = Call::new(kernel, a.element).read("a", a, n).read("b", b, n).write("y", &mut y, n).long("n", n);
    // SAFETY: the operands have n elements, and each is read before it is written, by the same thread.
    unsafe { call.launch(driver, shape) }
}
