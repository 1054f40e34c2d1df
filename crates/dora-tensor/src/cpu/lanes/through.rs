//! dx (n, in) = dy (n, out)·W: W is read in whole rows (of very long ones some hundred columns at a time), as memory is fast, packed
//! some rows at a time, and their products with all rows of dy added to sums in lanes, which are written once.

use super::{Finish, Operand, Term, sum_of_products};
use crate::cpu::{Stored, for_column_panels};
use ndarray::{ArrayView2, ArrayViewMut2, s};

/// What goes through W.
pub enum Gradient<'a> {
    /// dy, laid out.
    Laid(&'a Operand<'a>),
    /// dy as it is, laid out as its columns are reached: for one as large as logits.
    Rows(ArrayView2<'a, f32>),
}

/// dx (n, in) = dy·W, and the product `low` (of as many rows) added to it.
pub fn through(dy: Gradient, w: &dyn Stored, low: Option<Term>, dx: ArrayViewMut2<f32>) {
    #[cfg(target_arch = "x86_64")]
    if let Some(isa) = lanes::isa_of(&dy) {
        return lanes::through(isa, &dy, w, low.as_ref(), dx);
    }
    by_columns(dy, w, low.as_ref(), dx);
}

/// The same by `gemm`, for a run of columns of W at a time.
fn by_columns(dy: Gradient, w: &dyn Stored, low: Option<&Term>, dx: ArrayViewMut2<f32>) {
    let own;
    let dy = match dy {
        Gradient::Laid(dy) => dy,
        Gradient::Rows(dy) => {
            own = Operand::plain(dy, None);
            &own
        }
    };
    let (out, _) = w.dim();
    for_column_panels(w, dx, |rows, columns, panel, dx| {
        let finish = Finish { add: rows.start > 0, ..Finish::default() };
        let last = rows.end == out;
        let base = Term::new(dy, rows, panel.reversed_axes());
        let low = low.filter(|_| last).map(|low| low.of_rows(columns));
        let terms: Vec<Term> = std::iter::once(base).chain(low).collect();
        sum_of_products(&terms, &finish, dx);
    });
}

impl Term<'_> {
    /// That of some rows of w.
    fn of_rows(&self, rows: std::ops::Range<usize>) -> Term<'_> {
        Term::new(self.x, self.columns.clone(), self.w.slice(s![rows, ..]))
    }
}

#[cfg(target_arch = "x86_64")]
mod lanes {
    use super::super::ahead::Ahead;
    use super::super::kernel::{Blocks, Factor};
    use super::super::layout::{Lanes, Write};
    use super::super::pack::Pack;
    use super::super::vector::Isa;
    use super::super::{Finish, Layout, Term};
    use super::Gradient;
    use crate::cpu::{Stored, buffer, recycle, scratch, simd};
    use crate::profile;
    use ndarray::{ArrayViewMut2, Axis, s};
    use rayon::prelude::*;
    use std::ops::Range;

    /// Rows of W, at most, that are packed at a time: a block of dy then stays in the first-level cache, and the packed rows in
    /// the second-level one.
    const DEPTH: usize = 96;
    /// Rows of dy, at most, that go through W together, and of which a part's are a multiple; for other parts W is packed anew.
    const CHUNK: (usize, usize) = (1024, 64);
    /// Columns of W, about, that go together, and at least.
    const PIECE: (usize, usize) = (576, 192);
    /// Rows of dy up to which W's rows are cut into two runs, whose sums are added up; and rows of W, at least, of a run.
    const TWO_RUNS: (usize, usize) = (256, 96);

    /// The instruction set that dy is laid out for, or will be.
    pub fn isa_of(dy: &Gradient) -> Option<Isa> {
        match dy {
            Gradient::Laid(dy) => match &dy.0 {
                Layout::Lanes(dy) => Some(dy.isa()),
                Layout::Plain(..) | Layout::Own(_) => None,
            },
            Gradient::Rows(dy) => Isa::all().next().filter(|_| dy.nrows() >= super::super::FEW),
        }
    }

