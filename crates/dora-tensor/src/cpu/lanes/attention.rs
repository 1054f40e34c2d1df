//! Causal attention of one key head, a block of queries at a time: scores stand as [key][query], so that the softmax goes down the
//! lanes, and every product reads what the one before it left. Sixteen queries see keys up to their last one's.

use super::FEW;
use super::kernel::{End, Factor, Part, tiles};
use super::layout::{LayOut, write};
use super::pack::Pack;
use super::vector::{Isa, Run, Vector};
use crate::cpu::{Floats, buffer, exp, recycle, scratch};
use crate::profile;
use ndarray::{ArrayView2, ArrayViewMut2, s};
use std::ops::Range;

/// Queries whose softmax is computed together, and what a head's size has to be a multiple of.
const SIDE: usize = 16;
/// Most queries of a block of any instruction set.
const MOST: usize = 64;
/// Terms that are added in `f32`, before their sum is added to others in `f64`.
const TERMS: usize = 256;

/// Keys and values (T, D) of a head.
pub struct KeyHead<'a> {
    isa: Isa,
    k: ArrayView2<'a, f32>,
    v: ArrayView2<'a, f32>,
    /// (D, T) of one of them, packed: v forward, k backward.
    turned: Floats,
}

impl Drop for KeyHead<'_> {
    fn drop(&mut self) {
        recycle(std::mem::take(&mut self.turned));
    }
}

/// A block of queries, the first of which sees `seen` keys, and each one more than the one before.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// q (m, D).
    pub q: ArrayView2<'a, f32>,
    /// Keys that the first one sees.
    pub seen: usize,
    /// Factor of the scores.
    pub scale: f32,
}

impl Queries<'_> {
    /// Keys that the last one sees.
    fn keys(&self) -> usize {
        self.seen + self.q.nrows() - 1
    }

    /// Queries, filled up to whole sides.
    fn lanes(&self) -> usize {
        self.q.nrows().next_multiple_of(SIDE)
    }

    /// Keys that some of those lanes see.
    fn seen_by(&self, lanes: Range<usize>) -> usize {
        self.keys().min(self.seen + lanes.end - 1)
    }
}

impl<'a> KeyHead<'a> {
    /// For the forward pass of so many queries; `None` where they are too few to fill lanes, or the processor or the head's size has
    /// no kernel.
    pub fn forward(k: ArrayView2<'a, f32>, v: ArrayView2<'a, f32>, queries: usize) -> Option<Self> {
        Isa::all().next().filter(|_| queries >= FEW).and_then(|isa| Self::new(isa, k, v, v))
    }

    /// For the backward pass.
    pub fn backward(k: ArrayView2<'a, f32>, v: ArrayView2<'a, f32>, queries: usize) -> Option<Self> {
        Isa::all().next().filter(|_| queries >= FEW).and_then(|isa| Self::new(isa, k, v, k))
    }

    fn new(isa: Isa, k: ArrayView2<'a, f32>, v: ArrayView2<'a, f32>, turned: ArrayView2<'a, f32>) -> Option<Self> {
        let (t, d) = turned.dim();
        if t == 0 || d == 0 || !d.is_multiple_of(SIDE) || [k, v].iter().any(|x| x.strides()[1] != 1) {
            return None;
        }
        assert!(k.dim() == v.dim(), "as many values as keys");
        // A single row may have any stride.
        let stride = if t == 1 { d } else { turned.strides()[0] as usize };
        assert!((d..isize::MAX as usize / t).contains(&stride), "rows one behind another");
        // SAFETY: from the first element to the last lies one borrowed array, of which the view is a part: rows go forward.
        let strip = unsafe { std::slice::from_raw_parts(turned.as_ptr(), (t - 1) * stride + d) };
        let mut packed = buffer(t * d);
        isa.run(Pack { strip, stride, width: d, depth: t, packed: &mut packed });
        Some(KeyHead { isa, k, v, turned: packed })
    }

    /// Queries of a block forward: as many as the kernel takes at once, so that few scores wait for the softmax.
    pub fn block(&self) -> usize {
        self.isa.block()
    }

    /// Queries of a block backward, whose number is the length of the sums for dk and dv.
    pub fn block_back(&self) -> usize {
        self.isa.block().max(2 * SIDE)
    }

    /// o (m, D) and the log-sum-exp (m) of a block.
    pub fn attend(&self, queries: Queries, o: ArrayViewMut2<f32>, lse: &mut [f32]) {
        let (lanes, d, keys) = (queries.lanes(), self.k.ncols(), queries.keys());
        scratch(lanes * (2 * d + keys), |room| self.isa.run(Attend { head: self, queries, room, o, lse }));
    }

