//! Launchers of `kernels/dora_norms.cu`: what DoRA does for a weight, not for a batch.

use crate::kernel::{ACTIVATIONS, Call, Kernel, f32s, float, int, own};
use crate::{Driver, Element, Result, Shape, View, ViewMut};

pub(super) const ROW_NORMS_SQUARED: Kernel = Kernel {
    module: "dora_norms",
    name: "dora_row_norms_squared",
    elements: ACTIVATIONS,
    parameters: &[f32s("norms"), own("w"), int("out"), int("inner")],
};
pub(super) const NORMS: Kernel = Kernel {
    module: "dora_norms",
    name: "dora_norms",
    elements: ACTIVATIONS,
    parameters: &[
        f32s("n"),
        f32s("base"),
        f32s("cross"),
        f32s("gram"),
        own("w"),
        f32s("a"),
        f32s("b"),
        float("s"),
        int("out"),
        int("inner"),
        int("rank"),
    ],
};
pub(super) const MERGE: Kernel = Kernel {
    module: "dora_norms",
    name: "dora_merge",
    elements: &[Element::F32],
    parameters: &[f32s("w"), f32s("m"), int("inner")],
};

const THREADS: u32 = 256;

/// ‖W_o‖² of every row of w (out, in) into `norms` (out).
pub fn dora_row_norms_squared(driver: &dyn Driver, w: View<'_>, mut norms: ViewMut<'_>) -> Result<()> {
    let out = norms.len;
    let inner = w.len.checked_div(out).unwrap_or(0);
    let call = Call::new(&ROW_NORMS_SQUARED, w.element)
        .write("norms", &mut norms, out)
        .read("w", w, out * inner)
        .int("out", out)
        .int("inner", inner);
    // SAFETY: a warp a row, and those beyond the last leave.
    unsafe { call.launch(driver, Shape { grid: [out.div_ceil(8) as u32, 1, 1], threads: THREADS, shared: 0 }) }
}

/// Operands of the norms.
#[derive(Debug)]
pub struct DoraNorms<'a> {
    /// ‖W_o‖² (out).
    pub base: View<'a>,
    /// W·Aᵀ (out, r), in `f32`.
    pub cross: View<'a>,
    /// A·Aᵀ (r, r), in `f32`.
    pub gram: View<'a>,
    /// W (out, in), read where terms cancel.
    pub w: View<'a>,
    /// A (r, in), in `f32`.
    pub a: View<'a>,
    /// B (out, r), in `f32`.
    pub b: View<'a>,
    /// s.
    pub scaling: f32,
    /// ‖W_o + s·B_o·A‖ (out), written.
    pub n: ViewMut<'a>,
}

/// Norms of the rows of W + sBA.
pub fn dora_norms(driver: &dyn Driver, mut a: DoraNorms<'_>) -> Result<()> {
    let out = a.n.len;
    if out == 0 {
        return Ok(());
    }
    let (inner, rank) = (a.w.len / out, a.b.len / out);
    let call = Call::new(&NORMS, a.w.element)
        .write("n", &mut a.n, out)
        .read("base", a.base, out)
        .read("cross", a.cross, rank * out)
        .read("gram", a.gram, rank * rank)
        .read("w", a.w, out * inner)
        .read("a", a.a, rank * inner)
        .read("b", a.b, out * rank)
        .float("s", a.scaling)
        .int("out", out)
        .int("inner", inner)
        .int("rank", rank);
    // SAFETY: a block takes 64 rows and stays within the out, inner and rank that were checked.
    unsafe { call.launch(driver, Shape { grid: [out.div_ceil(64) as u32, 1, 1], threads: THREADS, shared: 0 }) }
}

/// Rows of w = W + sBA (out, in) become m ⊙ w/‖w‖; a row of zeros stays.
pub fn dora_merge(driver: &dyn Driver, mut w: ViewMut<'_>, m: View<'_>) -> Result<()> {
    let out = m.len;
    let inner = w.len.checked_div(out).unwrap_or(0);
    let call = Call::new(&MERGE, Element::F32).write("w", &mut w, out * inner).read("m", m, out).int("inner", inner);
    // SAFETY: a block a row.
    unsafe { call.launch(driver, Shape { grid: [out as u32, 1, 1], threads: THREADS, shared: 0 }) }
}
