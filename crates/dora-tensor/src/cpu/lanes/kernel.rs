//! The kernels, for any vector. A tile is 6 rows of one factor times a few vectors of the other, and its sums stay in registers: for
//! each element of a row a few vectors are loaded, and 6 elements are spread.

use super::ahead::{Ahead, LINE};
use super::vector::{MOST_LANES, MOST_VECTORS, Run, Vector};
use super::{Dots, GATHERED, STRIP};
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

/// Rows of w by some of its columns, times as many rows of x: what a tile adds up.
pub struct Part<'a> {
    pub w: Factor<'a>,
    pub columns: Range<usize>,
    /// Where x begins, and how far each row is behind the one before.
    pub x: (*const f32, usize),
}

/// What becomes of a tile's sums.
#[derive(Clone, Copy, Default)]
pub struct End {
    /// Whether what is there is added to them.
    pub add: bool,
    /// What each column is then multiplied by, and what is added to it.
    pub by: Option<(*const f32, *const f32)>,
}

impl End {
    /// Added to what is there, or in its place.
    pub fn add(add: bool) -> Self {
        End { add, by: None }
    }
}

/// Adds J rows of w, which begin at `w` and go on in steps of `along`, times `depth` rows of N vectors of x, each a stride behind the
/// one before, to the sums of a [`tile`].
///
/// # Safety
/// w has to be readable for `depth` columns, `x` for `depth` rows of N vectors.
#[inline(always)]
unsafe fn add_columns<V: Vector, const J: usize, const N: usize>(
    depth: usize,
    w: ([*const f32; J], isize),
    x: (*const f32, usize),
    sum: &mut [[V; N]; J],
    ahead: &mut [Ahead],
) {
    // SAFETY: all within what the caller answers for.
    unsafe {
        // Smaller tiles are few, and take long to compile.
        let large = (J == ROWS && (N == V::VECTORS || N == 3)) || J == NARROW_ROWS;
        let whole = if large { depth / UNROLLED * UNROLLED } else { 0 };
        for start in (0..whole).step_by(UNROLLED) {
            ahead.iter_mut().for_each(Ahead::ask);
            for i in 0..UNROLLED {
                add_column::<V, J, N>(start + i, w, x, sum);
            }
        }
        for i in whole..depth {
            add_column::<V, J, N>(i, w, x, sum);
        }
    }
}

/// The tile of J rows of w from `row` on: sums (J, N vectors) of all parts. What is added up in several goes loses fewer digits than
/// in one long one.
///
/// # Safety
/// Every part has to have these rows, and for each of its columns a row of N vectors of x; `sums` has to have J rows of N vectors, and
/// what they end with as many values.
#[inline(always)]
unsafe fn tile<V: Vector, const J: usize, const N: usize>(
    parts: &[Part],
    row: usize,
    (sums, stride): (*mut f32, usize),
    end: End,
    ahead: &mut [Ahead],
) {
    // SAFETY: all within what the caller answers for.
    unsafe {
        let mut sum = [[V::zero(); N]; J];
        if end.add {
            for j in 0..J {
                for column in (0..N * V::LANES).step_by(LINE) {
                    _mm_prefetch::<_MM_HINT_T0>(sums.add(j * stride + column).cast());
                }
            }
        }
        for Part { w, columns, x } in parts {
            let mut rows = [std::ptr::null(); J];
            match w {
                Factor::View(w) => {
                    let (down, along) = (w.strides()[0], w.strides()[1]);
                    for (j, at) in rows.iter_mut().enumerate() {
                        *at = w.as_ptr().offset((row + j) as isize * down + columns.start as isize * along);
                    }
                    // Steps that are known when this is compiled leave fewer addresses to compute.
                    match along {
                        1 => add_columns::<V, J, N>(columns.len(), (rows, 1), *x, &mut sum, ahead),
                        _ => add_columns::<V, J, N>(columns.len(), (rows, along), *x, &mut sum, ahead),
                    }
                }
                Factor::Packed(packed, rows_in_all) => {
                    let first = packed.as_ptr().add(row * (packed.len() / rows_in_all) + columns.start * J);
                    for (j, at) in rows.iter_mut().enumerate() {
                        *at = first.add(j);
                    }
                    add_columns::<V, J, N>(columns.len(), (rows, J as isize), *x, &mut sum, ahead);
                }
            }
        }
        if let Some((scale, bias)) = end.by {
            for v in 0..N {
                let (scale, bias) = (V::load(scale.add(v * V::LANES)), V::load(bias.add(v * V::LANES)));
                for (j, sum) in sum.iter_mut().enumerate() {
                    let there = sums.add(j * stride + v * V::LANES);
                    let all = if end.add { V::load(there).add(sum[v]) } else { sum[v] };
                    all.mul_add(scale, bias).store(there);
                }
            }
            return;
        }
        for (j, sum) in sum.iter().enumerate() {
            for (v, &sum) in sum.iter().enumerate() {
                let there = sums.add(j * stride + v * V::LANES);
                let all = if end.add { V::load(there).add(sum) } else { sum };
                all.store(there);
            }
        }
    }
}

