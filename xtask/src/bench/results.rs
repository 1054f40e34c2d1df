//! What whole steps took.

use std::collections::BTreeMap;

/// A side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// `dora`.
    Ours,
    /// Hugging Face PEFT.
    Peft,
}

/// One step after warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Tokens, without padding.
    pub tokens: f64,
    /// Wall time, optimizer included.
    pub seconds: f64,
}

/// A run of a round.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// Its steps.
    pub steps: Vec<Step>,
    /// Most memory that the process ever had resident, in MB (10^6 bytes).
    pub peak_rss_mb: f64,
    /// What `dora` tells of itself.
    pub inside: Option<Inside>,
}

/// What a run of `dora` tells of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inside {
    /// FLOPs of matrix products a token, counted where they are made.
    pub flops_per_token: f64,
    /// Share of the time that went into attention.
    pub attention_share: f64,
    /// Seconds from the program's start to the first step.
    pub start_s: f64,
}

type Key = (&'static str, &'static str, Side);

/// Everything measured.
#[derive(Default)]
pub struct Results {
    /// (case, method, side) in the order of measuring, and the rounds of each.
    runs: Vec<(Key, Vec<Round>)>,
    /// GFLOP/s of the `gemm` crate in each round, by case.
    gemm: BTreeMap<&'static str, Vec<f64>>,
}

impl Results {
    /// Adds a round.
    pub fn add(&mut self, key: Key, round: Round) {
        match self.runs.iter_mut().find(|(known, _)| *known == key) {
            Some((_, rounds)) => rounds.push(round),
            None => self.runs.push((key, vec![round])),
        }
    }

    /// Adds the `gemm` crate's rate of a round.
    pub fn add_gemm(&mut self, case: &'static str, gflops: f64) {
        self.gemm.entry(case).or_default().push(gflops);
    }

    /// Rounds of a side; none where it was not measured.
    pub fn rounds(&self, case: &str, method: &str, side: Side) -> &[Round] {
        let found = self.runs.iter().find(|((c, m, s), _)| (*c, *m, *s) == (case, method, side));
        found.map_or(&[], |(_, rounds)| rounds)
    }

    /// All sides with their rounds.
    pub fn runs(&self) -> impl Iterator<Item = &(Key, Vec<Round>)> {
        self.runs.iter()
    }

    /// The `gemm` crate's rates in GFLOP/s, a round each.
    pub fn gemm(&self, case: &str) -> &[f64] {
        self.gemm.get(case).map_or(&[], Vec::as_slice)
    }
}

/// Tokens a second of every step.
pub fn tokens_per_s(rounds: &[Round]) -> Vec<f64> {
    rounds.iter().flat_map(|round| &round.steps).map(|step| step.tokens / step.seconds).collect()
}

/// Most memory of all rounds.
pub fn peak(rounds: &[Round]) -> Option<f64> {
    rounds.iter().map(|round| round.peak_rss_mb).max_by(f64::total_cmp)
}

/// The middle of some numbers; of an even count the mean of the middle two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(&[9.0, 1.0, 4.0, 6.0]), Some(5.0));
    }
}
