//! Products with a frozen matrix W (out, in), a panel of it at a time. Weights in `f32` are read where they lie, if the product
//! does so ([`reads_in_place`]); else the panel is brought into scratch, widened if need be, and multiplied there.
//! (`gemm` jumps about in a panel, for which pages of a mapped file are slow.) Sizes of panels depend on shapes alone, never on the
//! number of threads: `gemm` sums few rows in an order that depends on them.

use super::lanes::{DEPTH, Finish, JOINED, Term, reads_in_place, sum_of_products, through};
use super::{scratch, simd};
use half::{bf16, f16};
use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;
use std::ops::Range;

/// An element that widens to `f32`.
pub trait Widen: Copy + Sync {
    /// Widens.
    fn widen(self) -> f32;
}

impl Widen for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Widen for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Widen for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// A stored matrix W whose elements widen to `f32`, a rectangle at a time.
pub trait Stored: Sync {
    /// (rows, columns).
    fn dim(&self) -> (usize, usize);
    /// Widens a rectangle into `out`, row-major.
    fn widen_into(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]);
    /// All of it row-major, if it lies in memory as `f32`.
    fn in_place(&self) -> Option<&[f32]>;
}

/// Widens a rectangle of the row-major matrix `w` of rows of `width`.
pub fn widen_rectangle<T: Widen>(w: &[T], width: usize, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
    for (row, out) in rows.zip(out.chunks_exact_mut(columns.len().max(1))) {
        let row = &w[row * width..(row + 1) * width][columns.clone()];
        simd(|| out.iter_mut().zip(row).for_each(|(o, x)| *o = x.widen()));
    }
}

/// Elements of a panel: 1 MiB, about a core's second-level cache.
const PANEL: usize = 1 << 18;
/// Panels of rows, about, of a small W.
const PANELS: usize = 16;
/// Rows or columns that a panel is a multiple of: three vectors of 16, the width of a register block of `gemm`.
const STRIPE: usize = 48;
/// Rows of x from which on panels have [`ROWS`] rows: all of x goes by once for each, and by then it is large.
const MANY: usize = 256;
/// Rows of W in a panel that many rows of x go by.
const ROWS: usize = 192;
/// Columns of W, about, that a gradient goes through together; for `gemm` there are eight runs of columns, up to so many.
const COLUMNS: (usize, usize) = (320, 1008);

/// A rectangle of W at hand.
pub struct Panel<'a> {
    /// Its elements.
    pub w: ArrayView2<'a, f32>,
    in_place: bool,
}

impl Panel<'_> {
    /// x·w.
    pub fn term<'a>(&'a self, x: ArrayView2<'a, f32>) -> Term<'a> {
        Term { goes_on: self.in_place, ..Term::new(x, self.w.view()) }
    }

    /// x·wᵀ.
    pub fn transposed<'a>(&'a self, x: ArrayView2<'a, f32>) -> Term<'a> {
        Term { goes_on: self.in_place, ..Term::new(x, self.w.t()) }
    }
}

/// Calls `f` with a rectangle of W in scratch.
fn with_panel<T>(w: &dyn Stored, rows: Range<usize>, columns: Range<usize>, f: impl FnOnce(&Panel) -> T) -> T {
    let dim = (rows.len(), columns.len());
    scratch(dim.0 * dim.1, |buffer| {
        w.widen_into(rows, columns, buffer);
        let w = ArrayView2::from_shape(dim, buffer).expect("the scratch has the panel's size");
        f(&Panel { w, in_place: false })
    })
}

