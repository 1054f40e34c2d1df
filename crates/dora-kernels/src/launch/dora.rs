//! Launchers of `kernels/dora.cu`. Rows and columns of a batch follow from the lengths of the magnitudes and of the result.

use crate::kernel::{ACTIVATIONS, Call, Kernel, f32s, float, int, own};
use crate::launch::Columns;
use crate::{Driver, Element, Result, Shape, View, ViewMut};

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
        own("dz"),
        own("rest"),
        f32s("partial"),
        int("rows"),
        int("width"),
    ],
};
pub(super) const MAGNITUDE: Kernel = Kernel {
    module: "dora",
    name: "dora_magnitude",
    elements: &[Element::F32],
    parameters: &[f32s("dm"), f32s("partial"), f32s("m"), f32s("n"), int("from_output"), int("strips"), int("width")],
};
pub(super) const VANISHED: Kernel = Kernel {
    module: "dora",
    name: "dora_vanished",
    elements: ACTIVATIONS,
    parameters: &[
        f32s("dm"),
        own("dy"),
        own("x"),
        own("h"),
        own("w"),
        f32s("b"),
        f32s("m"),
        f32s("n"),
        float("s"),
        int("rows"),
        int("inner"),
        int("rank"),
        int("width"),
    ],
};

/// Rows that one block takes; the sums for the magnitudes' gradient come in as many strips.
const ROWS: usize = 64;
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
}

/// Strips of sums that [`dora_backward`] gives for a number of rows.
pub fn dora_strips(rows: usize) -> usize {
    rows.div_ceil(ROWS)
}

/// dz = g ⊙ dy, and Σ dy ⊙ (value − b) a strip.
pub fn dora_backward(driver: &dyn Driver, mut a: DoraBackward<'_>) -> Result<()> {
    let grid = Grid::new(a.dz.len, &a.columns, a.dz.element);
    let dy = a.dy.unwrap_or(a.dz.as_view());
    let call =
        Call::new(&BACKWARD, a.dz.element).read("dy", dy, grid.elements()).read("value", a.value, grid.elements());
    let call = grid
        .columns(call, &a.columns)
        .write("dz", &mut a.dz, grid.elements())
        .write_if("rest", a.rest.as_mut(), grid.elements())
        .write("partial", &mut a.partial, dora_strips(grid.rows) * grid.width);
    // SAFETY: see `Grid`; a strip for each block of rows; a thread has read its elements of dy before it writes those of dz.
    unsafe { grid.launch(driver, call) }
}

/// dm (out) from the strips of [`dora_backward`]: Σ/m where its value was y, Σ/n where it was z, and 0 where n is 0 or, from y,
/// m vanishes beside n; those are left to [`dora_vanished`].
pub fn dora_magnitude(
    driver: &dyn Driver,
    partial: View<'_>,
    columns: &DoraColumns<'_>,
    from_output: bool,
    mut dm: ViewMut<'_>,
) -> Result<()> {
    let width = columns.m.len;
    let strips = partial.len.checked_div(width).unwrap_or(0);
    let call = Call::new(&MAGNITUDE, Element::F32)
        .write("dm", &mut dm, width)
        .read("partial", partial, strips * width)
        .read("m", columns.m, width)
        .read("n", columns.n, width)
        .int("from_output", usize::from(from_output))
        .int("strips", strips)
        .int("width", width);
    let shape = Shape { grid: [width.div_ceil(32) as u32, 1, 1], threads: THREADS, shared: 0 };
    // SAFETY: threads beyond the columns only wait; strips are as many as were checked.
    unsafe { call.launch(driver, shape) }
}

/// Operands for magnitudes that vanish.
#[derive(Debug)]
pub struct DoraVanished<'a> {
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
    /// m and n.
    pub columns: DoraColumns<'a>,
    /// dm (out), of which the columns whose m vanishes are written.
    pub dm: ViewMut<'a>,
}

/// dm = Σ_t dy_t · (x_t·w + s·h_t·b) / n where |m| ≤ 1e-6·n.
pub fn dora_vanished(driver: &dyn Driver, mut a: DoraVanished<'_>) -> Result<()> {
    let width = a.columns.m.len;
    let of = |view: View<'_>, by: usize| view.len.checked_div(by).unwrap_or(0);
    let (rows, inner, rank) = (of(a.dy, width), of(a.w, width), of(a.b, width));
    let call = Call::new(&VANISHED, a.dy.element)
        .write("dm", &mut a.dm, width)
        .read("dy", a.dy, rows * width)
        .read("x", a.x, rows * inner)
        .read("h", a.h, rows * rank)
        .read("w", a.w, width * inner)
        .read("b", a.b, width * rank)
        .read("m", a.columns.m, width)
        .read("n", a.columns.n, width)
        .float("s", a.scaling)
        .int("rows", rows)
        .int("inner", inner)
        .int("rank", rank)
        .int("width", width);
    let shape = Shape { grid: [width.div_ceil(32) as u32, 1, 1], threads: THREADS, shared: 0 };
    // SAFETY: a block takes 32 columns and stays within the rows, inner and rank that were checked.
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
