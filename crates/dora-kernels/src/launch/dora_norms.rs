//! Launchers of `kernels/dora_norms.cu`: what DoRA does for a weight, not for a batch.

use std::marker::PhantomData;
use std::sync::Arc;

use super::CARD;
use super::low_rank::shared_of_sums;
use crate::buffer::{identity, same_device};
use crate::kernel::{ACTIVATIONS, Call, Kernel, Kind, check, f32s, int, own, u32s};
use crate::{Buffer, Driver, Element, Error, Result, Shape, View, ViewMut};

pub(super) const ROW_NORMS_SQUARED: Kernel = Kernel {
    module: "dora_norms",
    name: "dora_row_norms_squared",
    elements: ACTIVATIONS,
    parameters: &[f32s("norms"), own("w"), int("out"), int("inner")],
};
const LAYERS: [(&str, Kind); 2] = [u32s("layers"), int("count")];
pub(super) const GRAM: Kernel =
    Kernel { module: "dora_norms", name: "dora_gram", elements: ACTIVATIONS, parameters: &LAYERS };
pub(super) const NORMS: Kernel =
    Kernel { module: "dora_norms", name: "dora_norms", elements: ACTIVATIONS, parameters: &LAYERS };
pub(super) const MERGE: Kernel = Kernel {
    module: "dora_norms",
    name: "dora_merge",
    elements: &[Element::F32],
    parameters: &[f32s("w"), f32s("m"), int("inner")],
};

const THREADS: u32 = 256;
/// Words of a layer in the table.
const WORDS: usize = 20;

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

/// A layer whose norms are wanted.
#[derive(Debug)]
pub struct DoraNorms<'a> {
    /// ‖W_o‖² (out).
    pub base: View<'a>,
    /// W (out, in), of one type for all layers of a launch.
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

/// What is borrowed for launches over many layers, the table of it on the device, and room for what they hand on.
#[derive(Debug)]
pub struct DoraLayers<'a> {
    words: Buffer,
    gram: Buffer,
    element: Element,
    count: usize,
    /// Blocks of the norms and of A·Aᵀ.
    blocks: [usize; 2],
    shared: u32,
    borrowed: PhantomData<&'a mut ()>,
}

impl<'a> DoraLayers<'a> {
    /// A table of them on the device.
    pub fn new(driver: &Arc<dyn Driver>, mut layers: Vec<DoraNorms<'a>>) -> Result<Self> {
        layers.retain(|layer| layer.n.len > 0);
        let element = layers.first().map_or(Element::F32, |layer| layer.w.element);
        // As in the kernel: rows that a block can take, and those that leave blocks for a whole card.
        let most = |rank: usize| if element == Element::BF16 && rank <= 16 { 32 } else { 16 };
        let rank = |layer: &DoraNorms<'_>| layer.b.len / layer.n.len;
        let filled = layers.iter().map(|layer| layer.n.len.div_ceil(most(rank(layer)))).sum::<usize>() >= CARD;
        let numbers: usize = layers.iter().map(|layer| rank(layer).pow(2).next_multiple_of(4)).sum();
        let gram = Buffer::new(driver, Element::F32, numbers)?;
        let (mut words, mut blocks, mut place) = (Vec::<u32>::new(), [0; 2], 0);
        for layer in &layers {
            let (out, rank) = (layer.n.len, rank(layer));
            let inner = layer.w.len / out;
            let rows = if filled { most(rank) } else { 16 };
            let operands = [
                ("w", layer.w, element, out * inner),
                ("a", layer.a, Element::F32, rank * inner),
                ("b", layer.b, Element::F32, out * rank),
                ("base", layer.base, Element::F32, out),
                ("n", layer.n.as_view(), Element::F32, out),
                ("gram", gram.view().slice(place..place + rank * rank), Element::F32, rank * rank),
            ];
            for (operand, view, element, len) in operands {
                check(NORMS.name, operand, view, element, len)?;
                same_device(NORMS.name, operand, &**driver, identity(view.driver))?;
                words.extend([view.address as u32, (view.address >> 32) as u32]);
            }
            for number in [out, inner, rank] {
                let fits =
                    i32::try_from(number).map_err(|_| Error::argument(NORMS.name, format!("{number} in a shape")))?;
                words.push(fits as u32);
            }
            words.extend([layer.scaling.to_bits(), rows as u32, blocks[0] as u32, blocks[1] as u32, 0]);
            blocks[0] += out.div_ceil(rows);
            blocks[1] += rank * rank.div_ceil(8);
            place += (rank * rank).next_multiple_of(4);
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let shared = match element {
            Element::BF16 => layers.iter().map(|layer| shared_of_sums(2, rank(layer))).max().unwrap_or(0),
            _ => 0,
        };
        let (count, words) = (layers.len(), Buffer::from_bytes(driver, Element::U32, &bytes)?);
        Ok(DoraLayers { words, gram, element, count, blocks, shared, borrowed: PhantomData })
    }

    /// A·Aᵀ (r, r) of each layer that has rows, every one from a multiple of 16 bytes on.
    pub fn gram(&self) -> &Buffer {
        &self.gram
    }

    /// # Safety
    /// The kernel takes a block for each of `blocks`, and writes what the layers lend it.
    unsafe fn launch(&self, driver: &dyn Driver, kernel: &'static Kernel, blocks: usize, shared: u32) -> Result<()> {
        let call = Call::new(kernel, self.element)
            .read("layers", self.words.view(), self.count * WORDS)
            .int("count", self.count);
        // SAFETY: the caller's promise; a block finds its layer, whose arrays were checked and are borrowed.
        unsafe { call.launch(driver, Shape { grid: [blocks as u32, 1, 1], threads: THREADS, shared }) }
    }
}

/// A·Aᵀ (r, r) of each layer, A rounded to W's type as products with activations of that type round it.
pub fn dora_gram(driver: &dyn Driver, layers: &mut DoraLayers<'_>) -> Result<()> {
    // SAFETY: a warp an element of a result, and those beyond the last leave.
    unsafe { layers.launch(driver, &GRAM, layers.blocks[1], 0) }
}

/// Norms of the rows of W + sBA of each layer, behind [`dora_gram`].
pub fn dora_norms(driver: &dyn Driver, layers: &mut DoraLayers<'_>) -> Result<()> {
    // SAFETY: a block stays within the out, inner and rank of its layer.
    unsafe { layers.launch(driver, &NORMS, layers.blocks[0], layers.shared) }
}

/// Rows of w = W + sBA (out, in) become m ⊙ w/‖w‖; a row of zeros stays.
pub fn dora_merge(driver: &dyn Driver, mut w: ViewMut<'_>, m: View<'_>) -> Result<()> {
    let out = m.len;
    let inner = w.len.checked_div(out).unwrap_or(0);
    let call = Call::new(&MERGE, Element::F32).write("w", &mut w, out * inner).read("m", m, out).int("inner", inner);
    // SAFETY: a block a row.
    unsafe { call.launch(driver, Shape { grid: [out as u32, 1, 1], threads: THREADS, shared: 0 }) }
}
