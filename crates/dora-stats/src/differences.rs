//! Two models' losses on the same n items: d_i is the difference B − A of the losses summed over item i's w_i tokens, and
//! Δ = Σd / Σw the difference of the mean losses. Items are what is drawn, not tokens: those of one item depend on each other.
//!
//! * Interval of Δ: items are drawn with replacement, 10,000 times over; bias-corrected and accelerated (BCa, Efron, 1987).
//! * p: sign flips (Fisher, 1935). If both were equally good, each d_i could as well have had the other sign.
//! * Standard error of the ratio, linearised (the clustered error of Miller, 2024): √(n/(n−1)·Σ(d_i − Δ·w_i)²)/Σw. A
//!   difference of 2.8 of it is found 4 times of 5.

use statrs::distribution::{ContinuousCDF, Normal};

use crate::random::Random;
use crate::{ALPHA, DETECTABLE, Interval, sign_flip};

/// Seed of what is drawn here.
const SEED: u64 = 20_241_101;
/// Resamples of an interval, and flips of a test.
const DRAWS: usize = 10_000;

/// Paired differences of items, with their weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Differences {
    pairs: Vec<(f64, f64)>,
}

impl Differences {
    /// Of (d_i, w_i), with w_i > 0; `None` for fewer than two items.
    pub fn new(pairs: Vec<(f64, f64)>) -> Option<Self> {
        (pairs.len() >= 2).then_some(Differences { pairs })
    }

    /// Δ.
    pub fn mean(&self) -> f64 {
        ratio(self.pairs.iter().copied())
    }

    /// p-value of "both are equally good".
    pub fn p(&self) -> f64 {
        self.p_of(DRAWS)
    }

    /// Interval of Δ.
    pub fn interval(&self) -> Interval {
        self.interval_of(DRAWS)
    }

    /// The smallest |Δ| that this many such items find 4 times of 5.
    pub fn smallest_difference(&self) -> f64 {
        DETECTABLE * self.standard_error()
    }

    /// Items like these that it takes to find a difference of `difference` 4 times of 5; `None` where the items do not
    /// differ from each other at all.
    pub fn items_needed(&self, difference: f64) -> Option<f64> {
        let share = self.smallest_difference() / difference;
        let needed = (self.pairs.len() as f64 * share * share).ceil();
        (needed.is_finite() && needed > 0.0).then_some(needed)
    }

    fn standard_error(&self) -> f64 {
        let (n, mean) = (self.pairs.len() as f64, self.mean());
        let squares: f64 = self.pairs.iter().map(|(d, w)| (d - mean * w).powi(2)).sum();
        (n / (n - 1.0) * squares).sqrt() / self.pairs.iter().map(|(_, w)| w).sum::<f64>()
    }

    pub(crate) fn p_of(&self, draws: usize) -> f64 {
        let differences: Vec<f64> = self.pairs.iter().map(|(d, _)| *d).collect();
        sign_flip::p(&differences, draws, SEED)
    }

    pub(crate) fn interval_of(&self, draws: usize) -> Interval {
        let (n, mean) = (self.pairs.len(), self.mean());
        let mut random = Random::new(SEED);
        let mut means: Vec<f64> = (0..draws).map(|_| ratio((0..n).map(|_| self.pairs[random.below(n)]))).collect();
        means.sort_unstable_by(f64::total_cmp);
        // Bias: how far the middle of the resamples lies from the mean itself, ties counting half.
        let below = means.partition_point(|&m| m < mean);
        let equal = means.partition_point(|&m| m <= mean) - below;
        let share = (below as f64 + 0.5 * equal as f64) / draws as f64;
        let least = 0.5 / draws as f64;
        let bias = Normal::standard().inverse_cdf(share.clamp(least, 1.0 - least));
        let acceleration = self.acceleration();
        let end = |p: f64| {
            let z = bias + Normal::standard().inverse_cdf(p);
            let p = Normal::standard().cdf(bias + z / (1.0 - acceleration * z));
            means[((p * draws as f64) as usize).min(draws - 1)]
        };
        Interval { low: end(ALPHA / 2.0), high: end(1.0 - ALPHA / 2.0) }
    }

    /// The skewness of the mean with one item left out, over 6; 0 where nothing changes.
    fn acceleration(&self) -> f64 {
        let (d, w) = self.pairs.iter().fold((0.0, 0.0), |(d, w), pair| (d + pair.0, w + pair.1));
        let without: Vec<f64> = self.pairs.iter().map(|pair| (d - pair.0) / (w - pair.1)).collect();
        let mean = without.iter().sum::<f64>() / without.len() as f64;
        let moment = |power: i32| without.iter().map(|x| (mean - x).powi(power)).sum::<f64>();
        let (squares, cubes) = (moment(2), moment(3));
        if squares > 0.0 { cubes / (6.0 * squares.powf(1.5)) } else { 0.0 }
    }
}

fn ratio(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (d, w) = pairs.fold((0.0, 0.0), |(d, w), pair| (d + pair.0, w + pair.1));
    d / w
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(n: usize) -> Differences {
        let mut random = Random::new(5);
        let pair = |_| ((random.below(1000) as f64 - 400.0) / 100.0, (1 + random.below(9)) as f64);
        Differences::new((0..n).map(pair).collect()).unwrap()
    }

    #[test]
    fn weights_are_tokens() {
        let differences = Differences::new(vec![(3.0, 1.0), (1.0, 3.0)]).unwrap();
        assert_eq!(differences.mean(), 1.0);
        assert!(Differences::new(vec![(1.0, 1.0)]).is_none());
    }

    #[test]
    fn the_interval_is_fixed_by_its_data_and_near_the_normal_one() {
        let differences = some(401);
        let (interval, mean) = (differences.interval(), differences.mean());
        assert_eq!(interval, differences.interval());
        let half = crate::Z * differences.standard_error();
        assert!((interval.low - (mean - half)).abs() < 0.1 * half, "{interval:?} {mean} {half}");
        assert!((interval.high - (mean + half)).abs() < 0.1 * half, "{interval:?} {mean} {half}");
    }

    #[test]
    fn skewed_items_move_both_ends_towards_the_long_tail() {
        let pairs: Vec<(f64, f64)> = (0..60).map(|i| ((i as f64 / 12.0).exp() - 12.0, 1.0)).collect();
        let skewed = Differences::new(pairs).unwrap();
        let (interval, half) = (skewed.interval(), crate::Z * skewed.standard_error());
        assert!(interval.low > skewed.mean() - half && interval.high > skewed.mean() + half, "{interval:?}");
    }

    #[test]
    fn items_without_any_difference() {
        let same = Differences::new(vec![(0.0, 2.0); 9]).unwrap();
        assert_eq!((same.mean(), same.p(), same.interval()), (0.0, 1.0, Interval { low: 0.0, high: 0.0 }));
        assert_eq!((same.smallest_difference(), same.items_needed(0.1)), (0.0, None));
        assert_eq!(some(9).items_needed(0.0), None);
    }

    #[test]
    fn items_needed_scale_with_the_square() {
        let differences = some(100);
        let smallest = differences.smallest_difference();
        assert_eq!(differences.items_needed(smallest), Some(100.0));
        assert!((differences.items_needed(smallest / 10.0).unwrap() - 10_000.0).abs() <= 1.0);
    }
}
