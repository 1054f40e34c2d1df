//! Launcher of `kernels/adamw.cu`.

use crate::kernel::{Call, Kernel, Kind, long, own};
use crate::launch::flat_shape;
use crate::{Driver, Element, Result, View, ViewMut};

pub(super) const ADAMW: Kernel = Kernel {
    module: "adamw",
    name: "adamw",
    elements: &[Element::F32],
    parameters: &[own("p"), own("g"), own("u"), own("v"), own("settings"), ("clip", Kind::Of(Element::F64)), long("n")],
};

/// Updates p and its moments u and v by the gradient g, all of f32. `settings` (8) on the device holds 1 − lr·decay, lr/(1 − β₁ᵗ),
/// √(1 − β₂ᵗ), ε, β₁, β₂, 1 − β₁, 1 − β₂; the second number of `clip` (3) of f64, what the launcher of that name wrote, multiplies
/// g; where it is NaN nothing changes.
pub fn adamw(
    driver: &dyn Driver,
    mut p: ViewMut<'_>,
    g: View<'_>,
    [mut u, mut v]: [ViewMut<'_>; 2],
    settings: View<'_>,
    clip: View<'_>,
) -> Result<()> {
    let n = p.len;
    let call = Call::new(&ADAMW, p.element)
        .write("p", &mut p, n)
        .read("g", g, n)
        .write("u", &mut u, n)
        .write("v", &mut v, n)
        .read("settings", settings, 8)
        .read("clip", clip, 3)
        .long("n", n);
    // SAFETY: p, g, u and v have n elements, the settings eight.
    unsafe { call.launch(driver, flat_shape(n, Element::F32.size())) }
}
