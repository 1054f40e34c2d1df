//! Launchers of `kernels/dora.cu`. Rows and columns of a batch follow from the lengths of the magnitudes and of the result.

use crate::kernel::{ACTIVATIONS, Call, Kernel, f32s, float, int, own};
use crate::launch::{CARD, Columns};
use crate::{Driver, Element, Error, Result, Shape, View, ViewMut};

pub(super) const COMPOSE_DROPOUT: Kernel = Kernel {
    module: "dora",
    name: "dora_compose_dropout",
    elements: ACTIVATIONS,
    parameters: &[
        own("base"),
        own("low"),
        float("s"),
        f32s("m"),
        f32s("n"),
        f32s("bias"),
        own("z"),
        own("y"),
        int("rows"),
        int("width"),
    ],
};
pub(super) const BACKWARD: Kernel = Kernel {
    module: "dora",
    name: "dora_backward",
    elements: ACTIVATIONS,
    parameters: &[
        own("dy"),
        own("value"),
        f32s("m"),
        f32s("n"),
        f32s("bias"),
        f32s("b"),
        float("s"),
        own("dz"),
        own("rest"),
        own("dh"),
        f32s("partial"),
        int("rows"),
        int("width"),
        int("rank"),
    ],
};
pub(super) const MAGNITUDE: Kernel = Kernel {
    module: "dora",
    name: "dora_magnitude",
    elements: ACTIVATIONS,
    parameters: &[
        f32s("dm"),
        f32s("partial"),
        own("dy"),
        own("x"),
        own("h"),
        own("w"),
        f32s("b"),
        f32s("m"),
        f32s("n"),
        float("s"),
        int("strips"),
        int("rows"),
        int("inner"),
        int("rank"),
        int("width"),
    ],
};

/// Rows that one block of the pass with dropout takes.
const ROWS: usize = 64;
/// Rows that one block of the backward pass takes; the sums for the magnitudes' gradient come in as many strips.
const BACK_ROWS: usize = 32;
/// Bytes in which its 16 warps hand 16 rows of 128 columns to the product, each row 8 elements apart from the next.
const BACK_SHARED: u32 = 16 * 16 * (128 + 8) * 2;
/// Threads of a block.
const THREADS: u32 = 256;

/// What DoRA knows of each output column.
#[derive(Debug, Clone, Copy)]
pub struct DoraColumns<'a> {
    /// Magnitudes m (out).
    pub m: View<'a>,
    /// Norms n (out).
    pub n: View<'a>,
    /// b (out).
    pub bias: Option<View<'a>>,
}

/// Operands of the forward pass with dropout.
#[derive(Debug)]
pub struct DoraComposeDropout<'a> {
    /// x·Wᵀ (rows, out); where `None`, y holds it.
    pub base: Option<View<'a>>,
    /// x̃·Wᵀ (rows, out), to which s·low is added: what the backward pass keeps.
    pub z: ViewMut<'a>,
    /// x̃·Aᵀ·Bᵀ (rows, out).
    pub low: View<'a>,
    /// s.
    pub scaling: f32,
    /// m, n and b.
    pub columns: DoraColumns<'a>,
    /// y (rows, out), written.
    pub y: ViewMut<'a>,
}

/// y = base + (g − 1) ⊙ z + g ⊙ s·low + b, and z += s·low.
pub fn dora_compose_dropout(driver: &dyn Driver, mut a: DoraComposeDropout<'_>) -> Result<()> {
    let grid = Grid::new(a.y.len, &a.columns, a.y.element);
    let base = a.base.unwrap_or(a.y.as_view());
    let call = Call::new(&COMPOSE_DROPOUT, a.y.element)
        .read("base", base, grid.elements())
        .read("low", a.low, grid.elements())
        .float("s", a.scaling);
    let call = grid.columns(call, &a.columns);
    let call = call.write("z", &mut a.z, grid.elements()).write("y", &mut a.y, grid.elements());
    // SAFETY: see `Grid`; a thread has read its elements of base before it writes those of y.
    unsafe { grid.launch(driver, call) }
}

