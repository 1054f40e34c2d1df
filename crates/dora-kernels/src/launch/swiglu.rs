//! Launchers of `kernels/swiglu.cu`.

use crate::kernel::{ACTIVATIONS, Call, Kernel, long, own};
use crate::launch::flat_shape;
use crate::{Driver, Result, View, ViewMut};

pub(super) const FORWARD: Kernel = Kernel {
    module: "swiglu",
    name: "swiglu_forward",
    elements: ACTIVATIONS,
    parameters: &[own("gate"), own("up"), own("y"), long("n")],
};
pub(super) const BACKWARD: Kernel = Kernel {
    module: "swiglu",
    name: "swiglu_backward",
    elements: ACTIVATIONS,
    parameters: &[own("gate"), own("up"), own("dy"), own("dgate"), own("dup"), long("n")],
};

/// y = silu(gate) ⊙ up.
pub fn swiglu_forward(driver: &dyn Driver, gate: View<'_>, up: View<'_>, mut y: ViewMut<'_>) -> Result<()> {
    let n = y.len;
    let call =
        Call::new(&FORWARD, gate.element).read("gate", gate, n).read("up", up, n).write("y", &mut y, n).long("n", n);
    // SAFETY: the operands have n elements.
    unsafe { call.launch(driver, flat_shape(n, gate.element.size())) }
}

/// Both gradients; dup holds dy before, so that no third buffer is needed.
pub fn swiglu_backward(
    driver: &dyn Driver,
    gate: View<'_>,
    up: View<'_>,
    mut dgate: ViewMut<'_>,
    mut dup: ViewMut<'_>,
) -> Result<()> {
    let n = dup.len;
    let call = Call::new(&BACKWARD, gate.element)
        .read("gate", gate, n)
        .read("up", up, n)
        .read("dy", dup.as_view(), n)
        .write("dgate", &mut dgate, n)
        .write("dup", &mut dup, n)
        .long("n", n);
    // SAFETY: the operands have n elements, and dy's are read before they are overwritten, by the same thread.
    unsafe { call.launch(driver, flat_shape(n, gate.element.size())) }
}
