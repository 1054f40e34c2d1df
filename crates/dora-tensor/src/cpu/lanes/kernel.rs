//! The kernels, for any vector. A tile is 6 rows of w times a block of x's rows, whose sums stay in registers: for each column of x
//! a few vectors are loaded, and 6 elements of w are spread.

use super::Finish;
use super::layout::{LINE, Lanes, write};
use super::vector::{MOST_LANES, Run, Vector};
use ndarray::{ArrayView2, ArrayViewMut2, s};
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

/// Rows of w at a time.
pub const ROWS: usize = 6;

/// Rows of a matrix w (rows, columns) of a product.
#[derive(Clone, Copy)]
pub enum Factor<'a> {
    /// Of any strides.
    View(ArrayView2<'a, f32>),
    /// So many rows, as [`Pack`] and [`PackRows`] leave them.
    Packed(&'a [f32], usize),
}

impl Factor<'_> {
    fn rows(&self) -> usize {
        match self {
            Factor::View(w) => w.nrows(),
            Factor::Packed(_, rows) => *rows,
        }
    }

    pub fn columns(&self) -> usize {
        match self {
            Factor::View(w) => w.ncols(),
            Factor::Packed(w, rows) => w.len() / (*rows).max(1),
        }
    }
}

/// Rows in memory that are wanted next, asked for a few lines at a time meanwhile.
#[derive(Clone)]
pub struct Ahead {
    from: *const f32,
    rows: usize,
    stride: usize,
    width: usize,
    /// Asked for with every tile.
    lines: usize,
    row: usize,
    column: usize,
}

impl Ahead {
    /// So many rows of `width` elements, each `stride` behind the one before.
    pub fn new(from: *const f32, rows: usize, stride: usize, width: usize) -> Self {
        Ahead { from, rows, stride, width, lines: 0, row: 0, column: 0 }
    }

    /// Nothing.
    pub fn nothing() -> Self {
        Self::new(std::ptr::null(), 0, 0, 0)
    }

    /// The rows of y, to be written soon.
    pub fn of(y: &ArrayView2<f32>) -> Self {
        Self::new(y.as_ptr(), y.nrows(), y.strides()[0] as usize, y.ncols())
    }

    /// As many rows of memory as w has behind it.
    pub fn behind(w: &ArrayView2<f32>) -> Self {
        let (rows, stride) = (w.nrows(), w.strides()[0]);
        Self::new(w.as_ptr().wrapping_offset(rows as isize * stride), rows, stride as usize, w.ncols())
    }

    /// All of it is to be asked for within so many tiles.
    pub fn within(mut self, tiles: usize) -> Self {
        self.lines = (self.rows * self.width.div_ceil(LINE)).div_ceil(tiles.max(1));
        self
    }

    /// Asks for the next few lines, which may lie beyond what is there: that reads nothing.
    #[inline(always)]
    pub fn ask(&mut self) {
        for _ in 0..self.lines {
            if self.row == self.rows {
                return;
            }
            let at = self.from.wrapping_add(self.row * self.stride + self.column);
            // SAFETY: every x86-64 processor has it, and it takes any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
            self.column += LINE;
            if self.column >= self.width {
                (self.row, self.column) = (self.row + 1, 0);
            }
        }
    }
}

/// Rows of the tile that begins where `left` rows are left.
#[inline(always)]
fn tile_rows(left: usize) -> usize {
    match left {
        6.. => 6,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Packs `width` columns of a strip of rows, which begin `stride` behind each other, as rows of w: those of a tile lie together,
/// [columns of w][rows of the tile], and begin at their first row times `depth`. The strip's rows are columns `column..` of w, of
/// `depth` in all.
pub struct Pack<'a> {
    pub strip: &'a [f32],
    pub stride: usize,
    pub width: usize,
    pub column: usize,
    pub depth: usize,
    pub packed: &'a mut [f32],
}

impl Run for Pack<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Pack { strip, stride, width, column, depth, packed } = self;
        let mut row = 0;
        while row < width {
            let count = tile_rows(width - row);
            let tile = &mut packed[row * depth..(row + count) * depth][column * count..];
            match count {
                ROWS => pack_tile::<ROWS>(strip, stride, row, tile),
                4 => pack_tile::<4>(strip, stride, row, tile),
                2 => pack_tile::<2>(strip, stride, row, tile),
                _ => pack_tile::<1>(strip, stride, row, tile),
            }
            row += count;
        }
    }
}

