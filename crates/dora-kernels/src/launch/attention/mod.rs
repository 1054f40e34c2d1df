//! Launchers of `kernels/attention.cu`, `attention_backward.cu` and `attention_f32.cu`: in bf16 for heads of 16, 32, 64 or 128
//! elements, in f32 for powers of two from 4 to 128. The tiles that the kernels follow are made and checked here, so that no
//! address comes from unchecked data.

mod backward;
mod forward;
pub(super) mod kernels;

pub use backward::{AttentionGradients, attention_backward};
pub use forward::{attention_forward, attention_generate, attention_splits};

use std::ops::Range;
use std::sync::Arc;

use crate::kernel::{Call, Kernel};
use crate::{Buffer, Driver, Element, Error, Result, Shape, View};

/// Widths of heads in bf16, in the order of the lists of kernels.
const WIDTHS: [usize; 4] = [16, 32, 64, 128];
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

impl AttentionHeads {
    /// Fails unless there are kernels for such heads of an element type.
    pub fn check(self, element: Element) -> Result<()> {
        let AttentionHeads { heads, kv_heads, width } = self;
        let wrong = |message: String| Err(Error::argument("attention", message));
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return wrong(format!("{heads} heads cannot share {kv_heads} key heads"));
        }
        let widths = Self::widths(element);
        if !widths.contains(&width) {
            return wrong(format!("heads of {width} {element} elements, expected one of {widths:?}"));
        }
        Ok(())
    }

    /// Widths for which there are kernels.
    pub fn widths(element: Element) -> &'static [usize] {
        match element {
            Element::F32 => &[4, 8, 16, 32, 64, 128],
            _ => &WIDTHS,
        }
    }
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
    /// Tiles of documents, whose queries lie one behind another and are all `queries` rows of q, within `keys` rows of k and v.
    /// `pack` query heads that share a key head go into one tile: 1 in training, all that share it where queries are few.
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
        self.heads.check(self.q.element)?;
        let (group, pack) = (self.group(), self.tiles.pack);
        match (self.q.element, WIDTHS.iter().position(|w| *w == self.heads.width)) {
            (Element::F32, _) if pack == 1 => Ok(f32),
            (Element::BF16, Some(at)) if group.is_multiple_of(pack) => Ok(&kernels[at]),
            _ => {
                let found = format!("{pack} heads in a tile, of {group} that share a key head");
                Err(Error::argument("attention", format!("{found}, expected a part of them, and 1 in f32")))
            }
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
