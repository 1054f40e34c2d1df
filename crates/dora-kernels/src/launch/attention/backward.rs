//! Launchers of `kernels/attention_backward.cu`, and of the backward pass of `attention_f32.cu`.

use super::kernels::{DELTA, DKV, DKV_F32, DQ, DQ_F32};
use super::{AttentionHeads, AttentionInputs, STEP, THREADS, TILE};
use crate::kernel::Call;
use crate::{Driver, Element, Error, Result, Shape, View, ViewMut};

/// Operands of the backward pass beside its inputs.
#[derive(Debug)]
pub struct AttentionGradients<'a> {
    /// o (n, heads · width) of the forward pass.
    pub o: View<'a>,
    /// lse (heads, n) of the forward pass.
    pub lse: View<'a>,
    /// Gradient of o.
    pub d_o: View<'a>,
    /// Room for Σ do ⊙ o (heads, n), written.
    pub delta: ViewMut<'a>,
    /// dq (n, heads · width), written.
    pub dq: ViewMut<'a>,
    /// dk (n, kv_heads · width), written.
    pub dk: ViewMut<'a>,
    /// dv (n, kv_heads · width), written.
    pub dv: ViewMut<'a>,
}

/// Gradients of q, k and v; every document has as many keys as queries.
pub fn attention_backward(
    driver: &dyn Driver,
    inputs: &AttentionInputs<'_>,
    mut a: AttentionGradients<'_>,
) -> Result<()> {
    let (dq, dkv) = (inputs.kernel(&DQ, &DQ_F32)?, inputs.kernel(&DKV, &DKV_F32)?);
    if !inputs.tiles.square {
        return Err(Error::argument(dq.name, "documents have other keys than queries, expected the same"));
    }
    let AttentionHeads { heads, kv_heads, width } = inputs.heads;
    let (n, element, (wide, narrow)) = (inputs.tiles.queries, inputs.q.element, inputs.elements());
    let call = Call::new(&DELTA, element)
        .read("o", a.o, wide)
        .read("d_o", a.d_o, wide)
        .write("delta", &mut a.delta, heads * n)
        .int("heads", heads)
        .int("queries", n)
        .int("width", width);
    let blocks = wide.div_ceil(THREADS as usize * 16 / element.size());
    // SAFETY: a thread 16 bytes, and those beyond the last take part in exchanges only.
    unsafe { call.launch(driver, Shape { grid: [blocks as u32, 1, 1], threads: THREADS, shared: 0 })? };

    let begin = |kernel| {
        let call = inputs.read(Call::new(kernel, element)).read("d_o", a.d_o, wide).read("lse", a.lse, heads * n);
        inputs.read_tiles(call.read("delta", a.delta.as_view(), heads * n))
    };
    let group = inputs.group();
    let bf16 = element != Element::F32;
    let call = begin(dq).write("dq", &mut a.dq, wide).int("heads", heads).int("group", group);
    let shared = if bf16 { inputs.shared(2 * TILE, 4 * STEP) } else { inputs.shared(TILE, 2 * STEP) };
    // SAFETY: the operands were checked against the tiles' rows.
    unsafe { inputs.launch(driver, call, heads, 1, shared)? };
    let call = begin(dkv).write("dk", &mut a.dk, narrow).write("dv", &mut a.dv, narrow);
    let call = call.int("heads", heads).int("group", group);
    let shared = if bf16 { inputs.shared(2 * TILE, 4 * STEP) } else { inputs.shared(2 * TILE, 2 * STEP) };
    // SAFETY: as above.
    unsafe { inputs.launch(driver, call, kv_heads, 1, shared) }
}