/// A tile's elements from the strip's first row on.
#[inline(always)]
fn pack_tile<const J: usize>(strip: &[f32], stride: usize, row: usize, tile: &mut [f32]) {
    /// Moved at once: those behind J are written anew with the next row.
    const WIDE: usize = 8;
    let mut to = 0;
    for from in (row..strip.len()).step_by(stride) {
        match J == ROWS && from + WIDE <= strip.len() && to + WIDE <= tile.len() {
            true => tile[to..to + WIDE].copy_from_slice(&strip[from..from + WIDE]),
            false => tile[to..to + J].copy_from_slice(&strip[from..from + J]),
        }
        to += J;
    }
}

/// Packs w (rows, columns), whose rows are contiguous, as [`Factor::Packed`] has it: read as one stream, large products are a
/// tenth faster. `packed` has a vector's room behind them.
pub struct PackRows<'a> {
    pub w: ArrayView2<'a, f32>,
    pub packed: &'a mut [f32],
}

impl Run for PackRows<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let PackRows { w, packed } = self;
        let ((rows, columns), stride) = (w.dim(), w.strides()[0]);
        assert!(columns <= 1 || w.strides()[1] == 1, "contiguous rows");
        assert!(packed.len() >= w.len() + V::LANES, "room for all and a vector");
        let mut row = 0;
        while row < rows {
            let count = tile_rows(rows - row);
            for start in (0..columns).step_by(V::LANES) {
                let some = (columns - start).min(V::LANES);
                // SAFETY: these rows are there, and `some` of their columns; a vector is stored over the room of elements that
                // come later, the last one over the room behind them.
                unsafe {
                    let mut square = [V::zero(); MOST_LANES];
                    for (j, of_row) in square.iter_mut().enumerate().take(count) {
                        let from = w.as_ptr().offset((row + j) as isize * stride).add(start);
                        *of_row = if some == V::LANES { V::load(from) } else { V::load_first(some, from) };
                    }
                    V::turn(&mut square);
                    for (i, of_column) in square.into_iter().enumerate().take(some) {
                        of_column.store(packed.as_mut_ptr().add(row * columns + (start + i) * count));
                    }
                }
            }
            row += count;
        }
    }
}

/// Columns of x that are added without a branch between them: addresses then take a tenth of the instructions, not a third.
const UNROLLED: usize = 4;

/// Column i of x times J elements of w, added to the sums of a [`tile`].
///
/// # Safety
/// As for [`tile`], for column i.
#[inline(always)]
unsafe fn add_column<V: Vector, const J: usize, const N: usize>(
    i: usize,
    (w, along): ([*const f32; J], isize),
    (x, x_stride): (*const f32, usize),
    sum: &mut [[V; N]; J],
) {
    // SAFETY: all within what the caller answers for.
    unsafe {
        let mut vectors = [V::zero(); N];
        for (v, vector) in vectors.iter_mut().enumerate() {
            *vector = V::load(x.add(i * x_stride + v * V::LANES));
        }
        for (w, sum) in w.iter().zip(sum) {
            let spread = V::spread(*w.offset(i as isize * along));
            for (sum, &vector) in sum.iter_mut().zip(&vectors) {
                *sum = spread.mul_add(vector, *sum);
            }
        }
    }
}