/// Calls `f(rows, W[rows], parts)` for panels of W's rows in parallel, where `parts` are the columns `rows` of every y (n, out);
/// gives the results in order. W, which is to be multiplied by `n` rows, is taken where it lies, if that suits so many and it lies
/// somewhere.
pub fn for_row_panels<T: Send>(
    w: &dyn Stored,
    n: usize,
    ys: Vec<ArrayViewMut2<f32>>,
    f: impl Fn(Range<usize>, &Panel, Vec<ArrayViewMut2<f32>>) -> T + Sync,
) -> Vec<T> {
    let (out, inner) = w.dim();
    let size = rows_of_panel((out, inner), n);
    let panels = column_panels(ys, out, size).into_par_iter().enumerate();
    let run = |(i, parts): (usize, Vec<_>)| {
        let rows = i * size..out.min((i + 1) * size);
        match in_place(w, n) {
            Some(all) => f(rows.clone(), &Panel { w: all.slice(s![rows, ..]), in_place: true }, parts),
            None => with_panel(w, rows.clone(), 0..inner, |w| f(rows, w, parts)),
        }
    };
    panels.map(run).collect()
}

/// W where it lies, if that suits a product with so many rows.
fn in_place(w: &dyn Stored, rows: usize) -> Option<ArrayView2<'_, f32>> {
    let all = w.in_place().filter(|_| reads_in_place(rows))?;
    Some(ArrayView2::from_shape(w.dim(), all).expect("all of a matrix has its size"))
}

/// Rows of a panel of W (out, inner), by shape and the rows of x.
fn rows_of_panel((out, inner): (usize, usize), n: usize) -> usize {
    match n {
        MANY.. => even_parts(out, ROWS),
        _ => {
            let fitting = ROWS.min(PANEL / inner.max(1) / STRIPE * STRIPE);
            fitting.max(STRIPE).min(out.div_ceil(PANELS).next_multiple_of(STRIPE).max(STRIPE))
        }
    }
}

/// Size of about an even number of parts of about one size, of `most` at most, in whole tiles of three or of four vectors.
fn even_parts(whole: usize, most: usize) -> usize {
    let size = whole.div_ceil(whole.div_ceil(most).next_multiple_of(2).max(1)).max(1);
    size.next_multiple_of(48).min(size.next_multiple_of(64))
}

/// Floats that a thread has at hand for a product with W (out, in): a widened panel, and what it is packed into.
pub fn panel_room((out, inner): (usize, usize)) -> usize {
    let forward = out.min(ROWS) * (inner + inner.min(DEPTH) + JOINED);
    let backward = inner.min(COLUMNS.0) * (2 * out.min(DEPTH) + JOINED);
    forward.max(backward).max(PANEL.min(out * inner))
}

/// Calls `f(rows, columns, W[rows, columns], part)` for panels of W, where `part` is the columns `columns` of dx (n, in): for each
/// run of columns in parallel, rows from first to last. Without rows, once with none.
pub fn for_column_panels(
    w: &dyn Stored,
    dx: ArrayViewMut2<f32>,
    f: impl Fn(Range<usize>, Range<usize>, &Panel, ArrayViewMut2<f32>) + Sync,
) {
    let ((out, inner), n) = (w.dim(), dx.nrows());
    let (whole, packs) = (in_place(w, n), reads_in_place(n));
    let (width, height) = match packs {
        true => (even_parts(inner, COLUMNS.0), DEPTH),
        false => {
            let width = inner.div_ceil(8).next_multiple_of(STRIPE).clamp(STRIPE, COLUMNS.1);
            (width, PANEL / width)
        }
    };
    column_panels(vec![dx], inner, width).into_par_iter().enumerate().for_each(|(i, mut parts)| {
        let columns = i * width..inner.min((i + 1) * width);
        if let Some(all) = whole {
            let panel = Panel { w: all.slice(s![.., columns.clone()]), in_place: true };
            return f(0..out, columns, &panel, parts.remove(0));
        }
        for first in (0..out.max(1)).step_by(height) {
            let rows = first..out.min(first + height);
            with_panel(w, rows.clone(), columns.clone(), |panel| f(rows, columns.clone(), panel, parts[0].view_mut()));
        }
    });
}

