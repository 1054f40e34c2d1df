//! The layout and the kernel for AVX-512. Rows of x are cut into blocks of 64; in a block the elements of a column lie side by
//! side, the last block filled up with zeros to a multiple of 16. The kernel keeps 6 rows of w times 64 rows of x in 24
//! registers: for each column 4 vectors of x and 6 spread elements of w make 24 multiply-adds.

use super::Finish;
use crate::cpu::{buffer, recycle, scratch};
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of x in a block.
pub const BLOCK: usize = 64;
/// Floats of a vector.
pub const LANES: usize = 16;
/// Rows of w at a time.
pub const ROWS: usize = 6;
/// Columns at a time: a block's are 64 KiB of x, and in w no more lines than the first-level cache holds.
const DEPTH: usize = 256;

/// x (n, k) in lanes.
pub struct Lanes {
    n: usize,
    k: usize,
    /// Block b is at b·64·k, as [k][lanes].
    data: Vec<f32>,
}

impl Drop for Lanes {
    fn drop(&mut self) {
        recycle(std::mem::take(&mut self.data));
    }
}

/// Lanes of the block that begins at row `first` of n.
fn lanes(n: usize, first: usize) -> usize {
    (n - first).next_multiple_of(LANES).min(BLOCK)
}

impl Lanes {
    /// Lays out x, its columns times `gain`; none where the processor lacks AVX-512.
    pub fn new(x: ArrayView2<f32>, gain: Option<&[f32]>) -> Option<Self> {
        let (n, k) = x.dim();
        if !is_x86_feature_detected!("avx512f") {
            return None;
        }
        if k > 1 && x.strides()[1] != 1 {
            return Self::new(x.as_standard_layout().view(), gain);
        }
        assert!(gain.is_none_or(|gain| gain.len() == k), "a gain for each column");
        let mut data = buffer(n.next_multiple_of(LANES) * k);
        data.par_chunks_mut((BLOCK * k).max(1)).enumerate().for_each(|(block, data)| {
            let first = block * BLOCK;
            let lanes = lanes(n, first);
            data.par_chunks_mut(DEPTH * lanes).enumerate().for_each(|(part, data)| {
                let columns = part * DEPTH..k.min((part + 1) * DEPTH);
                // SAFETY: the processor has AVX-512F (asked above).
                unsafe { lay_out(x, first, columns, gain, lanes, data) };
            });
        });
        Some(Lanes { n, k, data })
    }
}

/// Lays out some columns of the rows from `first` on, as [columns][lanes].
#[target_feature(enable = "avx512f")]
fn lay_out(
    x: ArrayView2<f32>,
    first: usize,
    columns: Range<usize>,
    gain: Option<&[f32]>,
    lanes: usize,
    data: &mut [f32],
) {
    for start in columns.clone().step_by(LANES) {
        let width = (columns.end - start).min(LANES);
        let mask = mask(width);
        // SAFETY: `mask` keeps the load inside of the gain.
        let gain = gain.map(|gain| unsafe { _mm512_maskz_loadu_ps(mask, gain[start..].as_ptr()) });
        for lane in (0..lanes).step_by(LANES) {
            let mut square = [_mm512_setzero_ps(); LANES];
            for (i, row) in square.iter_mut().enumerate() {
                let at = first + lane + i;
                if at < x.nrows() {
                    // SAFETY: row `at` is there, contiguous, and `mask` keeps the load inside of it.
                    let loaded = unsafe {
                        _mm512_maskz_loadu_ps(mask, x.as_ptr().offset(at as isize * x.strides()[0]).add(start))
                    };
                    *row = gain.map_or(loaded, |gain| _mm512_mul_ps(loaded, gain));
                }
            }
            for (i, column) in turn(square).into_iter().enumerate().take(width) {
                let to = &mut data[(start - columns.start + i) * lanes + lane..][..LANES];
                // SAFETY: `to` has 16 floats.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), column) };
            }
        }
    }
}

/// y, the rows from `first` on, becomes the sum of the terms (x, columns, w).
pub fn sum_of_products(
    terms: &[(&Lanes, Range<usize>, ArrayView2<f32>)],
    finish: &Finish,
    first: usize,
    mut y: ArrayViewMut2<f32>,
) {
    let (n, j) = y.dim();
    // Whole blocks, but for the last of x.
    let whole =
        |x: &Lanes| first.is_multiple_of(BLOCK) && (first + n == x.n || n.is_multiple_of(BLOCK) && first + n < x.n);
    for (x, columns, w) in terms {
        assert!(whole(x) && columns.end <= x.k && w.dim() == (j, columns.len()), "terms of one size");
    }
    assert!([finish.scale, finish.bias].into_iter().flatten().all(|v| v.len() == j), "a value for each column");
    assert!(j <= 1 || y.strides()[1] == 1, "rows of y are contiguous");
    scratch(j * BLOCK, |sums| {
        for start in (0..n).step_by(BLOCK) {
            let lanes = lanes(n, start);
            let sums = &mut sums[..j * lanes];
            // SAFETY: operands exist only where the processor has AVX-512F.
            unsafe {
                match lanes / LANES {
                    1 => block::<1>(terms, first + start, sums),
                    2 => block::<2>(terms, first + start, sums),
                    3 => block::<3>(terms, first + start, sums),
                    _ => block::<4>(terms, first + start, sums),
                }
                write(sums, lanes, start, finish, &mut y);
            }
        }
    });
}

