//! The interval of a share: k of n, by Clopper and Pearson (1934). It is exact: for no true share does it miss more than 5 %
//! of the time, however few the items, where the usual p ± 1.96·√(p(1−p)/n) fails below a few hundred (Bowyer et al., 2025).

use statrs::distribution::{Beta, ContinuousCDF};

use crate::{ALPHA, Interval};

/// The interval of the share that `right` of `n` stands for; everything where there is no item.
pub fn accuracy_interval(right: usize, n: usize) -> Interval {
    let quantile = |a: usize, b: usize, p: f64| {
        let beta = Beta::new(a as f64, b as f64).expect("both counts are positive");
        beta.inverse_cdf(p)
    };
    let low = if right == 0 { 0.0 } else { quantile(right, n - right + 1, ALPHA / 2.0) };
    let high = if right == n { 1.0 } else { quantile(right + 1, n - right, 1.0 - ALPHA / 2.0) };
    Interval { low, high }
}

#[cfg(test)]
mod tests {
    use super::*;
    use statrs::distribution::{Binomial, DiscreteCDF};

    #[test]
    fn known_intervals() {
        for (right, n, low, high) in [(8, 10, 0.4439, 0.9748), (0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0)] {
            let interval = accuracy_interval(right, n);
            assert!((interval.low - low).abs() < 1e-4 && (interval.high - high).abs() < 1e-4, "{interval:?}");
        }
        assert_eq!(accuracy_interval(0, 0), Interval { low: 0.0, high: 1.0 });
    }

    /// The ends are the shares under which a count as far out as this has a chance of 2.5 %.
    #[test]
    fn ends_by_definition() {
        for (right, n) in [(1, 3), (7, 31), (250, 500), (499, 500), (2_900, 3_270)] {
            let Interval { low, high } = accuracy_interval(right, n);
            let chance = |p: f64, k: u64| Binomial::new(p, n as u64).unwrap().cdf(k);
            assert!((1.0 - chance(low, right as u64 - 1) - 0.025).abs() < 1e-6, "{right} of {n}");
            assert!((chance(high, right as u64) - 0.025).abs() < 1e-6, "{right} of {n}");
        }
    }
}
