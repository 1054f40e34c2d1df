//! Launchers of `kernels/cross_entropy.cu`: a block a row of logits.

use crate::kernel::{ACTIVATIONS, Call, Kernel, Kind, f32s, float, int, own};
use crate::launch::Columns;
use crate::{Driver, Element, Result, Shape, View, ViewMut};

pub(super) const WITH_GRADIENT: Kernel = Kernel {
    module: "cross_entropy",
    name: "cross_entropy",
    elements: ACTIVATIONS,
    parameters: &[f32s("loss"), own("logits"), ("targets", Kind::Of(Element::U32)), float("scale"), int("vocab")],
};
pub(super) const LOSSES: Kernel = Kernel {
    module: "cross_entropy",
    name: "cross_entropy_losses",
    elements: ACTIVATIONS,
    parameters: &[f32s("loss"), own("logits"), ("targets", Kind::Of(Element::U32)), int("vocab")],
};

/// Threads where a row has work for as many; enough of them hide the latency of one read a thread.
const MOST: u32 = 1024;

/// Losses (rows) of logits (rows, V), which become their gradient times `scale`. Targets (rows) are token ids, or −100 (as its
/// 32 bits) for a row that does not count.
pub fn cross_entropy(
    driver: &dyn Driver,
    mut logits: ViewMut<'_>,
    targets: View<'_>,
    scale: f32,
    mut loss: ViewMut<'_>,
) -> Result<()> {
    let rows = loss.len;
    let vocab = logits.len.checked_div(rows).unwrap_or(0);
    let shape = row_shape(rows, vocab, logits.element);
    let call = Call::new(&WITH_GRADIENT, logits.element)
        .write("loss", &mut loss, rows)
        .write("logits", &mut logits, rows * vocab)
        .read("targets", targets, rows)
        .float("scale", scale)
        .int("vocab", vocab);
    // SAFETY: a block a row; a target that is no token of the vocabulary is not followed.
    unsafe { call.launch(driver, shape) }
}

/// Losses (rows) of logits (rows, V), which stay.
pub fn cross_entropy_losses(
    driver: &dyn Driver,
    logits: View<'_>,
    targets: View<'_>,
    mut loss: ViewMut<'_>,
) -> Result<()> {
    let rows = loss.len;
    let vocab = logits.len.checked_div(rows).unwrap_or(0);
    let shape = row_shape(rows, vocab, logits.element);
    let call = Call::new(&LOSSES, logits.element)
        .write("loss", &mut loss, rows)
        .read("logits", logits, rows * vocab)
        .read("targets", targets, rows)
        .int("vocab", vocab);
    // SAFETY: as above.
    unsafe { call.launch(driver, shape) }
}

fn row_shape(rows: usize, vocab: usize, element: Element) -> Shape {
    let groups = Columns::new(vocab, element.size()).groups();
    Shape { grid: [rows as u32, 1, 1], threads: groups.next_multiple_of(32).clamp(32, MOST), shared: 0 }
}
