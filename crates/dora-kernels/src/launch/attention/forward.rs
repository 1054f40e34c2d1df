//! Launchers of `kernels/attention.cu`, and of the forward pass of `attention_f32.cu`.

use super::kernels::{COMBINE, FORWARD, FORWARD_F32};
use super::{AttentionHeads, AttentionInputs, STEP, THREADS, TILE};
use crate::kernel::Call;
use crate::{Driver, Element, Error, Result, Shape, ViewMut};

/// o (queries, heads · width), and lse (heads, queries) for the backward pass.
pub fn attention_forward(
    driver: &dyn Driver,
    inputs: &AttentionInputs<'_>,
    mut o: ViewMut<'_>,
    mut lse: ViewMut<'_>,
) -> Result<()> {
    let kernel = inputs.kernel(&FORWARD, &FORWARD_F32)?;
    let (heads, pack) = (inputs.heads.heads, inputs.tiles.pack);
    let call = inputs.read_tiles(inputs.read(Call::new(kernel, inputs.q.element)));
    let call = call.write("o", &mut o, inputs.elements().0).write("lse", &mut lse, heads * inputs.tiles.queries);
    let (call, shared) = match inputs.q.element {
        Element::F32 => (call.int("heads", heads).int("group", inputs.group()), inputs.shared(TILE, 2 * STEP)),
        _ => {
            let call = call.write_if("partial", None, 0);
            (call.int("heads", heads).int("group", inputs.group()).int("pack", pack), inputs.shared(0, 2 * TILE))
        }
    };
    // SAFETY: the operands were checked against the tiles' rows.
    unsafe { inputs.launch(driver, call, heads / pack, 1, shared) }
}

/// Into how many parts the keys are cut where queries are few.
pub fn attention_splits(keys: usize) -> usize {
    keys.div_ceil(4 * TILE).clamp(1, 32)
}

/// o (queries, heads · width) in bf16 for few queries and many keys, which are cut into [`attention_splits`] parts that run side
/// by side: `partial` (splits, queries, heads · width) and `lse` (splits, heads, queries) hold their results.
pub fn attention_generate(
    driver: &dyn Driver,
    inputs: &AttentionInputs<'_>,
    mut partial: ViewMut<'_>,
    mut lse: ViewMut<'_>,
    mut o: ViewMut<'_>,
) -> Result<()> {
    if inputs.q.element == Element::F32 {
        return Err(Error::NotBuilt { kernel: "attention_generate", found: Element::F32, expected: "bf16".into() });
    }
    let kernel = inputs.kernel(&FORWARD, &FORWARD[0])?;
    let AttentionHeads { heads, width, .. } = inputs.heads;
    let (queries, pack, splits) = (inputs.tiles.queries, inputs.tiles.pack, attention_splits(inputs.tiles.keys));
    let elements = inputs.elements().0;
    let call = inputs.read_tiles(inputs.read(Call::new(kernel, inputs.q.element)));
    let call = call
        .write("o", &mut o, elements)
        .write("lse", &mut lse, splits * heads * queries)
        .write("partial", &mut partial, splits * elements)
        .int("heads", heads)
        .int("group", inputs.group())
        .int("pack", pack);
    // SAFETY: the operands were checked against the tiles' rows, and have a part for each split.
    unsafe { inputs.launch(driver, call, heads / pack, splits, inputs.shared(0, 2 * TILE))? };
    let call = Call::new(&COMBINE, Element::BF16)
        .read("partial", partial.as_view(), splits * elements)
        .read("lse", lse.as_view(), splits * heads * queries)
        .write("o", &mut o, elements)
        .int("heads", heads)
        .int("queries", queries)
        .int("width", width)
        .int("splits", splits);
    let blocks = (queries * heads).div_ceil(4);
    // SAFETY: a warp a query and head, and those beyond the last leave.
    unsafe { call.launch(driver, Shape { grid: [blocks as u32, 1, 1], threads: THREADS, shared: 0 }) }
}