/// The sum of the terms for the block of rows from `first` on, as [rows of w][lanes].
#[target_feature(enable = "avx512f")]
fn block<const V: usize>(terms: &[(&Lanes, Range<usize>, ArrayView2<f32>)], first: usize, sums: &mut [f32]) {
    let lanes = V * LANES;
    let mut begun = false;
    for (x, columns, w) in terms {
        let (strides, parts) = (w.strides(), columns.len().div_ceil(DEPTH).max(1));
        let depth = columns.len().div_ceil(parts).max(1);
        for start in (0..columns.len()).step_by(depth) {
            let depth = depth.min(columns.len() - start);
            let x = &x.data[first * x.k + (columns.start + start) * lanes..][..depth * lanes];
            let mut row = 0;
            while row < w.nrows() {
                let rows = if row + ROWS <= w.nrows() { ROWS } else { 1 };
                let sums = &mut sums[row * lanes..(row + rows) * lanes];
                // SAFETY: w has these rows and columns, x `depth` times the lanes, and `sums` `rows` times.
                unsafe {
                    let w = w.as_ptr().offset(row as isize * strides[0] + start as isize * strides[1]);
                    let (w, x) = (Spread { w, down: strides[0], along: strides[1] }, (x.as_ptr(), lanes));
                    let sums = (sums.as_mut_ptr(), lanes);
                    match rows {
                        ROWS => tile::<ROWS, V>(depth, w, x, sums, begun),
                        _ => tile::<1, V>(depth, w, x, sums, begun),
                    }
                }
                row += rows;
            }
            begun = true;
        }
    }
    if !begun {
        sums.fill(0.0);
    }
}

/// Elements of w that are spread: row j, column i at `w` + j·`down` + i·`along`.
#[derive(Clone, Copy)]
struct Spread {
    w: *const f32,
    down: isize,
    along: isize,
}

/// Sums (J, 16·V) of J rows of w times `depth` rows of x, each row of both a stride behind the one before; in place of what
/// `sums` holds, or added to it: a sum of parts loses fewer digits than one long one.
///
/// # Safety
/// `w` has to be readable for J rows and `depth` columns, `x` for `depth` rows of 16·V floats, and `sums` to have J of them.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn tile<const J: usize, const V: usize>(
    depth: usize,
    Spread { w, down, along }: Spread,
    (x, x_stride): (*const f32, usize),
    (sums, sums_stride): (*mut f32, usize),
    add: bool,
) {
    /// Columns ahead of the one at work whose element of w is asked for.
    const AHEAD: isize = 16;
    let mut sum = [[_mm512_setzero_ps(); V]; J];
    // SAFETY: all within what the caller answers for; a prefetch reads nothing.
    unsafe {
        for i in 0..depth {
            let w = w.offset(i as isize * along);
            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_offset(AHEAD * along).cast());
            let mut vectors = [_mm512_setzero_ps(); V];
            for (v, vector) in vectors.iter_mut().enumerate() {
                *vector = _mm512_loadu_ps(x.add(i * x_stride + v * LANES));
            }
            for (j, sum) in sum.iter_mut().enumerate() {
                let spread = _mm512_set1_ps(*w.offset(j as isize * down));
                for (sum, &vector) in sum.iter_mut().zip(&vectors) {
                    *sum = _mm512_fmadd_ps(spread, vector, *sum);
                }
            }
        }
        for (j, sum) in sum.iter().enumerate() {
            for (v, &sum) in sum.iter().enumerate() {
                let to = sums.add(j * sums_stride + v * LANES);
                _mm512_storeu_ps(to, if add { _mm512_add_ps(_mm512_loadu_ps(to), sum) } else { sum });
            }
        }
    }
}

/// c (j, k) = wᵀ·x for w (n, j) and x (n, k), rows of x and c contiguous and k a multiple of 16; false where the processor lacks
/// AVX-512, and nothing is done.
pub fn gather(w: ArrayView2<f32>, x: ArrayView2<f32>, c: &mut ArrayViewMut2<f32>) -> bool {
    if !is_x86_feature_detected!("avx512f") {
        return false;
    }
    let ((n, j), k) = (w.dim(), x.ncols());
    assert!(x.nrows() == n && c.dim() == (j, k) && k.is_multiple_of(LANES), "operands of one size");
    assert!(n * j * k == 0 || x.strides()[1] == 1 && c.strides()[1] == 1, "contiguous rows");
    for column in (0..k).step_by(BLOCK) {
        // SAFETY: the processor has AVX-512F, and these columns are there.
        unsafe {
            match (k - column).min(BLOCK) / LANES {
                1 => gather_block::<1>(w, x, column, c),
                2 => gather_block::<2>(w, x, column, c),
                3 => gather_block::<3>(w, x, column, c),
                _ => gather_block::<4>(w, x, column, c),
            }
        }
    }
    true
}

