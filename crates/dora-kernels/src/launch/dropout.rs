//! Launcher of `kernels/dropout.cu`.

use crate::kernel::{ACTIVATIONS, Call, Kernel, float, int, long, own, u32s};
use crate::launch::flat_shape;
use crate::{Driver, Error, Result, View, ViewMut};

pub(super) const DROPOUT: Kernel = Kernel {
    module: "dropout",
    name: "dropout",
    elements: ACTIVATIONS,
    parameters: &[own("x"), own("y"), u32s("address"), int("op"), int("threshold"), float("scale"), long("n")],
};

/// y = x/(1 − p) where an element's word is at least p · 2^32, else 0; where x is `None`, in place. `address` (4) of u32 on the device
/// holds seed, seed >> 32, step, step >> 32.
pub fn dropout(
    driver: &dyn Driver,
    x: Option<View<'_>>,
    p: f32,
    address: View<'_>,
    op: u32,
    mut y: ViewMut<'_>,
) -> Result<()> {
    if !(0.0..1.0).contains(&p) {
        return Err(Error::argument("dropout", format!("p is {p}, expected at least 0 and below 1")));
    }
    let (n, shape) = (y.len, flat_shape(y.len, y.element.size()));
    let x = x.unwrap_or(y.as_view());
    let threshold = (f64::from(p) * 4_294_967_296.0) as u32;
    let call = Call::new(&DROPOUT, x.element)
        .read("x", x, n)
        .write("y", &mut y, n)
        .read("address", address, 4)
        .bits("op", op)
        .bits("threshold", threshold)
        .float("scale", 1.0 / (1.0 - p))
        .long("n", n);
    // SAFETY: both operands have n elements, and each is read before it is written, by the same thread.
    unsafe { call.launch(driver, shape) }
}
