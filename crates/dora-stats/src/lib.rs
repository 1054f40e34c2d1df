//! Statistics of comparing two language models: on the same items, or over seeds.
//!
//! * [`accuracy_interval`]: how far a share of right answers can be trusted.
//! * [`Answers`]: two models' answers to the same questions: exact McNemar test, interval, power.
//! * [`Differences`]: two models' losses on the same items: bootstrap interval, sign-flip test, power.
//! * [`Seeds`]: two methods over several seeds: paired t, sign-flip test, power. [`mean_interval`]: one method over seeds.
//! * [`holm`]: several tests at once.
//! * [`correlation`]: Pearson's, with its p-value.
//!
//! Everything is two-sided, at the 5 % level: intervals hold 95 %, and "power" is the chance that a difference of a given
//! size gives p < 0.05. What is drawn at random is drawn from a fixed seed, so the same data give the same figures.
//!
//! Sources: Dietterich, "Approximate Statistical Tests for Comparing Supervised Classification Learning Algorithms", 1998
//! (McNemar for one run each); Card et al., "With Little Power Comes Great Responsibility", 2020 (power, detectable
//! differences); Miller, "Adding Error Bars to Evals", 2024, arXiv 2411.00640 (paired differences by item); Bowyer et al.,
//! "Don't Use the CLT in LLM Evals with Fewer Than a Few Hundred Datapoints", 2025, arXiv 2503.01747 (small samples).

mod accuracy;
mod answers;
mod correlation;
mod differences;
mod holm;
#[cfg(test)]
mod promises;
mod random;
mod seeds;
mod sign_flip;

pub use accuracy::accuracy_interval;
pub use answers::Answers;
pub use correlation::{Correlation, correlation};
pub use differences::Differences;
pub use holm::holm;
pub use seeds::{Seeds, mean_interval};

/// A result is called significant where its p-value is below this.
pub const ALPHA: f64 = 0.05;

/// The normal quantile of 0.975.
const Z: f64 = 1.959963984540054;
/// Standard errors that a difference must have to be found 4 times of 5: the normal quantiles of 0.975 and 0.80 together.
const DETECTABLE: f64 = Z + 0.8416212335729143;

/// A 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// This interval of a difference, made to agree with a test of "there is none" that gave `p`: it reaches to 0 where the test
    /// does not rule 0 out, and else ends at 0 on the far side. With few items the bootstrap alone would often leave out a 0 that
    /// the test keeps. It misses more often than before only where the test errs.
    pub fn agreeing(self, difference: f64, p: f64) -> Self {
        match (p < ALPHA, difference > 0.0) {
            (false, _) => Interval { low: self.low.min(0.0), high: self.high.max(0.0) },
            (true, true) => Interval { low: self.low.max(0.0), ..self },
            (true, false) => Interval { high: self.high.min(0.0), ..self },
        }
    }

    /// The least interval that holds both: it misses no more often than either.
    pub fn hull(self, other: Self) -> Self {
        Interval { low: self.low.min(other.low), high: self.high.max(other.high) }
    }
}