/// 16·V columns of [`gather`]'s c.
///
/// # Safety
/// x and c must have these columns, in contiguous rows.
#[target_feature(enable = "avx512f")]
unsafe fn gather_block<const V: usize>(
    w: ArrayView2<f32>,
    x: ArrayView2<f32>,
    column: usize,
    c: &mut ArrayViewMut2<f32>,
) {
    let ((n, j), strides) = (w.dim(), w.strides());
    let (x_stride, c_stride) = (x.strides()[0] as usize, c.strides()[0] as usize);
    for start in (0..n.max(1)).step_by(DEPTH) {
        let depth = DEPTH.min(n - start);
        let mut row = 0;
        while row < j {
            let rows = if row + ROWS <= j { ROWS } else { 1 };
            // SAFETY: w has these rows as columns, x these rows, and c these rows, by the caller's word.
            unsafe {
                let at = w.as_ptr().offset(start as isize * strides[0] + row as isize * strides[1]);
                let w = Spread { w: at, down: strides[1], along: strides[0] };
                let x = (x.as_ptr().add(start * x_stride + column), x_stride);
                let c = (c.as_mut_ptr().add(row * c_stride + column), c_stride);
                match rows {
                    ROWS => tile::<ROWS, V>(depth, w, x, c, start > 0),
                    _ => tile::<1, V>(depth, w, x, c, start > 0),
                }
            }
            row += rows;
        }
    }
}

/// Writes sums [rows of w][lanes] to the rows of y from `first` on.
#[target_feature(enable = "avx512f")]
fn write(sums: &[f32], lanes: usize, first: usize, finish: &Finish, y: &mut ArrayViewMut2<f32>) {
    let (n, width) = y.dim();
    let stride = y.strides()[0];
    for start in (0..width).step_by(LANES) {
        let columns = (width - start).min(LANES);
        let mask = mask(columns);
        // SAFETY: `mask` keeps the loads inside, whose length was checked.
        let load = |v: Option<&[f32]>| v.map(|v| unsafe { _mm512_maskz_loadu_ps(mask, v[start..].as_ptr()) });
        let (scale, bias) = (load(finish.scale), load(finish.bias));
        for lane in (0..lanes).step_by(LANES) {
            let mut square = [_mm512_setzero_ps(); LANES];
            for (i, row) in square.iter_mut().enumerate().take(columns) {
                let from = &sums[(start + i) * lanes + lane..][..LANES];
                // SAFETY: `from` has 16 floats.
                *row = unsafe { _mm512_loadu_ps(from.as_ptr()) };
            }
            for (i, mut row) in turn(square).into_iter().enumerate().take(n - (first + lane).min(n)) {
                // SAFETY: the row is there, contiguous, and `mask` keeps loads and stores inside of it.
                unsafe {
                    let to = y.as_mut_ptr().offset((first + lane + i) as isize * stride).add(start);
                    row = scale.map_or(row, |scale| _mm512_mul_ps(row, scale));
                    row = bias.map_or(row, |bias| _mm512_add_ps(row, bias));
                    if finish.add {
                        row = _mm512_add_ps(row, _mm512_maskz_loadu_ps(mask, to));
                    }
                    _mm512_mask_storeu_ps(to, mask, row);
                }
            }
        }
    }
}

/// The first so many of 16 lanes.
fn mask(lanes: usize) -> u16 {
    if lanes >= LANES { u16::MAX } else { (1 << lanes) - 1 }
}

/// The transpose of 16 rows of 16: elements are interleaved in pairs, pairs in fours, fours by quarters of a vector, twice.
#[target_feature(enable = "avx512f")]
#[inline]
fn turn(rows: [__m512; LANES]) -> [__m512; LANES] {
    let (mut x, mut y) = (rows, rows);
    for i in (0..LANES).step_by(2) {
        y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    for i in (0..LANES).step_by(4) {
        for half in 0..2 {
            let (a, b) = (_mm512_castps_pd(y[i + half]), _mm512_castps_pd(y[i + half + 2]));
            x[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            x[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    for i in 0..LANES / 2 {
        let i = i / 4 * 8 + i % 4;
        y[i] = _mm512_shuffle_f32x4::<0x88>(x[i], x[i + 4]);
        y[i + 4] = _mm512_shuffle_f32x4::<0xdd>(x[i], x[i + 4]);
    }
    for i in 0..LANES / 2 {
        x[i] = _mm512_shuffle_f32x4::<0x88>(y[i], y[i + 8]);
        x[i + 8] = _mm512_shuffle_f32x4::<0xdd>(y[i], y[i + 8]);
    }
    x
}
