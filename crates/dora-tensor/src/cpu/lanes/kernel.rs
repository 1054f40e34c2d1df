//! The kernels, for any vector. A tile is 6 rows of w times a block of x's rows, whose sums stay in registers: for each column of x
//! a few vectors are loaded, and 6 elements of w are spread.

use super::Finish;
use super::ahead::{Ahead, LINE};
use super::layout::{Lanes, write};
use super::vector::{Run, Vector};
use ndarray::{ArrayView2, ArrayViewMut2, s};
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::ops::Range;

/// Rows of w at a time.
pub const ROWS: usize = 6;

/// Rows of a matrix w (rows, columns) of a product.
#[derive(Clone, Copy)]
pub enum Factor<'a> {
    /// Of any strides.
    View(ArrayView2<'a, f32>),
    /// So many rows, as [`Pack`](super::pack::Pack) and [`PackRows`](super::pack::PackRows) leave them.
    Packed(&'a [f32], usize),
}

impl Factor<'_> {
    fn rows(&self) -> usize {
        match self {
            Factor::View(w) => w.nrows(),
            Factor::Packed(_, rows) => *rows,
        }
    }

    fn columns(&self) -> usize {
        match self {
            Factor::View(w) => w.ncols(),
            Factor::Packed(w, rows) => w.len() / (*rows).max(1),
        }
    }
}

/// Rows of the tile that begins where `left` rows are left.
#[inline(always)]
pub fn tile_rows(left: usize) -> usize {
    match left {
        6.. => 6,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Columns of x that a full tile adds without a branch between them, so that few of its instructions compute addresses.
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
        if add {
            for j in 0..J {
                for column in (0..N * V::LANES).step_by(LINE) {
                    _mm_prefetch::<_MM_HINT_T0>(sums.add(j * sums_stride + column).cast());
                }
            }
        }
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

/// Sums (rows of w, vectors) of the columns `columns` of w times as many rows of x; `ask` is called before each tile.
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
    mut ask: impl FnMut(),
) {
    /// With so many vectors.
    #[inline(always)]
    unsafe fn of<V: Vector, const N: usize>(
        w: &Factor,
        columns: &Range<usize>,
        x: (*const f32, usize),
        (sums, stride): (*mut f32, usize),
        add: bool,
        ask: &mut impl FnMut(),
    ) {
        let mut row = 0;
        while row < w.rows() {
            ask();
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
            4 if V::VECTORS >= 4 => of::<V, 4>(w, &columns, x, sums, add, &mut ask),
            3 if V::VECTORS >= 3 => of::<V, 3>(w, &columns, x, sums, add, &mut ask),
            2 => of::<V, 2>(w, &columns, x, sums, add, &mut ask),
            _ => of::<V, 1>(w, &columns, x, sums, add, &mut ask),
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
    let part = |start: usize| start..columns.len().min(start + depth);
    let of_x = |first, part: Range<usize>| x.part(first, columns.start + part.start..columns.start + part.end);
    for start in (0..columns.len()).step_by(depth) {
        let part_of_w = part(start);
        let next = match (part_of_w.end < columns.len(), first + lanes < x.rows()) {
            (true, _) => of_x(first, part(part_of_w.end)),
            (false, true) => of_x(first + lanes, part(0)),
            (false, false) => &[],
        };
        let mut next = match w {
            // A w that is packed meets, mostly, more rows of x than stay in a core's cache.
            Factor::Packed(..) => Ahead::new(next.as_ptr(), 1, 0, next.len()).within(w.rows().div_ceil(ROWS)),
            Factor::View(_) => Ahead::nothing(),
        };
        let ask = || {
            next.ask();
            ahead.iter_mut().for_each(Ahead::ask);
        };
        let x = (of_x(first, part_of_w.clone()).as_ptr(), lanes);
        // SAFETY: w has these columns, x as many rows of `lanes`, and `sums` one of them for each row of w.
        unsafe { tiles::<V>(lanes / V::LANES, w, part_of_w, x, (sums.as_mut_ptr(), lanes), add, ask) };
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
}

/// y, the rows from `first` on, becomes the sum of the terms.
pub struct SumOfProducts<'a, 'w, 'b> {
    pub terms: &'a [LanesTerm<'w>],
    pub finish: &'a Finish<'a>,
    /// What is wanted next, asked for with the first term's tiles.
    pub ahead: Ahead,
    pub first: usize,
    /// Room for a block's sums.
    pub sums: &'a mut [f32],
    pub y: ArrayViewMut2<'b, f32>,
}

impl Run for SumOfProducts<'_, '_, '_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let SumOfProducts { terms, finish, ahead, first, sums, mut y } = self;
        let (n, j) = y.dim();
        assert!(terms.iter().all(|term| term.x.in_blocks(&(first..first + n))), "whole blocks, but for the last");
        let LanesTerm { x, columns, .. } = terms.first().expect("a sum has terms");
        let (rows, tiles) = (V::LANES * V::VECTORS, parts::<V>(columns.len()) * j.div_ceil(ROWS));
        let mut ahead = [ahead.within(n.div_ceil(rows) * tiles), Ahead::nothing()];
        for start in (0..n).step_by(rows) {
            ahead[1] = Ahead::of(&y.slice(s![start..n.min(start + rows), ..])).within(tiles);
            let sums = &mut sums[..j * x.lanes(first + start)];
            for (i, LanesTerm { x, columns, w }) in terms.iter().enumerate() {
                let ahead = if i == 0 { &mut ahead[..] } else { &mut [] };
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
                    tiles::<V>(lanes(column) / V::LANES, &w, rows.clone(), x, c, start > 0, || ());
                }
            }
        }
    }
}