/// Sums (J, N vectors) of J rows of w, which begin at `w` and go on in steps of `along`, times `depth` columns of x, each a
/// stride behind the one before; in place of what `sums` holds, or added to it: a sum of parts loses fewer digits than one long
/// one.
///
/// # Safety
/// w has to be readable for `depth` columns, `x` for `depth` rows of N vectors, and `sums` to have J of them.
#[inline(always)]
unsafe fn tile<V: Vector, const J: usize, const N: usize>(
    depth: usize,
    (w, along): ([*const f32; J], isize),
    (x, x_stride): (*const f32, usize),
    (sums, sums_stride): (*mut f32, usize),
    add: bool,
) {
    // SAFETY: all within what the caller answers for.
    unsafe {
        let mut sum = [[V::zero(); N]; J];
        // Smaller tiles are few, and take long to compile.
        let whole = if J == ROWS && N == V::VECTORS { depth / UNROLLED * UNROLLED } else { 0 };
        for start in (0..whole).step_by(UNROLLED) {
            for i in 0..UNROLLED {
                add_column::<V, J, N>(start + i, (w, along), (x, x_stride), &mut sum);
            }
        }
        for i in whole..depth {
            add_column::<V, J, N>(i, (w, along), (x, x_stride), &mut sum);
        }
        for (j, sum) in sum.iter().enumerate() {
            for (v, &sum) in sum.iter().enumerate() {
                let to = sums.add(j * sums_stride + v * V::LANES);
                let sum = if add { V::load(to).add(sum) } else { sum };
                sum.store(to);
            }
        }
    }
}

/// The tile of J rows of w from `row` on. Steps that are known when this is compiled leave fewer addresses to compute.
///
/// # Safety
/// As for [`tile`], for these rows and columns of w.
#[inline(always)]
unsafe fn tile_of<V: Vector, const J: usize, const N: usize>(
    w: &Factor,
    row: usize,
    columns: &Range<usize>,
    x: (*const f32, usize),
    sums: (*mut f32, usize),
    add: bool,
) {
    let mut rows = [std::ptr::null(); J];
    // SAFETY: these rows and columns are there, by the caller's word.
    unsafe {
        match w {
            Factor::View(w) => {
                let (down, along) = (w.strides()[0], w.strides()[1]);
                for (j, at) in rows.iter_mut().enumerate() {
                    *at = w.as_ptr().offset((row + j) as isize * down + columns.start as isize * along);
                }
                match along {
                    1 => tile::<V, J, N>(columns.len(), (rows, 1), x, sums, add),
                    _ => tile::<V, J, N>(columns.len(), (rows, along), x, sums, add),
                }
            }
            Factor::Packed(packed, _) => {
                let first = packed.as_ptr().add(row * w.columns() + columns.start * J);
                for (j, at) in rows.iter_mut().enumerate() {
                    *at = first.add(j);
                }
                tile::<V, J, N>(columns.len(), (rows, J as isize), x, sums, add);
            }
        }
    }
}

/// Sums (rows of w, vectors) of the columns `columns` of w times as many rows of x.
///
/// # Safety
/// As for [`tile`], for all rows of w.
#[inline(always)]
pub unsafe fn tiles<V: Vector>(
    vectors: usize,
    w: &Factor,
    columns: Range<usize>,
    x: (*const f32, usize),
    sums: (*mut f32, usize),
    add: bool,
    ahead: &mut [Ahead],
) {
    /// With so many vectors.
    #[inline(always)]
    unsafe fn of<V: Vector, const N: usize>(
        w: &Factor,
        columns: &Range<usize>,
        x: (*const f32, usize),
        (sums, stride): (*mut f32, usize),
        add: bool,
        ahead: &mut [Ahead],
    ) {
        let mut row = 0;
        while row < w.rows() {
            ahead.iter_mut().for_each(Ahead::ask);
            let count = tile_rows(w.rows() - row);
            // SAFETY: these rows and columns are there, by the caller's word.
            unsafe {
                let sums = (sums.add(row * stride), stride);
                match count {
                    ROWS => tile_of::<V, ROWS, N>(w, row, columns, x, sums, add),
                    4 => tile_of::<V, 4, N>(w, row, columns, x, sums, add),
                    2 => tile_of::<V, 2, N>(w, row, columns, x, sums, add),
                    _ => tile_of::<V, 1, N>(w, row, columns, x, sums, add),
                }
            }
            row += count;
        }
    }
    // SAFETY: by the caller's word.
    unsafe {
        match vectors {
            4 if V::VECTORS >= 4 => of::<V, 4>(w, &columns, x, sums, add, ahead),
            3 if V::VECTORS >= 3 => of::<V, 3>(w, &columns, x, sums, add, ahead),
            2 => of::<V, 2>(w, &columns, x, sums, add, ahead),
            _ => of::<V, 1>(w, &columns, x, sums, add, ahead),
        }
    }
}