/// Operands of the backward pass.
#[derive(Debug)]
pub struct DoraBackward<'a> {
    /// dy (rows, out); where `None`, dz holds it.
    pub dy: Option<View<'a>>,
    /// What the forward pass kept: y, or z of [`DoraComposeDropout`].
    pub value: View<'a>,
    /// m, n, and the b that is part of `value`.
    pub columns: DoraColumns<'a>,
    /// g ⊙ dy (rows, out), written.
    pub dz: ViewMut<'a>,
    /// (g − 1) ⊙ dy (rows, out), written where wanted.
    pub rest: Option<ViewMut<'a>>,
    /// Sums for the magnitudes' gradient ([`dora_strips`], out), written.
    pub partial: ViewMut<'a>,
    /// The gradient of h, where [`dora_backward_projects`]; else it is a product of its own.
    pub h: Option<DoraProjection<'a>>,
}

/// The way of dz onto the rank.
#[derive(Debug)]
pub struct DoraProjection<'a> {
    /// B (out, r), in `f32`.
    pub b: View<'a>,
    /// r.
    pub rank: usize,
    /// s.
    pub scaling: f32,
    /// dh = s·dz·B (rows, r), written.
    pub dh: ViewMut<'a>,
}

/// Largest rank whose dh [`dora_backward`] computes: sums of more do not fit its registers.
const MOST_RANK: usize = 32;

/// Whether [`dora_backward`] should compute dh. A block then takes all columns, and of few rows there are too few blocks.
pub fn dora_backward_projects(rows: usize, rank: usize) -> bool {
    rank <= MOST_RANK && rows >= 512
}

/// Strips of sums that [`dora_backward`] gives for a number of rows.
pub fn dora_strips(rows: usize) -> usize {
    rows.div_ceil(BACK_ROWS)
}

/// dz = g ⊙ dy, Σ dy ⊙ (value − b) a strip, and dh where asked for.
pub fn dora_backward(driver: &dyn Driver, mut a: DoraBackward<'_>) -> Result<()> {
    let (width, element) = (a.columns.m.len, a.dz.element);
    let rows = a.dz.len.checked_div(width).unwrap_or(0);
    let (elements, strips) = (rows * width, dora_strips(rows));
    let (rank, scaling) = a.h.as_ref().map_or((0, 0.0), |h| (h.rank, h.scaling));
    if rank > MOST_RANK {
        return Err(Error::argument("dora_backward", format!("dh of rank {rank}, expected at most {MOST_RANK}")));
    }
    let shape = Shape {
        // A warp takes 128 columns of 32 rows.
        grid: [
            strips as u32,
            if a.h.is_some() { 1 } else { (CARD / strips.max(1)).clamp(1, width.div_ceil(2048).max(1)) as u32 },
            1,
        ],
        threads: 2 * THREADS,
        shared: if a.h.is_some() && element == Element::BF16 { BACK_SHARED } else { 0 },
    };
    let call = Call::new(&BACKWARD, element)
        .read("dy", a.dy.unwrap_or(a.dz.as_view()), elements)
        .read("value", a.value, elements)
        .read("m", a.columns.m, width)
        .read("n", a.columns.n, width)
        .read_if("bias", a.columns.bias, width)
        .read_if("b", a.h.as_ref().map(|h| h.b), width * rank)
        .float("s", scaling)
        .write("dz", &mut a.dz, elements)
        .write_if("rest", a.rest.as_mut(), elements)
        .write_if("dh", a.h.as_mut().map(|h| &mut h.dh), rows * rank)
        .write("partial", &mut a.partial, strips * width)
        .int("rows", rows)
        .int("width", width)
        .int("rank", rank);
    // SAFETY: blocks stay within the rows, columns and rank that were checked; a thread has read its elements of dy before it writes
    // those of dz.
    unsafe { call.launch(driver, shape) }
}

