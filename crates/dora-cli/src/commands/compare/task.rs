//! The tests of one task: what A and B got on the same data, from one run each or from several seeds.
//!
//! The test decides, and intervals are made to agree with it (`Interval::agreeing`).
//!
//! * One run each: exact McNemar for right and wrong answers, sign flips and bootstrap for losses. They speak about these two
//!   runs on other items.
//! * Two or three seeds: each item's mean over the seeds, sign flips and bootstrap. The same.
//! * Four seeds or more: a paired t over the seeds. It speaks about other seeds.

use anyhow::Result;
use dora_stats::{Answers, Differences, Interval, Seeds};
use serde_json::{Value, json};

use super::side::{Measured, Side};
use crate::failure::Usage;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Share of right answers; more is better.
    Accuracy,
    /// Mean loss; less is better.
    Loss,
}

/// What the test counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Questions,
    Rows,
    Seeds,
}

/// Outcome of a test.
#[derive(Debug, Clone)]
pub struct Test {
    pub measure: Measure,
    pub unit: Unit,
    /// How many of them.
    pub n: usize,
    pub a: f64,
    pub b: f64,
    /// Interval of b − a, and p; `None` where nothing can be tested.
    pub found: Option<Found>,
    pub name: &'static str,
}

/// Interval and p of a test, and what it can show.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    pub interval: Interval,
    pub p: f64,
    /// The smallest difference that is found 4 times of 5.
    pub smallest: f64,
    /// Units that find the difference seen 4 times of 5; `None` where no number helps.
    pub needed: Option<f64>,
}

/// Pairs on the same data.
pub struct Task {
    pub pairs: Vec<(Side, Side)>,
    pub test: Test,
    /// For single runs: how right and wrong answers fall together.
    pub answers: Option<Answers>,
    /// Beside right and wrong: the loss of the right answer.
    pub loss: Option<Test>,
    /// Beside the paired t: p by sign flips over the seeds.
    pub p_by_sign_flips: Option<f64>,
}

impl Test {
    /// b − a.
    pub fn difference(&self) -> f64 {
        self.b - self.a
    }

    /// How much better B is, in the measure's own sense.
    pub fn gain(&self) -> f64 {
        match self.measure {
            Measure::Accuracy => self.difference(),
            Measure::Loss => -self.difference(),
        }
    }

    pub fn json(&self) -> Value {
        let found = self.found.as_ref();
        json!({
            "measure": match self.measure { Measure::Accuracy => "accuracy", Measure::Loss => "loss" },
            "test": self.name, "unit": self.unit.name(), "n": self.n, "a": self.a, "b": self.b,
            "difference": self.difference(), "low": found.map(|f| f.interval.low), "high": found.map(|f| f.interval.high),
            "p": found.map(|f| f.p), "smallest_difference": found.map(|f| f.smallest), "needed": found.and_then(|f| f.needed),
        })
    }
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Questions => "questions",
            Unit::Rows => "rows",
            Unit::Seeds => "seeds",
        }
    }
}

impl Task {
    /// Tests pairs that were checked to be alike.
    pub fn of(pairs: Vec<(Side, Side)>) -> Result<Self> {
        let right: Vec<_> = pairs.iter().filter_map(|pair| per_item(pair, right)).collect();
        let losses: Vec<_> = pairs.iter().filter_map(|pair| per_item(pair, loss)).collect();
        let all = pairs.len();
        let mut task = if right.len() == all {
            let beside = (losses.len() == all).then(|| by_item(&losses, Measure::Loss, Unit::Questions));
            Task { loss: beside, ..Self::with(pairs, by_item(&right, Measure::Accuracy, Unit::Questions)) }
        } else if losses.len() == all {
            Self::with(pairs, by_item(&losses, Measure::Loss, Unit::Rows))
        } else {
            Self::of_runs(pairs)?
        };
        if all == 1 && task.test.measure == Measure::Accuracy {
            task.mcnemar(&right[0]);
        }
        if all >= Seeds::LEAST {
            task.by_seed(if right.is_empty() { &losses } else { &right });
        }
        Ok(task)
    }

    fn with(pairs: Vec<(Side, Side)>, test: Test) -> Self {
        Task { pairs, test, answers: None, loss: None, p_by_sign_flips: None }
    }

    /// Runs have one held-out loss each, and nothing by item.
    fn of_runs(pairs: Vec<(Side, Side)>) -> Result<Self> {
        let held_out = |side: &Side| match side.measured {
            Measured::Run(Some(loss)) => Ok(loss),
            _ => {
                let path = side.path.join("run.json");
                let path = path.display();
                Err(Usage(format!(
                    "{path} has no held-out loss, expected a run with --eval-data, or results of `dora eval --output`"
                )))
            }
        };
        let losses = pairs.iter().map(|(a, b)| Ok((held_out(a)?, held_out(b)?))).collect::<Result<Vec<_>, Usage>>()?;
        let (a, b) = (mean(losses.iter().map(|l| l.0)), mean(losses.iter().map(|l| l.1)));
        let name = "none: a run has one figure";
        let test = Test { measure: Measure::Loss, unit: Unit::Seeds, n: pairs.len(), a, b, found: None, name };
        let mut task = Self::with(pairs, test);
        if losses.len() >= Seeds::LEAST {
            task.paired_t(losses.into_iter().map(|(a, b)| b - a).collect());
        }
        Ok(task)
    }

