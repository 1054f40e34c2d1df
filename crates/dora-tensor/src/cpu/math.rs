//! Vector mathematics. Loops run under [`simd`], which compiles them once per instruction set (SSE2, AVX2, AVX-512) and
//! picks at run time; the bodies are plain scalar code that vectorises.

use std::f32::consts::LOG2_E;

/// Runs a loop compiled for the widest instruction set of this processor. The closure is inlined.
#[inline(always)]
pub fn simd<T>(f: impl FnOnce() -> T) -> T {
    struct Run<F>(F);
    impl<T, F: FnOnce() -> T> pulp::WithSimd for Run<F> {
        type Output = T;
        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) -> T {
            (self.0)()
        }
    }
    dispatch(Run(f))
}

/// Does the work compiled for the widest instruction set.
#[inline(always)]
fn dispatch<W: pulp::WithSimd>(work: W) -> W::Output {
    thread_local! {
        static ARCH: pulp::Arch = pulp::Arch::new();
    }
    ARCH.with(|arch| arch.dispatch(work))
}

/// e^x to about 2 ulp for x in [-87, 88]; 0 below and +inf above that range, NaN for NaN. Vectorises.
///
/// e^x = 2^k · e^r with k = round(x / ln 2) and |r| at most ln 2 / 2; e^r by its Taylor polynomial of degree 7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 · 2^23 rounds to an integer that then stands in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let k = shifted - ROUND;
    let r = k.mul_add(-LN2_LOW, k.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.mul_add(p, c);
    }
    let scale = f32::from_bits((shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    let y = p * scale;
    if x < -87.0 {
        0.0
    } else if x > 88.0 {
        f32::INFINITY
    } else {
        y
    }
}

/// Replaces a row by e^(x − max), and gives (max, sum); an empty row gives (−inf, 0).
pub fn softmax_in_place(row: &mut [f32]) -> (f32, f32) {
    // One closure for each loop: a larger one would not be inlined into the code for the instruction set.
    let max = simd(|| reduce(row, f32::NEG_INFINITY, f32::max));
    simd(|| row.iter_mut().for_each(|x| *x = exp(*x - max)));
    // Many terms would lose digits in one sum.
    let sum: f64 = row.chunks(16_384).map(|part| f64::from(simd(|| reduce(part, 0.0, |a, b| a + b)))).sum();
    (max, sum as f32)
}

/// Folds a row in 16 lanes, so that the loop vectorises in spite of floating-point order.
#[inline(always)]
pub(crate) fn reduce(row: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let mut chunks = row.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, x);
        }
    }
    let rest = chunks.remainder().iter().fold(start, |a, &x| f(a, x));
    lanes.into_iter().fold(rest, f)
}

/// Σ a·b in 16 lanes. (A closure of this size would not be inlined into the code for the instruction set, and `mul_add` be a call.)
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    struct Dot<'a>(&'a [f32], &'a [f32]);
    impl pulp::WithSimd for Dot<'_> {
        type Output = f32;
        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) -> f32 {
            let mut lanes = [0.0f32; 16];
            let (mut a, mut b) = (self.0.chunks_exact(16), self.1.chunks_exact(16));
            for (x, y) in (&mut a).zip(&mut b) {
                for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
                    *lane = x.mul_add(y, *lane);
                }
            }
            let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
            lanes.into_iter().sum::<f32>() + rest
        }
    }
    dispatch(Dot(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_f64() {
        for i in -86_990..=87_990 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 3e-7, "exp({x}) is off by {error:e}");
        }
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(200.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn folds_agree_with_plain_sums_at_every_length() {
        for n in 0..70usize {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.91).cos()).collect();
            let want: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((f64::from(dot(&a, &b)) - want).abs() < 1e-5);
            let max = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(reduce(&a, f32::NEG_INFINITY, f32::max), max);
        }
    }
}