/// Sums (rows of w, vectors) of all parts, whose w have as many rows; meanwhile asks for what is wanted next.
///
/// # Safety
/// As for [`tile`], for all rows of w.
#[inline(always)]
pub unsafe fn tiles<V: Vector>(vectors: usize, parts: &[Part], sums: (*mut f32, usize), end: End, ahead: &mut [Ahead]) {
    /// With so many vectors.
    #[inline(always)]
    unsafe fn of<V: Vector, const N: usize>(
        parts: &[Part],
        (sums, stride): (*mut f32, usize),
        end: End,
        ahead: &mut [Ahead],
    ) {
        let Some(Part { w, .. }) = parts.first() else { return };
        let mut row = 0;
        while row < w.rows() {
            let left = w.rows() - row;
            let narrow = N == 1 && left >= NARROW_ROWS && matches!(w, Factor::View(_));
            let count = if narrow { NARROW_ROWS } else { tile_rows(left) };
            // SAFETY: these rows are there, by the caller's word.
            unsafe {
                let sums = (sums.add(row * stride), stride);
                match count {
                    NARROW_ROWS if N == 1 => tile::<V, NARROW_ROWS, N>(parts, row, sums, end, ahead),
                    ROWS => tile::<V, ROWS, N>(parts, row, sums, end, ahead),
                    4 => tile::<V, 4, N>(parts, row, sums, end, ahead),
                    2 => tile::<V, 2, N>(parts, row, sums, end, ahead),
                    _ => tile::<V, 1, N>(parts, row, sums, end, ahead),
                }
            }
            row += count;
        }
    }
    // SAFETY: by the caller's word.
    unsafe {
        match vectors {
            4 if V::VECTORS >= 4 => of::<V, 4>(parts, sums, end, ahead),
            3 if V::VECTORS >= 3 => of::<V, 3>(parts, sums, end, ahead),
            2 => of::<V, 2>(parts, sums, end, ahead),
            _ => of::<V, 1>(parts, sums, end, ahead),
        }
    }
}

/// x (n, k), of contiguous rows, and a w (k, j) as [`PackColumns`](super::pack::PackColumns) packs it.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub x: ArrayView2<'a, f32>,
    pub w: &'a [f32],
}

/// y, of contiguous rows, becomes some rows of the sum of some x·w; or that is added to it.
pub struct PackedProduct<'a, 'b> {
    pub factors: &'a [Product<'a>],
    /// Those rows.
    pub rows: Range<usize>,
    /// Columns of w that are packed together.
    pub tile: usize,
    pub add: bool,
    /// What each column of the sum is then multiplied by, and what is added to it: values for whole vectors.
    pub by: Option<(&'a [f32], &'a [f32])>,
    /// Is wanted next.
    pub ahead: Ahead,
    pub y: ArrayViewMut2<'b, f32>,
}

impl Run for PackedProduct<'_, '_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        /// Rows of x that go by all tiles' columns before the next ones do.
        const TOGETHER: usize = 4 * ROWS;
        let PackedProduct { factors, rows: of_x, tile, add, by, ahead, mut y } = self;
        let (n, j) = y.dim();
        let filled = j.next_multiple_of(V::LANES);
        for Product { x, w } in factors {
            assert!(x.nrows() >= of_x.end && of_x.len() == n && w.len() == x.ncols() * filled, "factors of one size");
            assert!(x.ncols() <= 1 || x.strides()[1] == 1, "contiguous rows");
        }
        assert!(j <= 1 || y.strides()[1] == 1, "contiguous rows");
        assert!(by.is_none_or(|(scale, bias)| scale.len() == filled && bias.len() == filled), "whole vectors");
        assert!(tile.is_multiple_of(V::LANES) && (1..=V::VECTORS).contains(&(tile / V::LANES)), "a tile of vectors");
        let stride = if n <= 1 { j } else { y.strides()[0] as usize };
        let depth: usize = factors.iter().map(|factor| factor.x.ncols()).sum();
        let mut parts = Vec::with_capacity(factors.len());
        for first in (0..n).step_by(TOGETHER) {
            let rows = first..n.min(first + TOGETHER);
            parts.clear();
            // Of x elements are spread, of w vectors are loaded.
            parts.extend(factors.iter().map(|factor| Part {
                w: Factor::View(factor.x.slice(s![of_x.start + rows.start..of_x.start + rows.end, ..])),
                columns: 0..factor.x.ncols(),
                x: (std::ptr::null(), 0),
            }));
            let next = match parts.first() {
                Some(Part { w: Factor::View(x), .. }) => Ahead::behind(x, TOGETHER as isize * x.strides()[0]),
                _ => Ahead::nothing(),
            };
            let times = rows.len().div_ceil(ROWS) * j.div_ceil(tile) * (depth / UNROLLED);
            let ahead = &mut [next, ahead.part(rows.clone(), n)].map(|ahead| ahead.within(times));
            for start in (0..j).step_by(tile) {
                let columns = start..j.min(start + tile);
                let width = columns.len().next_multiple_of(V::LANES);
                for (part, Product { x, w }) in parts.iter_mut().zip(factors) {
                    part.x = (w[start * x.ncols()..].as_ptr(), width);
                }
                let by = by.map(|(scale, bias)| (scale[start..].as_ptr(), bias[start..].as_ptr()));
                let end = End { add, by };
                // SAFETY: each x has these columns, its w a row of `width` for each, `by` as many values, and y or the room in its
                // place a row for each of x's.
                unsafe {
                    if columns.len() == width {
                        let y = y.as_mut_ptr().add(first * stride + start);
                        tiles::<V>(width / V::LANES, &parts, (y, stride), end, ahead);
                        continue;
                    }
                    let mut y = y.slice_mut(s![rows.clone(), columns]);
                    let mut room = [0.0; TOGETHER * MOST_LANES * MOST_VECTORS];
                    if add {
                        room.chunks_exact_mut(width).zip(y.rows()).for_each(|(to, from)| {
                            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                        });
                    }
                    tiles::<V>(width / V::LANES, &parts, (room.as_mut_ptr(), width), end, ahead);
                    room.chunks_exact(width).zip(y.rows_mut()).for_each(|(from, to)| {
                        to.into_iter().zip(from).for_each(|(to, from)| *to = *from);
                    });
                }
            }
        }
    }
}

