//! Two models' answers to the same n questions. Only those that one gets right and the other wrong tell them apart: with b
//! that A alone gets right and c that B alone does, ψ = (b + c)/n is their share and δ = (c − b)/n the difference B − A.
//!
//! * p: exact McNemar (1947; Dietterich, 1998). If both were equally good, each of the b + c would be A's by a coin's toss.
//! * Interval of δ: Bonett and Price (2012), the Wald interval with half a question added to each of the four counts.
//! * Power: a difference of |δ| = 2.8·√(ψ/n) is found 4 times of 5 (Connor, 1987, for small δ; Card et al., 2020).

use statrs::distribution::{Binomial, DiscreteCDF};

use crate::{DETECTABLE, Interval, Z};

/// How two models' right and wrong answers fall together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answers {
    /// Both right.
    pub both: usize,
    /// Only A right.
    pub only_a: usize,
    /// Only B right.
    pub only_b: usize,
    /// Both wrong.
    pub neither: usize,
}

impl Answers {
    /// Counts (A right, B right).
    pub fn count(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut counts = Answers::default();
        for pair in pairs {
            *match pair {
                (true, true) => &mut counts.both,
                (true, false) => &mut counts.only_a,
                (false, true) => &mut counts.only_b,
                (false, false) => &mut counts.neither,
            } += 1;
        }
        counts
    }

    /// Number of questions.
    pub fn n(&self) -> usize {
        self.both + self.only_a + self.only_b + self.neither
    }

    /// δ, the difference of the shares of right answers, B − A.
    pub fn difference(&self) -> f64 {
        (self.only_b as f64 - self.only_a as f64) / self.n() as f64
    }

    /// ψ, the share of questions that tell the two apart.
    pub fn discordant(&self) -> f64 {
        (self.only_a + self.only_b) as f64 / self.n() as f64
    }

    /// p-value of "both are equally good".
    pub fn p(&self) -> f64 {
        let (fewer, all) = (self.only_a.min(self.only_b) as u64, (self.only_a + self.only_b) as u64);
        let coin = Binomial::new(0.5, all).expect("a share and a count");
        (2.0 * coin.cdf(fewer)).min(1.0)
    }

    /// Interval of δ.
    pub fn interval(&self) -> Interval {
        let n = self.n() as f64 + 2.0;
        let (b, c) = ((self.only_a as f64 + 1.0) / n, (self.only_b as f64 + 1.0) / n);
        let half = Z * ((b + c - (c - b) * (c - b)) / n).sqrt();
        Interval { low: (c - b - half).max(-1.0), high: (c - b + half).min(1.0) }
    }

    /// The smallest |δ| that this many questions, of which as many tell the two apart, find 4 times of 5.
    pub fn smallest_difference(&self) -> f64 {
        DETECTABLE * (self.discordant() / self.n() as f64).sqrt()
    }

    /// Questions like these that it takes to find a difference of `difference` 4 times of 5; `None` where no question tells
    /// the two apart, or the difference is 0.
    pub fn questions_needed(&self, difference: f64) -> Option<f64> {
        let psi = self.discordant();
        (psi > 0.0 && difference != 0.0).then(|| (DETECTABLE * DETECTABLE * psi / (difference * difference)).ceil())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_by_hand() {
        let p = |only_a, only_b| Answers { both: 3, only_a, only_b, neither: 1 }.p();
        assert!((p(0, 6) - 0.03125).abs() < 1e-12);
        assert!((p(10, 2) - 2.0 * 79.0 / 4096.0).abs() < 1e-12);
        assert_eq!((p(0, 0), p(5, 5)), (1.0, 1.0));
        assert_eq!(p(37, 46), p(46, 37));
        // Three hundred questions, all one way: 2·2⁻³⁰⁰.
        assert!((p(300, 0).log2() + 299.0).abs() < 1e-6);
    }

    #[test]
    fn counts_and_differences() {
        let answers = Answers::count([(true, true), (true, false), (false, true), (false, true), (false, false)]);
        assert_eq!(answers, Answers { both: 1, only_a: 1, only_b: 2, neither: 1 });
        assert_eq!((answers.difference(), answers.discordant()), (0.2, 0.6));
        let swapped = Answers { only_a: 2, only_b: 1, ..answers };
        assert_eq!((swapped.interval().low, swapped.interval().high), {
            let Interval { low, high } = answers.interval();
            (-high, -low)
        });
    }

    #[test]
    fn questions_needed_is_the_inverse_of_the_smallest_difference() {
        let answers = Answers { both: 240, only_a: 37, only_b: 46, neither: 177 };
        let smallest = answers.smallest_difference();
        assert!((answers.questions_needed(smallest).unwrap() - 500.0).abs() <= 1.0);
        assert_eq!(answers.questions_needed(0.0), None);
        assert_eq!(Answers { both: 5, ..Default::default() }.questions_needed(0.1), None);
    }
}
