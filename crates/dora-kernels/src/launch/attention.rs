//! Launchers of `kernels/attention.cu`, `attention_backward.cu` and `attention_f32.cu`: in bf16 for heads of 16, 32, 64 or 128
//! elements, in f32 for powers of two from 4 to 128. The tiles that the kernels follow are made and checked here, so that no
//! address comes from unchecked data.

use std::ops::Range;
use std::sync::Arc;

use crate::kernel::{ACTIVATIONS, Call, Kernel, Parameter, f32s, float, int, own, u32s};
use crate::{Buffer, Driver, Element, Error, Result, Shape, View, ViewMut};

const WIDTHS: [usize; 4] = [16, 32, 64, 128];
const FORWARD_PARAMETERS: &[Parameter] = &[
    own("q"),
    own("k"),
    own("v"),
    u32s("tiles"),
    own("o"),
    f32s("lse"),
    f32s("partial"),
    int("heads"),
    int("group"),
    int("pack"),
    int("queries"),
    float("scale"),
];
const DQ_PARAMETERS: &[Parameter] = &[
    own("q"),
    own("k"),
    own("v"),
    own("d_o"),
    f32s("lse"),
    f32s("delta"),
    u32s("tiles"),
    own("dq"),
    int("heads"),
    int("group"),
    int("queries"),
    float("scale"),
];
const DKV_PARAMETERS: &[Parameter] = &[
    own("q"),
    own("k"),
    own("v"),
    own("d_o"),
    f32s("lse"),
    f32s("delta"),
    u32s("tiles"),
    own("dk"),
    own("dv"),
    int("heads"),
    int("group"),
    int("queries"),
    float("scale"),
];

const fn bf16(module: &'static str, name: &'static str, parameters: &'static [Parameter]) -> Kernel {
    Kernel { module, name, elements: &[Element::BF16], parameters }
}
const fn f32(name: &'static str, parameters: &'static [Parameter]) -> Kernel {
    Kernel { module: "attention_f32", name, elements: &[Element::F32], parameters }
}

/// By width, as all the lists below.
pub(super) static FORWARD: [Kernel; 4] = [
    bf16("attention", "attention_forward_16", FORWARD_PARAMETERS),
    bf16("attention", "attention_forward_32", FORWARD_PARAMETERS),
    bf16("attention", "attention_forward_64", FORWARD_PARAMETERS),
    bf16("attention", "attention_forward_128", FORWARD_PARAMETERS),
];
pub(super) static DQ: [Kernel; 4] = [
    bf16("attention_backward", "attention_dq_16", DQ_PARAMETERS),
    bf16("attention_backward", "attention_dq_32", DQ_PARAMETERS),
    bf16("attention_backward", "attention_dq_64", DQ_PARAMETERS),
    bf16("attention_backward", "attention_dq_128", DQ_PARAMETERS),
];
pub(super) static DKV: [Kernel; 4] = [
    bf16("attention_backward", "attention_dkv_16", DKV_PARAMETERS),
    bf16("attention_backward", "attention_dkv_32", DKV_PARAMETERS),
    bf16("attention_backward", "attention_dkv_64", DKV_PARAMETERS),
    bf16("attention_backward", "attention_dkv_128", DKV_PARAMETERS),
];
pub(super) static COMBINE: Kernel = bf16(
    "attention",
    "attention_combine",
    &[f32s("partial"), f32s("lse"), own("o"), int("heads"), int("queries"), int("width"), int("splits")],
);
pub(super) static DELTA: Kernel = Kernel {
    module: "attention_backward",
    name: "attention_delta",
    elements: ACTIVATIONS,
    parameters: &[own("o"), own("d_o"), f32s("delta"), int("heads"), int("queries"), int("width")],
};
pub(super) static FORWARD_F32: Kernel = f32(
    "attention_forward",
    &[
        own("q"),
        own("k"),
        own("v"),
        u32s("tiles"),
        own("o"),
        f32s("lse"),
        int("heads"),
        int("group"),
        int("queries"),
        int("width"),
        float("scale"),
    ],
);
pub(super) static DQ_F32: Kernel = f32(
    "attention_dq",
    &[
        own("q"),
        own("k"),
        own("v"),
        own("d_o"),
        f32s("lse"),
        f32s("delta"),
        u32s("tiles"),
        own("dq"),
        int("heads"),
        int("group"),
        int("queries"),
        int("width"),
        float("scale"),
    ],
);
pub(super) static DKV_F32: Kernel = f32(
    "attention_dkv",
    &[
        own("q"),
        own("k"),
        own("v"),
        own("d_o"),
        f32s("lse"),
        f32s("delta"),
        u32s("tiles"),
        own("dk"),
        own("dv"),
        int("heads"),
        int("group"),
        int("queries"),
        int("width"),
        float("scale"),
    ],
);

/// Rows of a block.
const TILE: usize = 64;
/// Rows of the other side that pass through shared memory together in the backward pass, and in f32.
const STEP: usize = 32;
const THREADS: u32 = 128;

/// Heads of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionHeads {
    /// Query heads.
    pub heads: usize,
    /// Key heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub width: usize,
}

/// A document: where its keys lie, and where its queries, which are those of its last keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionDocument {
    /// Rows of q.
    pub queries: Range<usize>,
    /// Rows of k and v; at least as many.
    pub keys: Range<usize>,
}