/// What y was computed from: read for columns whose m vanishes beside n, since y does not hold z there.
#[derive(Debug)]
pub struct DoraOutput<'a> {
    /// dy (rows, out).
    pub dy: View<'a>,
    /// x (rows, in).
    pub x: View<'a>,
    /// h = x·Aᵀ (rows, r).
    pub h: View<'a>,
    /// W (out, in).
    pub w: View<'a>,
    /// B (out, r), in `f32`.
    pub b: View<'a>,
    /// s.
    pub scaling: f32,
}

/// Operands of the magnitudes' gradient.
#[derive(Debug)]
pub struct DoraMagnitude<'a> {
    /// The strips of [`dora_backward`].
    pub partial: View<'a>,
    /// m and n.
    pub columns: DoraColumns<'a>,
    /// Where the value of [`dora_backward`] was y; else it was z.
    pub output: Option<DoraOutput<'a>>,
    /// dm (out), written.
    pub dm: ViewMut<'a>,
}

/// dm: Σ/m from y, Σ/n from z, and 0 where n is 0; from y, where |m| ≤ 1e-6·n, Σ_t dy_t · (x_t·w + s·h_t·b) / n.
pub fn dora_magnitude(driver: &dyn Driver, mut a: DoraMagnitude<'_>) -> Result<()> {
    let width = a.columns.m.len;
    let of = |view: View<'_>| view.len.checked_div(width).unwrap_or(0);
    let (strips, output) = (of(a.partial), a.output.as_ref());
    let (rows, inner, rank) = output.map_or((0, 0, 0), |o| (of(o.dy), of(o.w), of(o.b)));
    let call = Call::new(&MAGNITUDE, output.map_or(Element::F32, |o| o.dy.element))
        .write("dm", &mut a.dm, width)
        .read("partial", a.partial, strips * width)
        .read_if("dy", output.map(|o| o.dy), rows * width)
        .read_if("x", output.map(|o| o.x), rows * inner)
        .read_if("h", output.map(|o| o.h), rows * rank)
        .read_if("w", output.map(|o| o.w), width * inner)
        .read_if("b", output.map(|o| o.b), width * rank)
        .read("m", a.columns.m, width)
        .read("n", a.columns.n, width)
        .float("s", output.map_or(0.0, |o| o.scaling))
        .int("strips", strips)
        .int("rows", rows)
        .int("inner", inner)
        .int("rank", rank)
        .int("width", width);
    let shape = Shape { grid: [width.div_ceil(32) as u32, 1, 1], threads: THREADS, shared: 0 };
    // SAFETY: a block takes 32 columns and stays within the strips, rows, inner and rank that were checked.
    unsafe { call.launch(driver, shape) }
}

/// A block takes 32 reads of a row and [`ROWS`] rows.
struct Grid {
    rows: usize,
    width: usize,
    blocks: u32,
}

impl Grid {
    fn new(elements: usize, columns: &DoraColumns<'_>, element: Element) -> Self {
        let width = columns.m.len;
        let blocks = Columns::new(width, element.size()).groups().div_ceil(32);
        Grid { rows: elements.checked_div(width).unwrap_or(0), width, blocks }
    }

    fn elements(&self) -> usize {
        self.rows * self.width
    }

    fn columns(&self, call: Call, columns: &DoraColumns<'_>) -> Call {
        call.read("m", columns.m, self.width).read("n", columns.n, self.width).read_if("bias", columns.bias, self.width)
    }

    /// Adds rows and columns, and queues the call.
    ///
    /// # Safety
    /// The operands have the grid's rows and columns.
    unsafe fn launch(&self, driver: &dyn Driver, call: Call) -> Result<()> {
        let shape = Shape { grid: [self.blocks, self.rows.div_ceil(ROWS) as u32, 1], threads: THREADS, shared: 0 };
        // SAFETY: the caller's promise; threads beyond the rows or columns only wait.
        unsafe { call.int("rows", self.rows).int("width", self.width).launch(driver, shape) }
    }
}
