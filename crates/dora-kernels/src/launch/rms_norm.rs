//! Launchers of `kernels/rms_norm.cu`: a block a row, thread counts that fill it, and shared memory for one row.

use crate::kernel::{ACTIVATIONS, Call, Kernel, f32s, float, int, own};
use crate::launch::{Columns, parts_of_rows};
use crate::{Driver, Error, Result, Shape, View, ViewMut};

pub(super) const FORWARD: Kernel = Kernel {
    module: "rms_norm",
    name: "rms_norm_forward",
    elements: ACTIVATIONS,
    parameters: &[own("x"), own("residual"), f32s("w"), own("h"), own("y"), f32s("rstd"), int("columns"), float("eps")],
};
pub(super) const BACKWARD: Kernel = Kernel {
    module: "rms_norm",
    name: "rms_norm_backward",
    elements: ACTIVATIONS,
    parameters: &[own("h"), f32s("w"), f32s("rstd"), own("dy"), own("skip"), own("dx"), int("columns")],
};
pub(super) const BACKWARD_WEIGHT: Kernel = Kernel {
    module: "rms_norm",
    name: "rms_norm_backward_weight",
    elements: ACTIVATIONS,
    parameters: &[own("h"), f32s("rstd"), own("dy"), f32s("dw"), int("rows"), int("columns")],
};

/// Widest row: the backward pass keeps two floats an element in 96 KiB of shared memory.
pub const RMS_NORM_COLUMNS: usize = 96 * 1024 / 8;

/// Operands of the forward pass; rows and columns follow from `rstd` and `w`.
#[derive(Debug)]
pub struct Forward<'a> {
    /// x (rows, columns).
    pub x: View<'a>,
    /// What is added to x, and where the sum h goes.
    pub residual: Option<(View<'a>, ViewMut<'a>)>,
    /// w (columns).
    pub w: View<'a>,
    /// y (rows, columns), written.
    pub y: ViewMut<'a>,
    /// 1/√(mean(h²) + eps) (rows), written.
    pub rstd: ViewMut<'a>,
    /// eps.
    pub eps: f32,
}

/// y = w ⊙ h · rstd of h = x + residual.
pub fn rms_norm_forward(driver: &dyn Driver, mut a: Forward<'_>) -> Result<()> {
    let (rows, columns) = (a.rstd.len, a.w.len);
    let shape = row_shape(FORWARD.name, rows, columns, a.x.element.size(), 1)?;
    let (residual, h) = match &mut a.residual {
        Some((residual, h)) => (Some(*residual), Some(h)),
        None => (None, None),
    };
    let call = Call::new(&FORWARD, a.x.element)
        .read("x", a.x, rows * columns)
        .read_if("residual", residual, rows * columns)
        .read("w", a.w, columns)
        .write_if("h", h, rows * columns)
        .write("y", &mut a.y, rows * columns)
        .write("rstd", &mut a.rstd, rows)
        .int("columns", columns)
        .float("eps", a.eps);
    // SAFETY: a block a row, every operand has its rows and columns, and shared memory holds one row.
    unsafe { call.launch(driver, shape) }
}

/// Operands of the backward pass; rows and columns follow from `rstd` and `w`.
#[derive(Debug)]
pub struct Backward<'a> {
    /// h (rows, columns), which the forward pass normed.
    pub h: View<'a>,
    /// w (columns).
    pub w: View<'a>,
    /// rstd (rows) of the forward pass.
    pub rstd: View<'a>,
    /// dy (rows, columns); where `None`, dx holds it.
    pub dy: Option<View<'a>>,
    /// Gradient of h from elsewhere, which is added.
    pub skip: Option<View<'a>>,
    /// Gradient of h (rows, columns), written.
    pub dx: ViewMut<'a>,
}

/// dx = rstd · (w ⊙ dy − ĥ · mean(w ⊙ dy ⊙ ĥ)) + skip.
pub fn rms_norm_backward(driver: &dyn Driver, mut a: Backward<'_>) -> Result<()> {
    let (rows, columns) = (a.rstd.len, a.w.len);
    let shape = row_shape(BACKWARD.name, rows, columns, a.h.element.size(), 2)?;
    let dy = a.dy.unwrap_or(a.dx.as_view());
    let call = Call::new(&BACKWARD, a.h.element)
        .read("h", a.h, rows * columns)
        .read("w", a.w, columns)
        .read("rstd", a.rstd, rows)
        .read("dy", dy, rows * columns)
        .read_if("skip", a.skip, rows * columns)
        .write("dx", &mut a.dx, rows * columns)
        .int("columns", columns);
    // SAFETY: a block a row, every operand has its rows and columns, and shared memory holds two rows. A thread has read
    // its elements of dy before it writes those of dx.
    unsafe { call.launch(driver, shape) }
}

/// Gradient of w in parts: dw (parts, columns), to be added up by `column_sum`. The number of parts is `dw`'s length.
pub fn rms_norm_backward_weight(
    driver: &dyn Driver,
    h: View<'_>,
    rstd: View<'_>,
    dy: View<'_>,
    mut dw: ViewMut<'_>,
) -> Result<()> {
    let rows = rstd.len;
    let columns = h.len.checked_div(rows).unwrap_or(0);
    let parts = parts_of_rows(rows);
    let width = Columns::new(columns, h.element.size());
    let call = Call::new(&BACKWARD_WEIGHT, h.element)
        .read("h", h, rows * columns)
        .read("rstd", rstd, rows)
        .read("dy", dy, rows * columns)
        .write("dw", &mut dw, parts * columns)
        .int("rows", rows)
        .int("columns", columns);
    let threads = 128;
    let shape = Shape { grid: [width.groups().div_ceil(threads), parts as u32, 1], threads, shared: 0 };
    // SAFETY: threads beyond the columns leave; part p of the rows writes row p of dw, which has as many.
    unsafe { call.launch(driver, shape) }
}

/// A block a row, with shared memory for `kept` floats an element.
fn row_shape(kernel: &'static str, rows: usize, columns: usize, element: usize, kept: usize) -> Result<Shape> {
    let width = Columns::new(columns, element);
    let threads = width.threads_of_row();
    let shared = width.groups().div_ceil(threads) as usize * threads as usize * width.width * kept * 4;
    if columns > RMS_NORM_COLUMNS {
        return Err(Error::argument(kernel, format!("rows of {columns} columns, expected at most {RMS_NORM_COLUMNS}")));
    }
    Ok(Shape { grid: [rows as u32, 1, 1], threads, shared: shared as u32 })
}
