//! Products with a frozen matrix W (out, in), a panel of it at a time. Weights in `f32` are read where they lie, if the product
//! does so ([`Operand::reads_in_place`]); else the panel is brought into scratch, widened if need be, and multiplied on the same
//! thread. (`gemm` jumps about in a panel, for which pages of a mapped file are slow.) Sizes of panels
//! depend on shapes alone, never on the number of threads: `gemm` sums few rows in an order that depends on them.

use super::lanes::{Finish, Gradient, Operand, Term, sum_of_products, through};
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
/// The same for a W that is packed: its panels are then cut by rows of x too.
const PACKED_PANELS: usize = 4;
/// Rows of a packed panel, at least and at most: x goes by once for each panel, and is better read from memory less often even
/// where the panel does not fit the second-level cache.
const PACKED: (usize, usize) = (96, 192);
/// Elements of a packed panel, unless it has the fewest rows.
const PACKED_PANEL: usize = 1 << 20;
/// Rows or columns that a panel is a multiple of: three vectors of 16, the width of a register block of `gemm`.
const STRIPE: usize = 48;

/// Rows of W at hand.
pub struct Panel<'a> {
    /// Their elements.
    pub w: ArrayView2<'a, f32>,
    in_place: bool,
}

impl Panel<'_> {
    /// x·wᵀ.
    pub fn term<'a>(&'a self, x: &'a Operand<'a>) -> Term<'a> {
        let (columns, w) = (0..self.w.ncols(), self.w.view());
        if self.in_place { Term::of_many(x, columns, w) } else { Term::new(x, columns, w) }
    }
}

/// Calls `f` with a rectangle of W in scratch.
fn with_panel<T>(w: &dyn Stored, rows: Range<usize>, columns: Range<usize>, f: impl FnOnce(ArrayView2<f32>) -> T) -> T {
    let dim = (rows.len(), columns.len());
    scratch(dim.0 * dim.1, |buffer| {
        w.widen_into(rows, columns, buffer);
        f(ArrayView2::from_shape(dim, buffer).expect("the scratch has the panel's size"))
    })
}

/// Calls `f(rows, W[rows], parts)` for panels of W's rows in parallel, where `parts` are the columns `rows` of every y (n, out);
/// gives the results in order. W, which is to be multiplied by x, is taken where it lies, if that suits x and it lies somewhere.
pub fn for_row_panels<T: Send>(
    w: &dyn Stored,
    x: &Operand,
    ys: Vec<ArrayViewMut2<f32>>,
    f: impl Fn(Range<usize>, &Panel, Vec<ArrayViewMut2<f32>>) -> T + Sync,
) -> Vec<T> {
    let (out, inner) = w.dim();
    let (in_place, size) = (x.reads_in_place(), rows_of_panel((out, inner), x.packs()));
    let panels = column_panels(ys, out, size).into_par_iter().enumerate();
    let run = |(i, parts): (usize, Vec<_>)| {
        let rows = i * size..out.min((i + 1) * size);
        match w.in_place().filter(|_| in_place) {
            Some(all) => {
                let whole = ArrayView2::from_shape(w.dim(), all).expect("all of a matrix has its size");
                f(rows.clone(), &Panel { w: whole.slice(s![rows, ..]), in_place }, parts)
            }
            None => with_panel(w, rows.clone(), 0..inner, |w| f(rows, &Panel { w, in_place: false }, parts)),
        }
    };
    panels.map(run).collect()
}

/// Rows of a panel of W (out, inner), by shape alone.
fn rows_of_panel((out, inner): (usize, usize), packed: bool) -> usize {
    let fitting = |elements| elements / inner.max(1) / STRIPE * STRIPE;
    let part = |panels| out.div_ceil(panels).next_multiple_of(STRIPE).max(STRIPE);
    match packed {
        true => fitting(PACKED_PANEL).min(part(PACKED_PANELS)).clamp(PACKED.0, PACKED.1),
        false => fitting(PANEL).max(STRIPE).min(part(PANELS)),
    }
}

/// Floats that a thread has at hand, at most, for a product with W (out, in): a panel, or a packed one and what it is packed from.
pub fn panel_room(dim: (usize, usize)) -> usize {
    let floats = |packed| rows_of_panel(dim, packed) * dim.1;
    floats(false).max(2 * floats(true))
}

/// Calls `f(rows, columns, W[rows, columns], part)` for panels of W, where `part` is the columns `columns` of dx (n, in): for each
/// run of columns in parallel, rows from first to last on one thread. Without rows, once with none.
pub fn for_column_panels(
    w: &dyn Stored,
    dx: ArrayViewMut2<f32>,
    f: impl Fn(Range<usize>, Range<usize>, ArrayView2<f32>, ArrayViewMut2<f32>) + Sync,
) {
    let (out, inner) = w.dim();
    let width = inner.div_ceil(8).next_multiple_of(STRIPE).clamp(STRIPE, 1008);
    let height = PANEL / width;
    column_panels(vec![dx], inner, width).into_par_iter().enumerate().for_each(|(i, mut parts)| {
        let columns = i * width..inner.min((i + 1) * width);
        for first in (0..out.max(1)).step_by(height) {
            let rows = first..out.min(first + height);
            with_panel(w, rows.clone(), columns.clone(), |panel| f(rows, columns.clone(), panel, parts[0].view_mut()));
        }
    });
}

/// y (n, out) = x (n, in)·Wᵀ.
pub fn matmul_stored_nt(x: ArrayView2<f32>, w: &dyn Stored, y: ArrayViewMut2<f32>) {
    let x = Operand::new(x, None);
    for_row_panels(w, &x, vec![y], |_, panel, mut y| {
        sum_of_products(&[panel.term(&x)], &Finish::default(), y.remove(0));
    });
}

/// dx (n, in) = dy (n, out)·W. For a tall W (a vocabulary's) dy is as large as logits, and laid out as it is needed.
pub fn matmul_stored_nn(dy: ArrayView2<f32>, w: &dyn Stored, dx: ArrayViewMut2<f32>) {
    const TALL: usize = 16;
    let (out, inner) = w.dim();
    match out < TALL * inner {
        true => through(Gradient::Laid(&Operand::new(dy, None)), w, None, dx),
        false => through(Gradient::Rows(dy), w, None, dx),
    }
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
    fn stored_weights_multiply_as_their_widened_values() {
        let mut rng = Philox::new(2, 0);
        for (n, inner, out) in SIZES.into_iter().chain([(3, 3001, 173), (2, 97, 3002)]) {
            let wide = random(&mut rng, (out, inner)).mapv(|x| bf16::from_f32(x).to_f32());
            let tensor = Tensor::of(wide.iter().copied().collect(), &[out, inner]);
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
