//! Launchers of `kernels/low_rank.cu`: a low-rank update's products onto the rank and back.

use crate::kernel::{ACTIVATIONS, Call, Kernel, f32s, float, int, own};
use crate::launch::{CARD, DoraColumns};
use crate::{Driver, Element, Result, Shape, View, ViewMut};

pub(super) const PROJECT: Kernel = Kernel {
    module: "low_rank",
    name: "low_rank_project",
    elements: ACTIVATIONS,
    parameters: &[own("h"), own("x"), f32s("p"), float("s"), int("by_rows"), int("rows"), int("inner"), int("rank")],
};
pub(super) const COMPOSE: Kernel = Kernel {
    module: "low_rank",
    name: "low_rank_compose",
    elements: ACTIVATIONS,
    parameters: &[
        own("z"),
        own("h"),
        f32s("p"),
        float("s"),
        f32s("m"),
        f32s("n"),
        f32s("bias"),
        own("y"),
        int("by_rows"),
        int("rows"),
        int("width"),
        int("rank"),
    ],
};

const THREADS: u32 = 256;

/// A parameter of a low-rank update, in `f32`, as a factor of a product.
#[derive(Debug, Clone, Copy)]
pub enum LowRankFactor<'a> {
    /// A (r, in).
    A(View<'a>),
    /// B (out, r).
    B(View<'a>),
}

impl<'a> LowRankFactor<'a> {
    fn parts(self) -> (View<'a>, bool) {
        match self {
            LowRankFactor::A(p) => (p, true),
            LowRankFactor::B(p) => (p, false),
        }
    }
}

/// Operands of the way onto the rank.
#[derive(Debug)]
pub struct LowRankProject<'a> {
    /// x (rows, in) for A, (rows, out) for B.
    pub x: View<'a>,
    /// A or B.
    pub factor: LowRankFactor<'a>,
    /// r.
    pub rank: usize,
    /// s.
    pub scaling: f32,
    /// h (rows, r), written.
    pub h: ViewMut<'a>,
}

/// Columns of a product that a block of `low_rank.cuh` takes at a time.
fn columns_of_block(rank: usize) -> usize {
    if rank <= 16 { 16 } else { 32 }
}

/// Bytes in which warps of `low_rank.cuh` hand on their sums, for `tiles` of 16 rows.
pub(super) fn shared_of_sums(tiles: usize, rank: usize) -> u32 {
    (256 * tiles * columns_of_block(rank)) as u32
}

/// h = s·x·Aᵀ, or s·x·B.
pub fn low_rank_project(driver: &dyn Driver, mut a: LowRankProject<'_>) -> Result<()> {
    let ((p, by_rows), rank) = (a.factor.parts(), a.rank);
    let of = |len: usize| len.checked_div(rank).unwrap_or(0);
    let (rows, inner) = (of(a.h.len), of(p.len));
    let shape = match a.x.element {
        Element::BF16 => Shape {
            grid: [rows.div_ceil(32) as u32, rank.div_ceil(columns_of_block(rank)) as u32, 1],
            threads: THREADS,
            shared: shared_of_sums(2, rank),
        },
        _ => Shape { grid: [rows as u32, 1, 1], threads: THREADS, shared: 0 },
    };
    let call = Call::new(&PROJECT, a.x.element)
        .write("h", &mut a.h, rows * rank)
        .read("x", a.x, rows * inner)
        .read("p", p, inner * rank)
        .float("s", a.scaling)
        .int("by_rows", usize::from(by_rows))
        .int("rows", rows)
        .int("inner", inner)
        .int("rank", rank);
    // SAFETY: rows, columns and sums stay within the numbers that were checked.
    unsafe { call.launch(driver, shape) }
}

/// What the product that comes from the rank is added to.
#[derive(Debug, Clone, Copy)]
pub enum LowRankBase<'a> {
    /// Another array (rows, wide).
    Other(View<'a>),
    /// What the result's array holds.
    Own,
    /// Nothing.
    Zero,
}

/// Operands of the way back from the rank.
#[derive(Debug)]
pub struct LowRankCompose<'a> {
    /// z (rows, wide).
    pub z: LowRankBase<'a>,
    /// h (rows, r).
    pub h: View<'a>,
    /// B for wide = out, A for wide = in.
    pub factor: LowRankFactor<'a>,
    /// r.
    pub rank: usize,
    /// s.
    pub scaling: f32,
    /// m, n and b of DoRA.
    pub columns: Option<DoraColumns<'a>>,
    /// y (rows, wide), written.
    pub y: ViewMut<'a>,
}

/// y = g ⊙ (z + s·h·Bᵀ) + b, or with A in place of Bᵀ; without columns g is 1 and b is 0.
pub fn low_rank_compose(driver: &dyn Driver, mut a: LowRankCompose<'_>) -> Result<()> {
    let ((p, by_rows), rank) = (a.factor.parts(), a.rank);
    let of = |len: usize| len.checked_div(rank).unwrap_or(0);
    let (rows, width) = (of(a.h.len), of(p.len));
    let call = Call::new(&COMPOSE, a.y.element);
    let call = match a.z {
        LowRankBase::Other(z) => call.read("z", z, rows * width),
        LowRankBase::Own => call.read("z", a.y.as_view(), rows * width),
        LowRankBase::Zero => call.read_if("z", None, 0),
    };
    let call = call
        .read("h", a.h, rows * rank)
        .read("p", p, width * rank)
        .float("s", a.scaling)
        .read_if("m", a.columns.map(|c| c.m), width)
        .read_if("n", a.columns.map(|c| c.n), width)
        .read_if("bias", a.columns.and_then(|c| c.bias), width)
        .write("y", &mut a.y, rows * width)
        .int("by_rows", usize::from(by_rows))
        .int("rows", rows)
        .int("width", width)
        .int("rank", rank);
    // As many rows a block, which then reads P once for them, as leave blocks for a whole card.
    let blocks = |each: usize| width.div_ceil(512) * rows.div_ceil(each);
    let each = [64, 32].into_iter().find(|&each| blocks(each) >= CARD).unwrap_or(16);
    let grid = [width.div_ceil(512) as u32, rows.div_ceil(each) as u32, 1];
    // SAFETY: rows and columns stay within the numbers that were checked; a thread has read its elements of z before it writes y's.
    unsafe { call.launch(driver, Shape { grid, threads: THREADS, shared: 0 }) }
}