    /// dq (m, D) of a block, and its part of dk and dv (T, D), which is added to them.
    pub fn attend_back<'q, 'g>(
        &self,
        queries: Queries<'q>,
        d_o: ArrayView2<'q, f32>,
        lse: &[f32],
        [dq, dk, dv]: [ArrayViewMut2<'g, f32>; 3],
    ) {
        let (lanes, d, keys) = (queries.lanes(), self.k.ncols(), queries.keys());
        let size = lanes * (2 * d + 2 * keys) + 2 * queries.q.nrows() * d;
        scratch(size, |room| self.isa.run(AttendBack { head: self, queries, room, d_o, lse, dq, dk, dv }));
    }
}

/// Groups of lanes as wide as the kernel takes them.
#[inline(always)]
fn groups<V: Vector>(lanes: usize) -> impl Iterator<Item = Range<usize>> {
    let width = V::LANES * V::VECTORS;
    (0..lanes).step_by(width).map(move |first| first..lanes.min(first + width))
}

/// Scores [key][lanes] of queries [D][lanes], for each group by the keys that some of it see.
///
/// # Safety
/// The processor must have the vector's instruction set.
#[inline(always)]
unsafe fn by_keys<V: Vector>(keys: ArrayView2<f32>, queries: &Queries, across: &[f32], scores: &mut [f32]) {
    let (lanes, d) = (queries.lanes(), keys.ncols());
    for group in groups::<V>(lanes) {
        let seen = queries.seen_by(group.clone());
        assert!(across.len() == d * lanes && scores.len() >= seen * lanes, "factors of one size");
        profile::flops(2 * seen * d * group.len());
        let w = Factor::View(keys.slice(s![..seen, ..]));
        let (from, to) = (across.as_ptr().wrapping_add(group.start), scores.as_mut_ptr().wrapping_add(group.start));
        let parts = [Part { w, columns: 0..d, x: (from, lanes) }];
        // SAFETY: the keys have these columns, there is a row of `lanes` for each, and `scores` has one for each key.
        unsafe { tiles::<V>(group.len() / V::LANES, &parts, (to, lanes), End::default(), &mut []) };
    }
}

/// Sums [D][lanes] over the keys that some of a group see, of w (D, keys), packed, times [key][lanes].
///
/// # Safety
/// The processor must have the vector's instruction set.
#[inline(always)]
unsafe fn over_keys<V: Vector>(w: &[f32], d: usize, queries: &Queries, across: &[f32], sums: &mut [f32]) {
    let (lanes, keys, w) = (queries.lanes(), w.len() / d, Factor::Packed(w, d));
    for group in groups::<V>(lanes) {
        let seen = queries.seen_by(group.clone());
        assert!(seen <= keys && across.len() >= seen * lanes && sums.len() == d * lanes, "factors of one size");
        profile::flops(2 * seen * d * group.len());
        let to = sums.as_mut_ptr().wrapping_add(group.start);
        for start in (0..seen).step_by(V::DEPTH) {
            let from = across.as_ptr().wrapping_add(start * lanes + group.start);
            let parts = [Part { w, columns: start..seen.min(start + V::DEPTH), x: (from, lanes) }];
            // SAFETY: w has these columns, there is a row of `lanes` for each, and `sums` has one for each row of w.
            unsafe { tiles::<V>(group.len() / V::LANES, &parts, (to, lanes), End::add(start > 0), &mut []) };
        }
    }
}

/// c (keys, D) += w·x for w [key][lanes] of which the first m lanes count, and x (m, D).
///
/// # Safety
/// The processor must have the vector's instruction set.
#[inline(always)]
unsafe fn to_keys<V: Vector>(w: &[f32], lanes: usize, x: &[f32], m: usize, c: &mut ArrayViewMut2<f32>) {
    let (d, stride) = (c.ncols(), if c.nrows() == 1 { c.ncols() } else { c.strides()[0] as usize });
    let w = ArrayView2::from_shape((w.len() / lanes, lanes), w).expect("whole rows").slice_move(s![.., ..m]);
    assert!(w.nrows() == c.nrows() && x.len() == m * d && c.strides()[1] == 1 && stride >= d, "factors of one size");
    profile::flops(2 * w.len() * d);
    let w = Factor::View(w);
    for group in groups::<V>(d) {
        let (from, to) = (x.as_ptr().wrapping_add(group.start), c.as_mut_ptr().wrapping_add(group.start));
        let parts = [Part { w, columns: 0..m, x: (from, d) }];
        // SAFETY: x has a row of D for each of w's columns, c one for each of its rows, and they are contiguous.
        unsafe { tiles::<V>(group.len() / V::LANES, &parts, (to, stride), End::add(true), &mut []) };
    }
}

/// x (m, D) times `factor` as [D][lanes].
///
/// # Safety
/// The processor must have the vector's instruction set.
#[inline(always)]
unsafe fn lay_out<V: Vector>(x: ArrayView2<f32>, factor: f32, lanes: usize, data: &mut [f32]) {
    // SAFETY: by the caller's word.
    unsafe { LayOut { x, lanes, data }.run::<V>() };
    if factor != 1.0 {
        for x in data.iter_mut() {
            *x *= factor;
        }
    }
}

/// Lanes of a row.
#[inline(always)]
fn side(rows: &[f32], at: usize) -> &[f32; SIDE] {
    rows[at..at + SIDE].try_into().expect("a side")
}

#[inline(always)]
fn side_mut(rows: &mut [f32], at: usize) -> &mut [f32; SIDE] {
    (&mut rows[at..at + SIDE]).try_into().expect("a side")
}

/// Hides scores from the side's queries that do not see the key, the `later`-th behind those that all see.
#[inline(always)]
fn hide(scores: &mut [f32; SIDE], later: usize) {
    for (i, score) in scores.iter_mut().enumerate() {
        if i <= later {
            *score = f32::NEG_INFINITY;
        }
    }
}

struct Attend<'a, 'h, 'q, 'o> {
    head: &'a KeyHead<'h>,
    queries: Queries<'q>,
    room: &'a mut [f32],
    o: ArrayViewMut2<'o, f32>,
    lse: &'a mut [f32],
}

impl Run for Attend<'_, '_, '_, '_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Attend { head, queries, room, mut o, lse } = self;
        let ((m, d), lanes, keys) = (queries.q.dim(), queries.lanes(), queries.keys());
        assert!(d == head.k.ncols() && keys <= head.k.nrows() && o.dim() == (m, d) && lse.len() == m, "of one size");
        assert!(queries.q.strides()[1] == 1, "contiguous rows");
        let (q, room) = room.split_at_mut(d * lanes);
        let (sums, scores) = room.split_at_mut(d * lanes);
        // SAFETY: by the caller's word.
        unsafe {
            lay_out::<V>(queries.q, queries.scale, lanes, q);
            by_keys::<V>(head.k, &queries, q, scores);
        }
        let mut weights = [[0.0; SIDE]; MOST / SIDE];
        for first in (0..lanes).step_by(SIDE) {
            let (all, some) = (queries.seen + first, queries.seen_by(first..first + SIDE));
            let mut max = [f32::NEG_INFINITY; SIDE];
            for key in 0..some {
                let scores = side_mut(scores, key * lanes + first);
                if key >= all {
                    hide(scores, key - all);
                }
                for (max, &score) in max.iter_mut().zip(&*scores) {
                    *max = if score > *max { score } else { *max };
                }
            }
            let mut sum = [0.0f64; SIDE];
            for start in (0..some).step_by(TERMS) {
                let mut part = [0.0f32; SIDE];
                for key in start..some.min(start + TERMS) {
                    let scores = side_mut(scores, key * lanes + first);
                    for i in 0..SIDE {
                        scores[i] = exp(scores[i] - max[i]);
                        part[i] += scores[i];
                    }
                }
                for (sum, part) in sum.iter_mut().zip(part) {
                    *sum += f64::from(part);
                }
            }
            for key in some..keys {
                side_mut(scores, key * lanes + first).fill(0.0);
            }
            for i in 0..SIDE {
                weights[first / SIDE][i] = (1.0 / sum[i]) as f32;
                if first + i < m {
                    lse[first + i] = max[i] + (sum[i] as f32).ln();
                }
            }
        }
        // SAFETY: by the caller's word.
        unsafe { over_keys::<V>(&head.turned, d, &queries, scores, sums) };
        for column in 0..d {
            for (first, weights) in (0..lanes).step_by(SIDE).zip(&weights) {
                for (x, w) in side_mut(sums, column * lanes + first).iter_mut().zip(weights) {
                    *x *= w;
                }
            }
        }
        // SAFETY: by the caller's word.
        unsafe { write::<V>(sums, &mut o) };
    }
}

