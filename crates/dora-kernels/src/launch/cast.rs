//! Launchers of `kernels/cast.cu`: the entry point is chosen by both element types.

use crate::kernel::{Call, Kernel, Kind, long, own};
use crate::launch::flat_shape;
use crate::{Driver, Element, Error, Result, View, ViewMut};

pub(super) const FROM_F32: Kernel = Kernel {
    module: "cast",
    name: "cast_from_f32",
    elements: &[Element::BF16, Element::F16],
    parameters: &[("x", Kind::Of(Element::F32)), own("y"), long("n")],
};
pub(super) const FROM_BF16: Kernel = Kernel {
    module: "cast",
    name: "cast_from_bf16",
    elements: &[Element::F32, Element::F16],
    parameters: &[("x", Kind::Of(Element::BF16)), own("y"), long("n")],
};
pub(super) const FROM_F16: Kernel = Kernel {
    module: "cast",
    name: "cast_from_f16",
    elements: &[Element::F32, Element::BF16],
    parameters: &[("x", Kind::Of(Element::F16)), own("y"), long("n")],
};

/// y = x in y's element type, which is another one.
pub fn cast(driver: &dyn Driver, x: View<'_>, mut y: ViewMut<'_>) -> Result<()> {
    let kernel = match x.element {
        Element::F32 => &FROM_F32,
        Element::BF16 => &FROM_BF16,
        Element::F16 => &FROM_F16,
        found => {
            let expected = "f32, bf16 or f16".to_owned();
            return Err(Error::Element { kernel: "cast", operand: "x", found, expected });
        }
    };
    let n = y.len;
    let call = Call::new(kernel, y.element).read("x", x, n).write("y", &mut y, n).long("n", n);
    // SAFETY: both operands have n elements.
    unsafe { call.launch(driver, flat_shape(n, Element::BF16.size())) }
}