    /// As [`super::through`], in lanes. Runs depend on shapes alone; how rows and columns of dx are shared out moves no sum.
    pub fn through(isa: Isa, dy: &Gradient, w: &dyn Stored, low: Option<&Term>, mut dx: ArrayViewMut2<f32>) {
        let ((n, inner), (out, _)) = (dx.dim(), w.dim());
        profile::flops(2 * n * inner * (out + low.map_or(0, |low| low.columns.len())));
        let runs = if n <= TWO_RUNS.0 && out >= 2 * TWO_RUNS.1 { 2 } else { 1 };
        let height = out.div_ceil(runs);
        let threads = rayon::current_num_threads();
        let most = n.div_ceil(threads.div_ceil(runs)).clamp(CHUNK.1, CHUNK.0);
        let chunk = n.div_ceil(n.div_ceil(most).max(1)).next_multiple_of(CHUNK.1).max(CHUNK.1);
        let parts = n.div_ceil(chunk).max(1) * runs;
        let pieces = threads.div_ceil(parts).min(inner / PIECE.1).max(inner / PIECE.0).max(1);
        let width = inner.div_ceil(pieces).next_multiple_of(48).max(48);
        dx.axis_chunks_iter_mut(Axis(1), width).into_par_iter().enumerate().for_each(|(piece, mut dx)| {
            let columns = piece * width..piece * width + dx.ncols();
            dx.axis_chunks_iter_mut(Axis(0), chunk).into_par_iter().enumerate().for_each(|(i, dx)| {
                let rows = i * chunk..i * chunk + dx.nrows();
                let sum = |run| {
                    let of = run * height..out.min((run + 1) * height);
                    sums(isa, dy, w, (rows.clone(), of, columns.clone()))
                };
                let mut sums: Vec<Vec<f32>> = (0..runs).into_par_iter().map(sum).collect();
                finish(isa, &mut sums, low, (rows.start, columns.clone()), dx);
                sums.into_iter().for_each(recycle);
            });
        });
    }

    /// Sums [block][columns][lanes] of dy[rows, of]·W[of, columns].
    fn sums(
        isa: Isa,
        dy: &Gradient,
        w: &dyn Stored,
        (rows, of, columns): (Range<usize>, Range<usize>, Range<usize>),
    ) -> Vec<f32> {
        let (width, inner, in_place) = (columns.len(), w.dim().1, w.in_place());
        let mut sums = buffer(rows.len().next_multiple_of(isa.lanes()) * width);
        if of.is_empty() {
            sums.fill(0.0);
        }
        let depth = of.len().div_ceil(of.len().div_ceil(DEPTH).max(1)).max(1);
        scratch(depth * width, |packed| {
            for start in of.clone().step_by(depth) {
                let part = start..of.end.min(start + depth);
                let packed = &mut packed[..part.len() * width];
                pack(isa, w, part.clone(), columns.clone(), packed);
                let (w, add) = (Factor::Packed(packed, width), start > of.start);
                let ahead = match in_place {
                    Some(all) if part.end < of.end => {
                        let next = part.end..of.end.min(part.end + depth);
                        Ahead::new(all[next.start * inner + columns.start..].as_ptr(), next.len(), inner, width)
                    }
                    _ => Ahead::nothing(),
                };
                let of_rows = |x: &Lanes, columns, rows| {
                    isa.run(Blocks { x, columns, w, rows, sums: &mut sums, add, ahead });
                };
                match dy {
                    Gradient::Laid(dy) => match &dy.0 {
                        Layout::Lanes(dy) => of_rows(dy, part, rows.clone()),
                        Layout::Plain(..) | Layout::Own(_) => unreachable!("it gave the instruction set"),
                    },
                    Gradient::Rows(dy) => {
                        let dy = Lanes::new(isa, dy.slice(s![rows.clone(), part.clone()]), None);
                        of_rows(&dy, 0..part.len(), 0..rows.len());
                    }
                }
            }
        });
        sums
    }

    /// Packs W[rows, columns].
    fn pack(isa: Isa, w: &dyn Stored, rows: Range<usize>, columns: Range<usize>, packed: &mut [f32]) {
        /// Rows that are read side by side.
        const STRIP: usize = 8;
        let (width, inner, depth) = (columns.len(), w.dim().1, rows.len());
        let in_place = w.in_place();
        scratch(if in_place.is_some() { 0 } else { STRIP * width }, |wide| {
            for start in rows.clone().step_by(STRIP) {
                let some = start..rows.end.min(start + STRIP);
                let (strip, stride) = match in_place {
                    Some(all) => (&all[start * inner + columns.start..(some.end - 1) * inner + columns.end], inner),
                    None => {
                        let wide = &mut wide[..some.len() * width];
                        w.widen_into(some, columns.clone(), wide);
                        (&*wide, width)
                    }
                };
                isa.run(Pack { strip, stride, width, column: start - rows.start, depth, packed });
            }
        });
    }