struct AttendBack<'a, 'h, 'q, 'g> {
    head: &'a KeyHead<'h>,
    queries: Queries<'q>,
    room: &'a mut [f32],
    d_o: ArrayView2<'q, f32>,
    lse: &'a [f32],
    dq: ArrayViewMut2<'g, f32>,
    dk: ArrayViewMut2<'g, f32>,
    dv: ArrayViewMut2<'g, f32>,
}

impl Run for AttendBack<'_, '_, '_, '_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let AttendBack { head, queries, room, d_o, lse, mut dq, dk, dv } = self;
        let ((m, d), lanes, keys) = (queries.q.dim(), queries.lanes(), queries.keys());
        let fits = d == head.k.ncols() && keys <= head.k.nrows() && lse.len() == m && d_o.dim() == (m, d);
        assert!(fits && dq.dim() == (m, d) && dk.nrows() >= keys && dv.nrows() >= keys, "of one size");
        assert!(queries.q.strides()[1] == 1 && d_o.strides()[1] == 1, "contiguous rows");
        let (across, room) = room.split_at_mut(d * lanes);
        let (sums, room) = room.split_at_mut(d * lanes);
        let (rows, room) = room.split_at_mut(2 * m * d);
        let (p, ds) = room.split_at_mut(keys * lanes);
        // SAFETY: by the caller's word.
        unsafe {
            lay_out::<V>(queries.q, queries.scale, lanes, across);
            by_keys::<V>(head.k, &queries, across, p);
            lay_out::<V>(d_o, 1.0, lanes, across);
            by_keys::<V>(head.v, &queries, across, ds);
        }
        for first in (0..lanes).step_by(SIDE) {
            let (all, some) = (queries.seen + first, queries.seen_by(first..first + SIDE));
            let mut of = [0.0; SIDE];
            let own = &lse[first..m.min(first + SIDE)];
            of[..own.len()].copy_from_slice(own);
            // δ = Σ p·dp, which is Σ do·o.
            let mut delta = [0.0f64; SIDE];
            for start in (0..some).step_by(TERMS) {
                let mut part = [0.0f32; SIDE];
                for key in start..some.min(start + TERMS) {
                    let (p, dp) = (side_mut(p, key * lanes + first), side_mut(ds, key * lanes + first));
                    if key >= all {
                        hide(p, key - all);
                        // What is hidden counts for nothing even where it overflows.
                        dp[..=key - all].fill(0.0);
                    }
                    for i in 0..SIDE {
                        p[i] = exp(p[i] - of[i]);
                        part[i] = p[i].mul_add(dp[i], part[i]);
                    }
                }
                for (delta, part) in delta.iter_mut().zip(part) {
                    *delta += f64::from(part);
                }
            }
            let delta = delta.map(|delta| delta as f32);
            for key in 0..some {
                let (p, ds) = (side(p, key * lanes + first), side_mut(ds, key * lanes + first));
                for i in 0..SIDE {
                    ds[i] = queries.scale * p[i] * (ds[i] - delta[i]);
                }
            }
            for key in some..keys {
                side_mut(p, key * lanes + first).fill(0.0);
                side_mut(ds, key * lanes + first).fill(0.0);
            }
        }
        // SAFETY: by the caller's word.
        unsafe {
            over_keys::<V>(&head.turned, d, &queries, ds, sums);
            write::<V>(sums, &mut dq);
        }
        // Rows of one length would fall on few lines of a cache.
        let (q, d_o_) = rows.split_at_mut(m * d);
        for (i, (to_q, to_d_o)) in q.chunks_exact_mut(d).zip(d_o_.chunks_exact_mut(d)).enumerate() {
            for column in 0..d {
                to_q[column] = queries.q[[i, column]];
                to_d_o[column] = d_o[[i, column]];
            }
        }
        let (mut dk, mut dv) = (dk.slice_move(s![..keys, ..]), dv.slice_move(s![..keys, ..]));
        // SAFETY: by the caller's word.
        unsafe {
            to_keys::<V>(ds, lanes, q, m, &mut dk);
            to_keys::<V>(p, lanes, d_o_, m, &mut dv);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::matmul::tests::random;
    use crate::rng::Philox;
    use ndarray::{Array1, Array2};

    /// o, lse, dq, dk and dv in f64.
    fn reference(
        [q, k, v, d_o]: [&Array2<f64>; 4],
        seen: usize,
        scale: f64,
    ) -> (Array2<f64>, Array1<f64>, [Array2<f64>; 3]) {
        let (m, d) = q.dim();
        let (mut o, mut lse) = (Array2::zeros((m, d)), Array1::zeros(m));
        let (mut dq, mut dk, mut dv) = (Array2::zeros((m, d)), Array2::zeros(k.dim()), Array2::zeros(k.dim()));
        for i in 0..m {
            let keys = seen + i;
            let scores: Vec<f64> = (0..keys).map(|j| scale * q.row(i).dot(&k.row(j))).collect();
            lse[i] = scores.iter().map(|s| s.exp()).sum::<f64>().ln();
            let p: Vec<f64> = scores.iter().map(|s| (s - lse[i]).exp()).collect();
            let dp: Vec<f64> = (0..keys).map(|j| d_o.row(i).dot(&v.row(j))).collect();
            let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            for j in 0..keys {
                let ds = scale * p[j] * (dp[j] - delta);
                o.row_mut(i).scaled_add(p[j], &v.row(j));
                dq.row_mut(i).scaled_add(ds, &k.row(j));
                dk.row_mut(j).scaled_add(ds, &q.row(i));
                dv.row_mut(j).scaled_add(p[j], &d_o.row(i));
            }
        }
        (o, lse, [dq, dk, dv])
    }

    #[track_caller]
    fn near(got: &Array2<f32>, want: &Array2<f64>) {
        let most = 2e-6 * want.iter().fold(1.0f64, |most, x| most.max(x.abs()));
        for (got, want) in got.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() <= most, "{got}, not {want}");
        }
    }

    /// With what is there already in dk and dv, rows further apart than a head is wide, and keys that nobody sees.
    #[test]
    fn blocks_agree_with_f64() {
        let mut rng = Philox::new(9, 0);
        for (m, seen, beyond, d) in [
            (1, 1, 0, 16),
            (1, 700, 0, 64),
            (7, 1, 2, 48),
            (16, 5, 0, 16),
            (33, 1, 0, 80),
            (64, 1, 0, 64),
            (64, 401, 3, 64),
        ] {
            let t = seen + m - 1 + beyond;
            let mut wide = |rows: usize| random(&mut rng, (rows, 2 * d));
            let (q, k, v, d_o, dk0, dv0) = (wide(m), wide(t), wide(t), wide(m), wide(t), wide(t));
            let part = |x: &Array2<f32>| x.slice(s![.., d..]).mapv(f64::from);
            let scale = 0.3;
            let (want_o, want_lse, [want_dq, want_dk, want_dv]) =
                reference([&part(&q), &part(&k), &part(&v), &part(&d_o)], seen, f64::from(0.3f32));
            let [q, k, v, d_o] = [&q, &k, &v, &d_o].map(|x| x.slice(s![.., d..]));
            let queries = Queries { q, seen, scale };
            for isa in Isa::tested() {
                let (mut o, mut lse) = (Array2::from_elem((m, 2 * d), f32::NAN), vec![f32::NAN; m]);
                let head = KeyHead::new(isa, k, v, v).unwrap();
                head.attend(queries, o.slice_mut(s![.., d..]), &mut lse);
                near(&o.slice(s![.., d..]).to_owned(), &want_o);
                assert!(o.slice(s![.., ..d]).iter().all(|x| x.is_nan()));
                near(
                    &Array2::from_shape_vec((1, m), lse.clone()).unwrap(),
                    &want_lse.clone().insert_axis(ndarray::Axis(0)),
                );
                let (mut dq, mut dk, mut dv) = (Array2::from_elem((m, 2 * d), f32::NAN), dk0.clone(), dv0.clone());
                let head = KeyHead::new(isa, k, v, k).unwrap();
                let gradients = [&mut dq, &mut dk, &mut dv].map(|x| x.slice_mut(s![.., d..]));
                head.attend_back(queries, d_o, &lse, gradients);
                near(&dq.slice(s![.., d..]).to_owned(), &want_dq);
                near(&dk.slice(s![.., d..]).to_owned(), &(&want_dk + &part(&dk0)));
                near(&dv.slice(s![.., d..]).to_owned(), &(&want_dv + &part(&dv0)));
                assert_eq!(dk.slice(s![.., ..d]), dk0.slice(s![.., ..d]));
            }
        }
    }

    #[test]
    fn few_queries_and_heads_of_other_sizes_are_left_to_others() {
        for (keys, size, queries, taken) in [(9, 24, 9, false), (0, 16, 9, false), (9, 16, 5, false), (9, 16, 6, true)]
        {
            let x = Array2::zeros((keys, size));
            let taken = taken && Isa::all().next().is_some();
            assert_eq!(KeyHead::forward(x.view(), x.view(), queries).is_some(), taken);
            assert_eq!(KeyHead::backward(x.view(), x.view(), queries).is_some(), taken);
        }
        assert!(Isa::tested().all(|isa| isa.block() <= MOST));
    }
}