/// c (j, k) = wᵀ·x for w (n, j) and x (n, k), rows of x and c contiguous and k a multiple of the lanes.
pub struct Gather<'a, 'd, 'r, 'c> {
    pub w: ArrayView2<'a, f32>,
    pub x: ArrayView2<'a, f32>,
    /// Of x, if they are wanted.
    pub dots: Option<Dots<'d>>,
    /// Room for [`GATHERED`] rows of x: they are copied side by side, since rows of one length would fall on few lines of a cache.
    pub room: &'r mut [f32],
    pub c: ArrayViewMut2<'c, f32>,
}

impl Run for Gather<'_, '_, '_, '_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        /// Rows of x that are asked for ahead of being copied.
        const AHEAD: usize = 8;
        let Gather { w, x, mut dots, room, mut c } = self;
        let ((n, j), k) = (w.dim(), x.ncols());
        assert!(
            x.nrows() == n && c.dim() == (j, k) && k.is_multiple_of(V::LANES) && k <= STRIP,
            "operands of one size"
        );
        let contiguous = |rows: usize, stride: isize| rows * k == 0 || stride == 1;
        assert!(contiguous(n, x.strides()[1]) && contiguous(j, c.strides()[1]), "contiguous rows");
        if let Some(dots) = &mut dots {
            let less = dots.less.is_none_or(|less| less.len() == k);
            assert!(dots.sums.len() == k && less, "operands of one size");
            for y in std::iter::once(&dots.y).chain(&dots.before) {
                assert!(y.dim() == (n, k) && contiguous(n, y.strides()[1]), "contiguous rows of one size");
            }
            dots.sums.fill(0.0);
        }
        let (x_stride, c_stride) = (x.strides()[0] as usize, c.strides()[0] as usize);
        let w = Factor::View(w.reversed_axes());
        let lanes = |column: usize| (k - column).min(V::LANES * V::VECTORS);
        let blocks = || (0..k).step_by(V::LANES * V::VECTORS);
        for start in (0..n.max(1)).step_by(GATHERED) {
            let rows = start..n.min(start + GATHERED);
            let room = &mut room[..rows.len() * k];
            // SAFETY: x and y have these rows and columns, `room` as many, sums and what is subtracted a value a column, c a row
            // for each of w.
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
                if let Some(Dots { y, before, less, sums }) = &mut dots {
                    let mut part = [0.0; STRIP];
                    for row in rows.clone() {
                        let row_of = |y: &ArrayView2<f32>| {
                            let stride = y.strides()[0];
                            let row = y.as_ptr().offset(row as isize * stride);
                            Ahead::new(row.wrapping_offset(AHEAD as isize * stride), 1, 0, k).ask_all();
                            row
                        };
                        let (y, before) = (row_of(y), before.as_ref().map(row_of));
                        for column in (0..k).step_by(V::LANES) {
                            let (x, part) = (x.as_ptr().add(row * x_stride + column), part[column..].as_mut_ptr());
                            let mut y = V::load(y.add(column));
                            if let Some(before) = before {
                                y = V::load(before.add(column)).mul_add(V::spread(-1.0), y);
                            }
                            if let Some(less) = less {
                                y = V::load(less.as_ptr().add(column)).mul_add(V::spread(-1.0), y);
                            }
                            V::load(x).mul_add(y, V::load(part)).store(part);
                        }
                    }
                    for (sum, part) in sums.iter_mut().zip(part) {
                        *sum += part;
                    }
                }
                for column in blocks() {
                    let (c, x) = (c.as_mut_ptr().add(column), room[column * rows.len()..].as_ptr());
                    let (c, x) = ((c, c_stride), (x, lanes(column)));
                    let parts = [Part { w, columns: rows.clone(), x }];
                    tiles::<V>(lanes(column) / V::LANES, &parts, c, End::add(start > 0), &mut []);
                }
            }
        }
    }
}
