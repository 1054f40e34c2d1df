//! Launchers of `kernels/adamw.cu`, which work on many parameters at once.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::buffer::{identity, same_device};
use crate::kernel::{Call, Kernel, Kind, check, int, u32s};
use crate::{Buffer, Driver, Element, Result, Shape, View, ViewMut};

const SLOTS: (&str, Kind) = u32s("slots");
pub(super) const SUM_OF_SQUARES: Kernel = Kernel {
    module: "adamw",
    name: "sum_of_squares",
    elements: &[Element::F32],
    parameters: &[SLOTS, ("parts", Kind::Of(Element::F64)), int("count")],
};
pub(super) const ADAMW: Kernel = Kernel {
    module: "adamw",
    name: "adamw",
    elements: &[Element::F32],
    parameters: &[SLOTS, ("settings", Kind::Own), ("clip", Kind::Of(Element::F64)), int("count")],
};

/// Elements that a block takes.
const CHUNK: usize = 4096;
/// Words of a slot of the table.
const WORDS: usize = 12;

/// A parameter with all that its update needs, of `f32` and of one length.
#[derive(Debug)]
pub struct Slot<'a> {
    /// p, changed.
    pub p: ViewMut<'a>,
    /// g.
    pub g: View<'a>,
    /// u and v, changed.
    pub moments: [ViewMut<'a>; 2],
    /// Which of the settings are its own.
    pub settings: usize,
}

/// What is borrowed for a launch over many arrays, and the table of it on the device.
#[derive(Debug)]
struct Table<'a> {
    words: Buffer,
    count: usize,
    blocks: usize,
    borrowed: PhantomData<&'a mut ()>,
}

/// Gradients whose squares are to be added.
#[derive(Debug)]
pub struct Gradients<'a>(Table<'a>);

/// Parameters to be updated.
#[derive(Debug)]
pub struct Slots<'a> {
    table: Table<'a>,
    settings: usize,
}

impl<'a> Table<'a> {
    /// Of the addresses of p, g, u and v, a length and a number of settings each.
    fn new(driver: &Arc<dyn Driver>, slots: impl Iterator<Item = ([u64; 4], usize, usize)>) -> Result<Self> {
        let (mut words, mut blocks) = (Vec::<u32>::new(), 0);
        for (addresses, n, settings) in slots {
            let wide = addresses.into_iter().chain([n as u64]);
            words.extend(wide.flat_map(|word| [word as u32, (word >> 32) as u32]));
            words.extend([settings as u32, blocks as u32]);
            blocks += n.div_ceil(CHUNK);
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let count = words.len() / WORDS;
        Ok(Table { words: Buffer::from_bytes(driver, Element::U32, &bytes)?, count, blocks, borrowed: PhantomData })
    }

    fn shape(&self) -> Shape {
        Shape { grid: [self.blocks as u32, 1, 1], threads: 256, shared: 0 }
    }
}

/// The address of n numbers of `f32` that lie on the device.
fn address(driver: &Arc<dyn Driver>, operand: &'static str, view: View<'_>, n: usize) -> Result<u64> {
    check("adamw", operand, view, Element::F32, n)?;
    same_device("adamw", operand, &**driver, identity(view.driver))?;
    Ok(view.address)
}

impl<'a> Gradients<'a> {
    /// A table of them on the device.
    pub fn new(driver: &Arc<dyn Driver>, gradients: &[View<'a>]) -> Result<Self> {
        let slot = |g: &View<'a>| Ok(([0, address(driver, "g", *g, g.len)?, 0, 0], g.len, 0));
        let slots = gradients.iter().map(slot).collect::<Result<Vec<_>>>()?;
        Table::new(driver, slots.into_iter()).map(Gradients)
    }

    /// Parts that their squares are added in.
    pub fn parts(&self) -> usize {
        self.0.blocks
    }
}

impl<'a> Slots<'a> {
    /// A table of them on the device.
    pub fn new(driver: &Arc<dyn Driver>, slots: Vec<Slot<'a>>) -> Result<Self> {
        let settings = slots.iter().map(|slot| slot.settings + 1).max().unwrap_or(0);
        let slot = |Slot { p, g, moments: [u, v], settings }: Slot<'a>| {
            let n = p.len;
            let operands = [("p", p.as_view()), ("g", g), ("u", u.as_view()), ("v", v.as_view())];
            let mut addresses = [0; 4];
            for (to, (operand, view)) in addresses.iter_mut().zip(operands) {
                *to = address(driver, operand, view, n)?;
            }
            Ok((addresses, n, settings))
        };
        let slots = slots.into_iter().map(slot).collect::<Result<Vec<_>>>()?;
        Ok(Slots { table: Table::new(driver, slots.into_iter())?, settings })
    }
}

/// Σ g² of all gradients in [`Gradients::parts`] parts of f64, to be added by `clip`.
pub fn sum_of_squares(driver: &dyn Driver, gradients: &Gradients<'_>, mut parts: ViewMut<'_>) -> Result<()> {
    let table = &gradients.0;
    let call = Call::new(&SUM_OF_SQUARES, Element::F32)
        .read("slots", table.words.view(), table.count * WORDS)
        .write("parts", &mut parts, table.blocks)
        .int("count", table.count);
    // SAFETY: a block a part, and each finds its slot; the gradients are borrowed as long as the table is.
    unsafe { call.launch(driver, table.shape()) }
}

/// Updates each p and its moments u and v by its gradient. `settings` on the device holds eight numbers of each kind: 1 − lr·decay,
/// lr/(1 − β₁ᵗ), √(1 − β₂ᵗ), ε, β₁, β₂, 1 − β₁, 1 − β₂; the second number of `clip` (3) of f64, what the launcher of that name wrote,
/// multiplies the gradients; where it is NaN nothing changes.
pub fn adamw(driver: &dyn Driver, slots: Slots<'_>, settings: View<'_>, clip: View<'_>) -> Result<()> {
    let table = &slots.table;
    let call = Call::new(&ADAMW, Element::F32)
        .read("slots", table.words.view(), table.count * WORDS)
        .read("settings", settings, 8 * slots.settings)
        .read("clip", clip, 3)
        .int("count", table.count);
    // SAFETY: a block finds its slot, whose arrays were checked and are borrowed, and settings of a number below the greatest.
    unsafe { call.launch(driver, table.shape()) }
}
