//! Two methods trained with k seeds each; d_i is the difference B − A of seed i's two results. Unlike tests by item, these
//! say what another seed would do.
//!
//! * p and interval: Student's paired t, mean ± t·sd/√k. It takes the differences to be roughly normal.
//! * p by sign flips, which takes nothing of the sort, but cannot fall below 2/2ᵏ: 0.125 for 4 seeds, 0.03 for 6.
//! * Seeds needed: the least k with (t₀.₉₇₅ + t₀.₈₀)·sd/√k ≤ |d|.

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::{ALPHA, Interval, sign_flip};

/// Seed of the sign flips that are drawn, and how many.
const FLIPS: (usize, u64) = (100_000, 20_241_101);

/// Paired differences of seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Seeds {
    pub(crate) differences: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
}

impl Seeds {
    /// Fewer seeds an arm are no ground for a test.
    pub const LEAST: usize = 4;

    /// Of at least two differences that are not all equal; `None` otherwise.
    pub fn new(differences: Vec<f64>) -> Option<Self> {
        let k = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / k;
        let deviation = (differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (k - 1.0)).sqrt();
        (!all_equal(&differences)).then_some(Seeds { differences, mean, deviation })
    }

    /// Number of seeds.
    pub fn k(&self) -> usize {
        self.differences.len()
    }

    /// p-value of "both methods are equally good", by the paired t.
    pub fn p(&self) -> f64 {
        2.0 * student(self.k()).sf((self.mean / self.error()).abs())
    }

    /// The same by sign flips.
    pub fn p_by_sign_flips(&self) -> f64 {
        sign_flip::p(&self.differences, FLIPS.0, FLIPS.1)
    }

    /// Interval of the mean difference.
    pub fn interval(&self) -> Interval {
        mean_interval(&self.differences).expect("at least two differences that are not all equal")
    }

    /// The smallest difference that this many seeds find 4 times of 5.
    pub fn smallest_difference(&self) -> f64 {
        detectable(self.k(), self.deviation)
    }

    /// Seeds an arm that it takes to find a difference of `difference` 4 times of 5; `None` for more than 1,000.
    pub fn seeds_needed(&self, difference: f64) -> Option<usize> {
        (Self::LEAST..=1000).find(|&k| detectable(k, self.deviation) <= difference.abs())
    }

    fn error(&self) -> f64 {
        self.deviation / (self.k() as f64).sqrt()
    }
}

/// The interval of the mean of one figure over at least two seeds, mean ± t·sd/√k; `None` for fewer, and where all are equal, as
/// they do not say then how far another would lie.
pub fn mean_interval(figures: &[f64]) -> Option<Interval> {
    let k = figures.len() as f64;
    if all_equal(figures) {
        return None;
    }
    let mean = figures.iter().sum::<f64>() / k;
    let deviation = (figures.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (k - 1.0)).sqrt();
    let half = student(figures.len()).inverse_cdf(1.0 - ALPHA / 2.0) * deviation / k.sqrt();
    Some(Interval { low: mean - half, high: mean + half })
}

/// Whether there are not two different figures among them; a deviation may be rounded from 0.
fn all_equal(figures: &[f64]) -> bool {
    figures.windows(2).all(|pair| pair[0] == pair[1])
}

fn detectable(k: usize, deviation: f64) -> f64 {
    let t = student(k);
    (t.inverse_cdf(1.0 - ALPHA / 2.0) + t.inverse_cdf(0.8)) * deviation / (k as f64).sqrt()
}

fn student(k: usize) -> StudentsT {
    StudentsT::new(0.0, 1.0, (k - 1) as f64).expect("at least two seeds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paired_t_by_its_closed_form() {
        let seeds = Seeds::new(vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((seeds.mean - 2.5).abs() < 1e-12 && (seeds.deviation - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        // Student's t with 3 degrees of freedom has one.
        let x = seeds.mean / seeds.error() / 3f64.sqrt();
        let p = 1.0 - 2.0 / std::f64::consts::PI * (x / (1.0 + x * x) + x.atan());
        assert!((seeds.p() - p).abs() < 1e-9, "{} {p}", seeds.p());
        let Interval { low, high } = seeds.interval();
        assert!((high - low - 2.0 * 3.182446 * seeds.error()).abs() < 1e-5 && (low + high - 5.0).abs() < 1e-9);
        assert_eq!(seeds.p_by_sign_flips(), 0.125);
    }

    #[test]
    fn intervals_of_one_figure() {
        assert_eq!((mean_interval(&[]), mean_interval(&[0.3]), mean_interval(&[0.1; 3])), (None, None, None));
        // t of two figures has 1 degree of freedom: 12.706 · (0.1/√2)/√2 around 0.35.
        let Interval { low, high } = mean_interval(&[0.3, 0.4]).unwrap();
        assert!((low - (0.35 - 0.63531)).abs() < 1e-4 && (high - (0.35 + 0.63531)).abs() < 1e-4, "{low} {high}");
    }

    #[test]
    fn no_test_without_spread() {
        assert!(Seeds::new(vec![]).is_none() && Seeds::new(vec![1.0]).is_none() && Seeds::new(vec![2.0; 5]).is_none());
        // Their mean is rounded, so that they seem to lie off it.
        assert!(Seeds::new(vec![0.1; 3]).is_none());
    }

    #[test]
    fn seeds_needed_are_the_least_that_do() {
        let seeds = Seeds::new(vec![0.1, -0.2, 0.4, 0.3, 0.0]).unwrap();
        let needed = seeds.seeds_needed(seeds.mean).unwrap();
        assert!(detectable(needed, seeds.deviation) <= seeds.mean);
        assert!(detectable(needed - 1, seeds.deviation) > seeds.mean);
        assert_eq!((seeds.seeds_needed(0.0), seeds.seeds_needed(-100.0)), (None, Some(Seeds::LEAST)));
    }
}