/// y (n, out) = x (n, in)·Wᵀ.
pub fn matmul_stored_nt(x: ArrayView2<f32>, w: &dyn Stored, y: ArrayViewMut2<f32>) {
    for_row_panels(w, x.nrows(), vec![y], |_, panel, mut y| {
        sum_of_products(&[panel.transposed(x)], &Finish::default(), y.remove(0));
    });
}

/// dx (n, in) = dy (n, out)·W.
pub fn matmul_stored_nn(dy: ArrayView2<f32>, w: &dyn Stored, dx: ArrayViewMut2<f32>) {
    through(dy, None, w, None, dx);
}

/// Row i of a panel times `gain[i]`.
pub fn scale_each_row(panel: ArrayViewMut2<f32>, gain: &[f32]) {
    for_rows(panel, |i, row| {
        let g = gain[i];
        simd(|| row.iter_mut().for_each(|x| *x *= g));
    });
}

/// Calls `f(i, row)` for every row of a part of row-major columns.
pub fn for_rows(mut part: ArrayViewMut2<f32>, mut f: impl FnMut(usize, &mut [f32])) {
    for (i, mut row) in part.rows_mut().into_iter().enumerate() {
        f(i, row.as_slice_mut().expect("the rows of a row-major matrix are contiguous"));
    }
}

/// Cuts outputs of one width into panels of columns: for each panel, its part of every output.
fn column_panels(ys: Vec<ArrayViewMut2<'_, f32>>, width: usize, size: usize) -> Vec<Vec<ArrayViewMut2<'_, f32>>> {
    let mut panels: Vec<Vec<_>> = (0..width.div_ceil(size)).map(|_| Vec::with_capacity(ys.len())).collect();
    for mut rest in ys {
        for panel in &mut panels {
            let columns = size.min(rest.ncols());
            let (part, tail) = rest.split_at(Axis(1), columns);
            panel.push(part);
            rest = tail;
        }
    }
    panels
}

#[cfg(test)]
mod tests {
    use super::super::matmul::tests::{SIZES, check, random};
    use super::*;
    use crate::rng::Philox;
    use crate::{DType, DenseWeight, Tensor};
    use ndarray::Array2;

    #[test]
    fn parts_are_even_in_number_and_whole_tiles() {
        let sizes = [(192, 96), (576, 144), (1536, 192), (1, 48), (0, 48), (200, 128)];
        assert_eq!(sizes.map(|(whole, _)| even_parts(whole, ROWS)), sizes.map(|(_, size)| size));
        for whole in 0..5000 {
            for most in [ROWS, COLUMNS.0] {
                let size = even_parts(whole, most);
                assert!(size <= most && (size.is_multiple_of(48) || size.is_multiple_of(64)), "{whole} {size}");
            }
        }
    }

    #[test]
    fn stored_weights_multiply_as_their_widened_values() {
        let mut rng = Philox::new(2, 0);
        for (n, inner, out) in SIZES.into_iter().chain([(3, 3001, 173), (2, 97, 3002)]) {
            let wide = random(&mut rng, (out, inner)).mapv(|x| bf16::from_f32(x).to_f32());
            let tensor = Tensor::of(wide.iter().copied().collect::<Vec<_>>(), &[out, inner]);
            let stored = [DType::BF16, DType::F32].map(|dtype| DenseWeight::new(tensor.to_dtype(dtype)).unwrap());
            let (x, dy) = (random(&mut rng, (n, inner)), random(&mut rng, (n, out)));
            for w in &stored {
                let mut y = Array2::from_elem((n, out), f32::NAN);
                matmul_stored_nt(x.view(), w, y.view_mut());
                check(&y, &x, &wide.t().to_owned());
                let mut dx = Array2::from_elem((n, inner), f32::NAN);
                matmul_stored_nn(dy.view(), w, dx.view_mut());
                check(&dx, &dy, &wide);
            }
        }
    }
}