/// Parts that so many columns are cut into.
#[inline(always)]
fn parts<V: Vector>(columns: usize) -> usize {
    columns.div_ceil(V::DEPTH)
}

/// Sums [rows of w][lanes] of x[the block from row `first` on, columns]·wᵀ, in place of what is there or added to it.
///
/// # Safety
/// The processor must have the vector's instruction set.
#[inline(always)]
unsafe fn block<V: Vector>(
    x: &Lanes,
    columns: &Range<usize>,
    first: usize,
    w: &Factor,
    sums: &mut [f32],
    mut add: bool,
    ahead: &mut [Ahead],
) {
    let lanes = x.lanes(first);
    assert!(x.isa().lanes() == V::LANES, "lanes of the vectors that they were laid out for");
    assert!(
        columns.end <= x.columns() && w.columns() == columns.len() && sums.len() == w.rows() * lanes,
        "factors of one size"
    );
    let depth = columns.len().div_ceil(parts::<V>(columns.len()).max(1)).max(1);
    for start in (0..columns.len()).step_by(depth) {
        let part = start..columns.len().min(start + depth);
        let x = x.part(first, columns.start + part.start..columns.start + part.end);
        // SAFETY: w has these columns, x as many rows of `lanes`, and `sums` one of them for each row of w.
        unsafe { tiles::<V>(lanes / V::LANES, w, part, (x.as_ptr(), lanes), (sums.as_mut_ptr(), lanes), add, ahead) };
        add = true;
    }
    if !add {
        sums.fill(0.0);
    }
}

/// A term of a sum of products: x[:, columns]·wᵀ.
pub struct LanesTerm<'a> {
    pub x: &'a Lanes,
    pub columns: Range<usize>,
    pub w: Factor<'a>,
    /// What is wanted next.
    pub ahead: Ahead,
}

/// y, the rows from `first` on, becomes the sum of the terms.
pub struct SumOfProducts<'a, 'w, 'b> {
    pub terms: &'a [LanesTerm<'w>],
    pub finish: &'a Finish<'a>,
    pub first: usize,
    /// Room for a block's sums.
    pub sums: &'a mut [f32],
    pub y: ArrayViewMut2<'b, f32>,
}

impl Run for SumOfProducts<'_, '_, '_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let SumOfProducts { terms, finish, first, sums, mut y } = self;
        let (n, j) = y.dim();
        assert!(terms.iter().all(|term| term.x.in_blocks(&(first..first + n))), "whole blocks, but for the last");
        let block_rows = V::LANES * V::VECTORS;
        let tiles = |columns: usize| parts::<V>(columns) * j.div_ceil(ROWS);
        let of_term = |LanesTerm { ahead, columns, .. }: &LanesTerm| {
            [ahead.clone().within(n.div_ceil(block_rows) * tiles(columns.len())), Ahead::nothing()]
        };
        let mut ahead: Vec<[Ahead; 2]> = terms.iter().map(of_term).collect();
        for start in (0..n).step_by(block_rows) {
            let rows = y.slice(s![start..n.min(start + block_rows), ..]);
            ahead[0][1] = Ahead::of(&rows).within(tiles(terms[0].columns.len()));
            let sums = &mut sums[..j * terms[0].x.lanes(first + start)];
            for (i, (LanesTerm { x, columns, w, .. }, ahead)) in terms.iter().zip(&mut ahead).enumerate() {
                // SAFETY: by the caller's word.
                unsafe { block::<V>(x, columns, first + start, w, sums, i > 0, ahead) };
            }
            // SAFETY: as above.
            unsafe { write::<V>(sums, start, finish, &mut y) };
        }
    }
}

