//! Launchers of `kernels/dora_norms.cu`: what DoRA does for a weight, not for a batch.

use super::low_rank::shared_of_sums;
use crate::kernel::{ACTIVATIONS, Call, Kernel, f32s, float, int, own};
use crate::{Driver, Element, Result, Shape, View, ViewMut};

pub(super) const ROW_NORMS_SQUARED: Kernel = Kernel {
    module: "dora_norms",
    name: "dora_row_norms_squared",
    elements: ACTIVATIONS,
    parameters: &[f32s("norms"), own("w"), int("out"), int("inner")],
};
pub(super) const GRAM: Kernel = Kernel {
    module: "dora_norms",
    name: "dora_gram",
    elements: ACTIVATIONS,
    parameters: &[f32s("g"), f32s("a"), int("inner"), int("rank")],
};
pub(super) const NORMS: Kernel = Kernel {
    module: "dora_norms",
    name: "dora_norms",
    elements: ACTIVATIONS,
    parameters: &[
        f32s("n"),
        f32s("base"),
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

/// A·Aᵀ (r, r) for a (r, in), rounded to `element` as products with activations of that type round it.
pub fn dora_gram(driver: &dyn Driver, element: Element, a: View<'_>, mut gram: ViewMut<'_>) -> Result<()> {
    let rank = gram.len.isqrt();
    let inner = a.len.checked_div(rank).unwrap_or(0);
    let call = Call::new(&GRAM, element)
        .write("g", &mut gram, rank * rank)
        .read("a", a, rank * inner)
        .int("inner", inner)
        .int("rank", rank);
    // SAFETY: a warp an element of the result, and those beyond the last leave.
    unsafe {
        call.launch(driver, Shape { grid: [rank as u32, rank.div_ceil(8) as u32, 1], threads: THREADS, shared: 0 })
    }
}

/// Operands of the norms.
#[derive(Debug)]
pub struct DoraNorms<'a> {
    /// ‖W_o‖² (out).
    pub base: View<'a>,
    /// A·Aᵀ (r, r), in `f32`, of [`dora_gram`].
    pub gram: View<'a>,
    /// W (out, in).
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
        .read("gram", a.gram, rank * rank)
        .read("w", a.w, out * inner)
        .read("a", a.a, rank * inner)
        .read("b", a.b, out * rank)
        .float("s", a.scaling)
        .int("out", out)
        .int("inner", inner)
        .int("rank", rank);
    // As in the kernel: tiles of 16 rows that a block takes.
    let bf16 = a.w.element == Element::BF16;
    let tiles = if bf16 && rank <= 16 && out >= 4096 { 2 } else { 1 };
    let grid = [out.div_ceil(16 * tiles) as u32, 1, 1];
    let shared = if bf16 { shared_of_sums(tiles, rank) } else { 0 };
    // SAFETY: a block stays within the out, inner and rank that were checked.
    unsafe { call.launch(driver, Shape { grid, threads: THREADS, shared }) }
}

/// Rows of w = W + sBA (out, in) become m ⊙ w/‖w‖; a row of zeros stays.
pub fn dora_merge(driver: &dyn Driver, mut w: ViewMut<'_>, m: View<'_>) -> Result<()> {
    let out = m.len;
    let inner = w.len.checked_div(out).unwrap_or(0);
    let call = Call::new(&MERGE, Element::F32).write("w", &mut w, out * inner).read("m", m, out).int("inner", inner);
    // SAFETY: a block a row.
    unsafe { call.launch(driver, Shape { grid: [out as u32, 1, 1], threads: THREADS, shared: 0 }) }
}
