//! Sign-flip test of paired differences (Fisher, 1935): if neither side were better, each difference could as well have had
//! the other sign. p is the share of all sign patterns whose sum is at least as far from 0: of every pattern for up to 16
//! differences, else of patterns drawn, the given one counted in, (1 + k)/(1 + drawn), which never promises too much.

use crate::random::Random;

/// Differences up to which all patterns are counted.
const EXACT: usize = 16;

pub(crate) fn p(differences: &[f64], draws: usize, seed: u64) -> f64 {
    // A difference of 0 has no sign.
    let d: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    let sum = d.iter().sum::<f64>().abs();
    // Patterns that are equal but for rounding count as equal.
    let far = sum - 1e-12 * d.iter().map(|d| d.abs()).sum::<f64>();
    if d.len() <= EXACT {
        let flipped = |pattern: u32| -> f64 {
            d.iter().enumerate().map(|(i, d)| if pattern >> i & 1 == 1 { -d } else { *d }).sum()
        };
        let count = (0..1u32 << d.len()).filter(|&pattern| flipped(pattern).abs() >= far).count();
        return count as f64 / (1u32 << d.len()) as f64;
    }
    let mut random = Random::new(seed);
    let mut flipped = || -> f64 {
        let part = |part: &[f64]| {
            let bits = random.bits();
            // The drawn bit becomes the sign.
            let flip = |(i, d): (usize, &f64)| f64::from_bits(d.to_bits() ^ (bits >> i & 1) << 63);
            part.iter().enumerate().map(flip).sum::<f64>()
        };
        d.chunks(64).map(part).sum()
    };
    let count = (0..draws).filter(|_| flipped().abs() >= far).count();
    (1 + count) as f64 / (1 + draws) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_patterns_of_a_few() {
        // All of one sign: only that pattern and its opposite are as far out.
        assert_eq!(p(&[1.0, 2.0, 3.0, 4.0, 5.0], 0, 0), 2.0 / 32.0);
        // Sums of ±1 ±2 ±3: 6 of 8 are at least 2 from 0 …
        assert_eq!(p(&[1.0, -2.0, 3.0], 0, 0), 6.0 / 8.0);
        // … and zeros change nothing.
        assert_eq!(p(&[1.0, 0.0, -2.0, 3.0, 0.0], 0, 0), 6.0 / 8.0);
        assert_eq!((p(&[], 0, 0), p(&[0.0; 5], 0, 0)), (1.0, 1.0));
        // 0.1 + 0.2 ≠ 0.3 in binary; as differences they balance.
        assert_eq!(p(&[0.1, 0.2, -0.3], 0, 0), 1.0);
    }

    #[test]
    fn drawn_patterns_agree_with_the_binomial() {
        // 20 differences of ±1, 15 of them positive: the exact sign test.
        let d: Vec<f64> = (0..20).map(|i| if i < 15 { 1.0 } else { -1.0 }).collect();
        let tail: f64 = [1.0, 20.0, 190.0, 1140.0, 4845.0, 15504.0].iter().sum();
        let exact = 2.0 * tail / (1u64 << 20) as f64;
        assert!((p(&d, 100_000, 7) - exact).abs() < 0.003, "{} {exact}", p(&d, 100_000, 7));
        let long: Vec<f64> = (0..130).map(|i| if i % 13 < 8 { 1.0 } else { -1.0 }).collect();
        let share = p(&long, 50_000, 7);
        assert!((share - 0.0098).abs() < 0.003, "{share}");
    }
}