/// The blocks' work, on the device: which queries, of which document.
#[derive(Debug)]
pub struct AttentionTiles {
    buffer: Buffer,
    count: usize,
    pack: usize,
    queries: usize,
    keys: usize,
    square: bool,
}

impl AttentionTiles {
    /// Tiles of documents, whose queries lie one behind another and are all `queries` rows of q, within `keys` rows of k and v. `pack` query heads that share a key
    /// head go into one tile: 1 in training, all that share it where queries are few.
    pub fn new(
        driver: &Arc<dyn Driver>,
        documents: &[AttentionDocument],
        (queries, keys): (usize, usize),
        pack: usize,
    ) -> Result<Self> {
        let refuse = |message: String| Err(Error::argument("attention", message));
        if pack == 0 || pack > TILE {
            return refuse(format!("{pack} heads in a tile, expected 1 to {TILE}"));
        }
        let (mut tiles, mut next): (Vec<u32>, _) = (Vec::new(), 0);
        for AttentionDocument { queries: q, keys: k } in documents {
            if q.end > queries || k.end > keys || q.len() > k.len() || q.start > q.end || keys.max(queries) > 1 << 30 {
                return refuse(format!("queries {q:?} and keys {k:?} of a document, among {queries} and {keys}"));
            }
            if q.start != next {
                return refuse(format!("a document of queries {q:?} behind query {next}, expected one behind another"));
            }
            next = q.end;
            for first in q.clone().step_by(TILE / pack) {
                let seen = k.len() - q.len() + (first - q.start) + 1;
                tiles.extend([first, q.end, k.start, seen].map(|x| x as u32));
            }
        }
        if next != queries {
            return refuse(format!("documents of {next} queries, expected all {queries}"));
        }
        let bytes: Vec<u8> = tiles.iter().flat_map(|x| x.to_ne_bytes()).collect();
        let buffer = Buffer::from_bytes(driver, Element::U32, &bytes)?;
        let square = pack == 1 && documents.iter().all(|d| d.queries == d.keys);
        Ok(AttentionTiles { buffer, count: tiles.len() / 4, pack, queries, keys, square })
    }
}

/// What every kernel of attention reads.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    /// q (queries, heads · width).
    pub q: View<'a>,
    /// k (keys, kv_heads · width).
    pub k: View<'a>,
    /// v (keys, kv_heads · width).
    pub v: View<'a>,
    /// The documents.
    pub tiles: &'a AttentionTiles,
    /// The heads.
    pub heads: AttentionHeads,
    /// Factor of the scores.
    pub scale: f32,
}

impl AttentionInputs<'_> {
    /// Elements of q, and of k.
    fn elements(&self) -> (usize, usize) {
        let AttentionHeads { heads, kv_heads, width } = self.heads;
        (self.tiles.queries * heads * width, self.tiles.keys * kv_heads * width)
    }

    /// The kernel of a list for this width and type.
    fn kernel(&self, kernels: &'static [Kernel; 4], f32: &'static Kernel) -> Result<&'static Kernel> {
        let AttentionHeads { heads, kv_heads, width } = self.heads;
        let wrong = |message: String| Err(Error::argument(kernels[0].name, message));
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || !(heads / kv_heads).is_multiple_of(self.tiles.pack) {
            let pack = self.tiles.pack;
            return wrong(format!("{heads} heads share {kv_heads} key heads, {pack} in a tile"));
        }
        match (self.q.element, WIDTHS.iter().position(|w| *w == width)) {
            (Element::F32, _) if self.tiles.pack == 1 && width.is_power_of_two() && (4..=128).contains(&width) => {
                Ok(f32)
            }
            (Element::F32, _) => wrong(format!(
                "heads of {width} f32 elements, {} in a tile, expected a power of two from 4 to 128, and one",
                self.tiles.pack
            )),
            (_, Some(at)) => Ok(&kernels[at]),
            (_, None) => wrong(format!("heads of {width} elements, expected 16, 32, 64 or 128")),
        }
    }

    fn read(&self, call: Call) -> Call {
        let (q, k) = self.elements();
        call.read("q", self.q, q).read("k", self.k, k).read("v", self.v, k)
    }

    fn read_tiles(&self, call: Call) -> Call {
        call.read("tiles", self.tiles.buffer.view(), 4 * self.tiles.count)
    }

    /// The last parameters, and the call. In bf16 the width is part of the kernel, in f32 it is a parameter.
    ///
    /// # Safety
    /// The operands have as many rows as the tiles were made for.
    unsafe fn launch(&self, driver: &dyn Driver, call: Call, heads: usize, splits: usize, shared: usize) -> Result<()> {
        let call = call.int("queries", self.tiles.queries);
        let call = if self.q.element == Element::F32 { call.int("width", self.heads.width) } else { call };
        let grid = [self.tiles.count as u32, heads as u32, splits as u32];
        let shape = Shape { grid, threads: THREADS, shared: shared as u32 };
        // SAFETY: the tiles lie within the rows that were checked, and heads beyond the last are none.
        unsafe { call.float("scale", self.scale).launch(driver, shape) }
    }

    fn group(&self) -> usize {
        self.heads.heads / self.heads.kv_heads
    }

    /// Bytes of shared memory for `own` rows of a block in full and `other` rows of the other side.
    fn shared(&self, own: usize, other: usize) -> usize {
        let width = self.heads.width;
        match self.q.element {
            Element::F32 => 4 * (own * width + other * (width + 1)),
            _ => 2 * (own + other) * (width + 8),
        }
    }
}

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