    /// Writes the sum of all sums, and `low` added, to dx: rows from `first` on, those columns.
    fn finish(
        isa: Isa,
        sums: &mut [Vec<f32>],
        low: Option<&Term>,
        (first, columns): (usize, Range<usize>),
        mut dx: ArrayViewMut2<f32>,
    ) {
        let width = columns.len();
        let block = isa.block() * width;
        let (sum, others) = sums.split_first_mut().expect("at least one run");
        let blocks = dx.axis_chunks_iter_mut(Axis(0), isa.block()).into_par_iter();
        blocks.zip(sum.par_chunks_mut(block.max(1))).enumerate().for_each(|(i, (dx, sum))| {
            for other in &*others {
                let other = &other[i * block..][..sum.len()];
                simd(|| sum.iter_mut().zip(other).for_each(|(s, o)| *s += o));
            }
            if let Some(low) = low {
                let Layout::Lanes(x) = &low.x.0 else { unreachable!("operands of as many rows have one layout") };
                let start = first + i * isa.block();
                let low_w = low.w.slice(s![columns.clone(), ..]);
                isa.run(Blocks {
                    x,
                    columns: low.columns.clone(),
                    w: Factor::View(low_w),
                    rows: start..start + dx.nrows(),
                    sums: sum,
                    add: true,
                    ahead: Ahead::of(&dx.view()),
                });
            }
            isa.run(Write { sums: sum, finish: &Finish::default(), y: dx });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::matmul::tests::random;
    use super::super::tests::layouts;
    use super::*;
    use crate::cpu::Widen;
    use crate::rng::Philox;
    use crate::{DType, DenseWeight, Nf4Options, Nf4Weight, Tensor, Weight};
    use half::bf16;
    use ndarray::Array2;

    /// With one run and several, one piece of columns and two, one chunk of rows and two, and a low-rank term of more columns
    /// than a packed part has.
    #[test]
    fn gradients_go_through_weights_of_every_precision() {
        let mut rng = Philox::new(5, 0);
        let sizes = [
            (1, 1, 1, 1),
            (6, 7, 5, 2),
            (7, 200, 96, 3),
            (65, 193, 100, 17),
            (130, 401, 49, 5),
            (16, 97, 1160, 1),
            (521, 30, 51, 4),
            (20, 50, 40, 300),
            (9, 0, 11, 2),
            (0, 5, 7, 2),
        ];
        for (n, out, inner, rank) in sizes {
            let wide = random(&mut rng, (out, inner)).mapv(|x| bf16::from_f32(x).widen());
            let tensor = Tensor::of(wide.iter().copied().collect(), &[out, inner]);
            let mut weights: Vec<(Box<dyn Weight>, Array2<f32>)> = Vec::new();
            for dtype in [DType::F32, DType::BF16] {
                weights.push((Box::new(DenseWeight::new(tensor.to_dtype(dtype)).unwrap()), wide.clone()));
            }
            let nf4 = Nf4Weight::quantize(&tensor, Nf4Options::default()).unwrap();
            let rounded = nf4.dense().unwrap().view2("test", "w").unwrap().to_owned();
            weights.push((Box::new(nf4), rounded));
            let (dy, gain) = (random(&mut rng, (n, out)), random(&mut rng, (1, out)));
            let (dh, a) = (random(&mut rng, (n, rank)), random(&mut rng, (rank, inner)));
            let dz = &dy * &gain;
            let f64s = |m: &Array2<f32>| m.mapv(f64::from);
            let low = f64s(&dh).dot(&f64s(&a));
            let near = |got: &Array2<f32>, want: &Array2<f64>| {
                let most = 1e-5 * ((out + rank) as f64).sqrt().max(1.0);
                for (g, w) in got.iter().zip(want) {
                    assert!((f64::from(*g) - w).abs() < most * w.abs().max(1.0), "{g}, not {w}: {n} {out} {inner}");
                }
            };
            for (weight, w) in &weights {
                let (stored, base) = (weight.stored().unwrap(), f64s(&dz).dot(&f64s(w)));
                let gains = gain.as_slice();
                for (dz, dh) in layouts(dy.view(), gains).into_iter().zip(layouts(dh.view(), None)) {
                    let low_term = Term::new(&dh, 0..rank, a.t());
                    let mut dx = Array2::from_elem((n, inner), f32::NAN);
                    through(Gradient::Laid(&dz), stored, Some(low_term), dx.view_mut());
                    near(&dx, &(&base + &low));
                }
                let mut dx = Array2::from_elem((n, inner), f32::NAN);
                through(Gradient::Rows(dz.view()), stored, None, dx.view_mut());
                near(&dx, &base);
            }
        }
    }

    #[test]
    fn the_number_of_threads_moves_no_bit() {
        let mut rng = Philox::new(6, 0);
        for (n, out, inner) in [(65, 200, 1153), (9, 70, 400), (1100, 40, 50)] {
            let w = random(&mut rng, (out, inner));
            let w: Box<dyn Weight> =
                Box::new(DenseWeight::new(Tensor::of(w.iter().copied().collect(), &[out, inner])).unwrap());
            let dy = random(&mut rng, (n, out));
            let of = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut dx = Array2::from_elem((n, inner), f32::NAN);
                pool.install(|| through(Gradient::Rows(dy.view()), w.stored().unwrap(), None, dx.view_mut()));
                dx
            };
            let one = of(1);
            assert!(one.iter().all(|x| x.is_finite()));
            assert!([2, 3, 16].into_iter().all(|threads| of(threads) == one), "{n} {out} {inner}");
        }
    }
}