/// Sums of blocks, [block][rows of w][lanes] for the rows `rows` of x: x[rows, columns]·wᵀ, or that added to what is there.
pub struct Blocks<'a, 'w> {
    pub x: &'a Lanes,
    pub columns: Range<usize>,
    pub w: Factor<'w>,
    pub rows: Range<usize>,
    pub sums: &'a mut [f32],
    pub add: bool,
    /// What is wanted next.
    pub ahead: Ahead,
}

impl Run for Blocks<'_, '_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Blocks { x, columns, w, rows, sums, add, ahead } = self;
        assert!(x.in_blocks(&rows), "whole blocks, but for the last");
        let tiles = rows.len().div_ceil(x.isa().block()) * parts::<V>(columns.len()) * w.rows().div_ceil(ROWS);
        let mut ahead = [ahead.within(tiles)];
        for (first, sums) in rows.step_by(x.isa().block()).zip(sums.chunks_mut(x.isa().block() * w.rows().max(1))) {
            // SAFETY: by the caller's word.
            unsafe { block::<V>(x, &columns, first, &w, sums, add, &mut ahead) };
        }
    }
}

/// c (j, k) = wᵀ·x for w (n, j) and x (n, k), rows of x and c contiguous and k a multiple of the lanes.
pub struct Gather<'a, 'b> {
    pub w: ArrayView2<'a, f32>,
    pub x: ArrayView2<'a, f32>,
    /// Room for [`GATHERED`] rows of x.
    pub room: &'b mut [f32],
    pub c: ArrayViewMut2<'b, f32>,
}

/// Rows of x that a tile of [`Gather`] goes through: read as they lie and copied side by side first, since rows of one length would
/// fall on few lines of a cache.
pub const GATHERED: usize = 128;

impl Run for Gather<'_, '_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        /// Rows of x that are asked for ahead of being copied.
        const AHEAD: usize = 8;
        let Gather { w, x, room, mut c } = self;
        let ((n, j), k) = (w.dim(), x.ncols());
        assert!(x.nrows() == n && c.dim() == (j, k) && k.is_multiple_of(V::LANES), "operands of one size");
        let contiguous = |rows: usize, stride: isize| rows * k == 0 || stride == 1;
        assert!(contiguous(n, x.strides()[1]) && contiguous(j, c.strides()[1]), "contiguous rows");
        let (x_stride, c_stride) = (x.strides()[0] as usize, c.strides()[0] as usize);
        let w = Factor::View(w.reversed_axes());
        let lanes = |column: usize| (k - column).min(V::LANES * V::VECTORS);
        let blocks = || (0..k).step_by(V::LANES * V::VECTORS);
        for start in (0..n.max(1)).step_by(GATHERED) {
            let rows = start..n.min(start + GATHERED);
            let room = &mut room[..rows.len() * k];
            // SAFETY: x has these rows and columns, `room` as many, c a row for each of w.
            unsafe {
                for (i, row) in rows.clone().enumerate() {
                    let from = x.as_ptr().add(row * x_stride);
                    Ahead::new(from.wrapping_add(AHEAD * x_stride), 1, 0, k).within(1).ask();
                    for column in blocks() {
                        let to = &mut room[column * rows.len() + i * lanes(column)..][..lanes(column)];
                        for lane in (0..to.len()).step_by(V::LANES) {
                            V::load(from.add(column + lane)).store(to[lane..][..V::LANES].as_mut_ptr());
                        }
                    }
                }
                for column in blocks() {
                    let (c, x) = (c.as_mut_ptr().add(column), room[column * rows.len()..].as_ptr());
                    let (c, x) = ((c, c_stride), (x, lanes(column)));
                    tiles::<V>(lanes(column) / V::LANES, &w, rows.clone(), x, c, start > 0, &mut []);
                }
            }
        }
    }
}
