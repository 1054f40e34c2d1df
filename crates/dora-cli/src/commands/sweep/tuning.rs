//! The learning rate of an arm: the only one there is, or of several the one with the least held-out loss at one rank and seed.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::arm::Arm;
use super::cell::Cell;

/// A learning rate and how it came to be.
#[derive(Debug)]
pub struct Choice {
    /// Name of the arm.
    pub arm: String,
    /// The rate taken.
    pub rate: f64,
    /// Rates tried and their held-out losses, none where training did not get to the end; empty where there was no choice.
    tried: Vec<(f64, Option<f64>)>,
    /// Rank and seed of the trials.
    at: Option<(usize, u64)>,
    /// Whether the trials were judged on rows of their own.
    on_own_rows: bool,
}

impl Choice {
    /// Of what was tried; `only` where nothing was.
    pub fn of(
        arm: &Arm,
        only: f64,
        tried: Vec<(f64, Option<f64>)>,
        cell: Option<&Cell>,
        on_own_rows: bool,
    ) -> Result<Self> {
        let losses = tried.iter().filter_map(|(rate, loss)| Some((*rate, (*loss)?)));
        let best = losses.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(rate, _)| rate);
        if best.is_none() && !tried.is_empty() {
            bail!(
                "{} did not train at any of its learning rates, expected a finite loss at one (try lower ones)",
                arm.name
            );
        }
        let at = cell.map(|cell| (cell.rank, cell.seed));
        Ok(Choice { arm: arm.name.clone(), rate: best.unwrap_or(only), tried, at, on_own_rows })
    }

    /// Whether the rate was chosen among several.
    pub fn is_tuned(&self) -> bool {
        !self.tried.is_empty()
    }

    /// What the user should know of it.
    pub fn notes(&self) -> Vec<String> {
        let (Some((first, _)), Some((last, _))) = (self.tried.first(), self.tried.last()) else { return Vec::new() };
        let Choice { arm, rate, .. } = self;
        let mut notes = vec![format!("{arm}: learning rate {rate:e} has the least held-out loss")];
        for (end, word) in [(first, "smallest"), (last, "largest")] {
            if end == rate {
                notes.push(format!("note: it is the {word} one tried for {arm}; one beyond it may be better"));
            }
        }
        if !self.on_own_rows {
            notes.push(
                "note: it was chosen on the rows that the results are of, which flatters; --tune-data takes others"
                    .into(),
            );
        }
        notes
    }

    /// In a line of the report.
    pub fn line(&self) -> String {
        let Choice { arm, rate, .. } = self;
        let Some((rank, seed)) = self.at.filter(|_| self.is_tuned()) else {
            return format!("{arm}: learning rate {rate:e}, as given");
        };
        let trial = |(rate, loss): &(f64, Option<f64>)| match loss {
            Some(loss) => format!("{rate:e}: {loss:.4}"),
            None => format!("{rate:e}: no end"),
        };
        let (tried, on) = (self.tried.iter().map(trial).collect::<Vec<_>>().join(", "), self.rows());
        format!(
            "{arm}: learning rate {rate:e}, the least loss on the rows of {on} at rank {rank}, seed {seed} ({tried})"
        )
    }

    fn rows(&self) -> &'static str {
        if self.on_own_rows { "--tune-data" } else { "--eval-data" }
    }

    pub fn json(&self) -> Value {
        let trial = |(rate, loss): &(f64, Option<f64>)| json!({ "learning_rate": rate, "eval_loss": loss });
        let tuned = self.is_tuned();
        json!({
            "method": self.arm, "learning_rate": self.rate, "tuned": tuned,
            "tried": self.tried.iter().map(trial).collect::<Vec<_>>(), "rows": tuned.then(|| self.rows()),
            "rank": self.at.map(|at| at.0), "seed": self.at.map(|at| at.1),
        })
    }
}