    fn mcnemar(&mut self, items: &[Item]) {
        let answers = Answers::count(items.iter().map(|item| (item.a == 1.0, item.b == 1.0)));
        let found = Found {
            interval: answers.interval().agreeing(answers.difference(), answers.p()),
            p: answers.p(),
            smallest: answers.smallest_difference(),
            needed: answers.questions_needed(answers.difference()),
        };
        self.test = Test { found: Some(found), name: "exact McNemar", ..self.test.clone() };
        self.answers = Some(answers);
    }

    /// Replaces the test by item with one over the seeds.
    fn by_seed(&mut self, pairs: &[Vec<Item>]) {
        let difference = |items: &Vec<Item>| {
            let weights: f64 = items.iter().map(|item| item.weight).sum();
            items.iter().map(|item| item.b - item.a).sum::<f64>() / weights
        };
        if !pairs.is_empty() {
            self.paired_t(pairs.iter().map(difference).collect());
        }
    }

    fn paired_t(&mut self, differences: Vec<f64>) {
        let n = differences.len();
        let Some(seeds) = Seeds::new(differences) else {
            let name = "none: every seed gives the same difference";
            self.test = Test { unit: Unit::Seeds, n, found: None, name, ..self.test.clone() };
            return;
        };
        let found = Found {
            interval: seeds.interval(),
            p: seeds.p(),
            smallest: seeds.smallest_difference(),
            needed: seeds.seeds_needed(seeds.mean).map(|k| k as f64),
        };
        self.p_by_sign_flips = Some(seeds.p_by_sign_flips());
        self.test = Test { unit: Unit::Seeds, n, found: Some(found), name: "paired t", ..self.test.clone() };
    }

    pub fn json(&self, p_adjusted: Option<f64>) -> Value {
        let mut object = self.test.json();
        object["p_adjusted"] = json!(p_adjusted);
        object["p_by_sign_flips"] = json!(self.p_by_sign_flips);
        object["right_wrong"] = json!(
            self.answers
                .map(|c| { json!({ "both": c.both, "only_a": c.only_a, "only_b": c.only_b, "neither": c.neither }) })
        );
        object["loss_of_the_right_answer"] = json!(self.loss.as_ref().map(Test::json));
        object["data_sha256"] = json!(self.pairs[0].0.data());
        object
    }
}

/// An item's two figures, each summed over `weight` tokens or questions.
struct Item {
    a: f64,
    b: f64,
    weight: f64,
}

/// A side's figure of each item with its weight, if it has one.
type Figures = Option<Vec<(f64, f64)>>;

fn right(side: &Side) -> Figures {
    match &side.measured {
        Measured::Answers(lines) => Some(lines.iter().map(|line| (f64::from(u8::from(line.right)), 1.0)).collect()),
        _ => None,
    }
}

fn loss(side: &Side) -> Figures {
    match &side.measured {
        Measured::Answers(lines) => lines.iter().map(|line| Some((line.loss?, 1.0))).collect(),
        Measured::Rows(lines) => {
            Some(lines.iter().map(|line| (line.loss * line.tokens as f64, line.tokens as f64)).collect())
        }
        Measured::Run(_) => None,
    }
}

fn per_item((a, b): &(Side, Side), figures: fn(&Side) -> Figures) -> Option<Vec<Item>> {
    let item = |((a, weight), (b, _))| Item { a, b, weight };
    Some(figures(a)?.into_iter().zip(figures(b)?).map(item).collect())
}

/// The test over items, each the mean over the pairs.
fn by_item(pairs: &[Vec<Item>], measure: Measure, unit: Unit) -> Test {
    let n = pairs[0].len();
    let of = |i: usize, figure: fn(&Item) -> f64| mean(pairs.iter().map(|items| figure(&items[i])));
    let weights: f64 = pairs[0].iter().map(|item| item.weight).sum();
    let total = |figure: fn(&Item) -> f64| (0..n).map(|i| of(i, figure)).sum::<f64>() / weights;
    let differences = Differences::new((0..n).map(|i| (of(i, |item| item.b - item.a), pairs[0][i].weight)).collect());
    let (a, b) = (total(|item| item.a), total(|item| item.b));
    let found = differences.map(|differences| {
        let (mean, p) = (differences.mean(), differences.p());
        Found {
            interval: differences.interval().agreeing(mean, p),
            p,
            smallest: differences.smallest_difference(),
            needed: differences.items_needed(mean),
        }
    });
    Test { measure, unit, n, a, b, found, name: "sign flips and bootstrap by item" }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}
