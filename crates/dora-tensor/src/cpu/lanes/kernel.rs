//! The kernels, for any vector. A tile is 6 rows of one factor times a few vectors of the other, and its sums stay in registers: for
//! each element of a row a few vectors are loaded, and 6 elements are spread.

use super::ahead::{Ahead, LINE};
use super::vector::{MOST_LANES, MOST_VECTORS, Run, Vector};
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
    /// So many rows, as [`Pack`](super::pack::Pack) leaves them.
    Packed(&'a [f32], usize),
}

impl Factor<'_> {
    fn rows(&self) -> usize {
        match self {
            Factor::View(w) => w.nrows(),
            Factor::Packed(_, rows) => *rows,
        }
    }
}

/// Rows at a time where a tile is one vector wide, whose sums would wait for each other.
const NARROW_ROWS: usize = 2 * ROWS;

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
    ahead: &mut [Ahead],
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
        let whole = if (J == ROWS && N == V::VECTORS) || J == NARROW_ROWS { depth / UNROLLED * UNROLLED } else { 0 };
        for start in (0..whole).step_by(UNROLLED) {
            ahead.iter_mut().for_each(Ahead::ask);
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
    ahead: &mut [Ahead],
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
                    1 => tile::<V, J, N>(columns.len(), (rows, 1), x, sums, add, ahead),
                    _ => tile::<V, J, N>(columns.len(), (rows, along), x, sums, add, ahead),
                }
            }
            Factor::Packed(packed, rows_in_all) => {
                let first = packed.as_ptr().add(row * (packed.len() / rows_in_all) + columns.start * J);
                for (j, at) in rows.iter_mut().enumerate() {
                    *at = first.add(j);
                }
                tile::<V, J, N>(columns.len(), (rows, J as isize), x, sums, add, ahead);
            }
        }
    }
}

/// Sums (rows of w, vectors) of the columns `columns` of w times as many rows of x; meanwhile asks for what is
/// wanted next.
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
            let left = w.rows() - row;
            let narrow = N == 1 && left >= NARROW_ROWS && matches!(w, Factor::View(_));
            let count = if narrow { NARROW_ROWS } else { tile_rows(left) };
            // SAFETY: these rows and columns are there, by the caller's word.
            unsafe {
                let sums = (sums.add(row * stride), stride);
                match count {
                    NARROW_ROWS if N == 1 => tile_of::<V, NARROW_ROWS, N>(w, row, columns, x, sums, add, ahead),
                    ROWS => tile_of::<V, ROWS, N>(w, row, columns, x, sums, add, ahead),
                    4 => tile_of::<V, 4, N>(w, row, columns, x, sums, add, ahead),
                    2 => tile_of::<V, 2, N>(w, row, columns, x, sums, add, ahead),
                    _ => tile_of::<V, 1, N>(w, row, columns, x, sums, add, ahead),
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

/// y (n, j), of contiguous rows, becomes x·w for x (n, k), of contiguous rows, and a w (k, j) that
/// [`PackColumns`](super::pack::PackColumns) packed in tiles of so many columns; or that is added to it.
pub struct PackedProduct<'a, 'b> {
    pub x: ArrayView2<'a, f32>,
    pub packed: &'a [f32],
    pub tile: usize,
    pub add: bool,
    /// Is wanted next.
    pub ahead: Ahead,
    pub y: ArrayViewMut2<'b, f32>,
}

impl Run for PackedProduct<'_, '_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        /// Rows of x that go by all tiles' columns before the next ones do.
        const TOGETHER: usize = 4 * ROWS;
        let PackedProduct { x, packed, tile, add, ahead, mut y } = self;
        let ((n, k), j) = (x.dim(), y.ncols());
        assert!(y.nrows() == n && packed.len() == k * j.next_multiple_of(V::LANES), "factors of one size");
        assert!((k <= 1 || x.strides()[1] == 1) && (j <= 1 || y.strides()[1] == 1), "contiguous rows");
        assert!(tile.is_multiple_of(V::LANES) && (1..=V::VECTORS).contains(&(tile / V::LANES)), "a tile of vectors");
        let stride = if n <= 1 { j } else { y.strides()[0] as usize };
        for first in (0..n).step_by(TOGETHER) {
            let rows = first..n.min(first + TOGETHER);
            let x = x.slice(s![rows.clone(), ..]);
            let next = Ahead::behind(&x, TOGETHER as isize * x.strides()[0]);
            let ahead = &mut [next, ahead.part(rows.clone(), n)];
            let x = Factor::View(x);
            for start in (0..j).step_by(tile) {
                let columns = start..j.min(start + tile);
                let width = columns.len().next_multiple_of(V::LANES);
                let w = (packed[start * k..].as_ptr(), width);
                // SAFETY: x has these columns, w a row of `width` for each, and y or the room in its place a row for each of x's.
                unsafe {
                    if columns.len() == width {
                        let y = y.as_mut_ptr().add(first * stride + start);
                        tiles::<V>(width / V::LANES, &x, 0..k, w, (y, stride), add, ahead);
                        continue;
                    }
                    let mut y = y.slice_mut(s![rows.clone(), columns]);
                    let mut room = [0.0; TOGETHER * MOST_LANES * MOST_VECTORS];
                    if add {
                        room.chunks_exact_mut(width).zip(y.rows()).for_each(|(to, from)| {
                            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                        });
                    }
                    tiles::<V>(width / V::LANES, &x, 0..k, w, (room.as_mut_ptr(), width), add, ahead);
                    room.chunks_exact(width).zip(y.rows_mut()).for_each(|(from, to)| {
                        to.into_iter().zip(from).for_each(|(to, from)| *to = *from);
                    });
                }
            }
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
                    Ahead::new(from.wrapping_add(AHEAD * x_stride), 1, 0, k).ask_all();
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
