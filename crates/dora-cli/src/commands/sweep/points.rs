//! Results of a sweep: a point is an arm at a rank, over its seeds. Intervals hold 95 %. That of a loss is Student's t over the
//! seeds, and there is none where one seed or equal losses tell no spread. That of a share of right answers is the exact binomial
//! one over the questions (as `dora eval` gives it); with several seeds it is of their mean count, as they answer the same
//! questions, and reaches as far as Student's t where that goes further. So seeds that agree by chance promise nothing.

use std::path::{Path, PathBuf};

use dora_adapters::count::thousands;
use dora_stats::{Interval, accuracy_interval, mean_interval};
use serde_json::{Map, Value, json};

use super::arm::Arm;
use super::cell::Cell;
use super::tuning::Choice;

/// Of the table.
const COLUMNS: usize = 9;

/// A finished run.
pub struct Done {
    pub cell: Cell,
    pub dir: PathBuf,
    /// `run.json`.
    pub record: Value,
    /// Summary of the evaluation.
    pub evaluation: Map<String, Value>,
    /// Whether it was there before.
    pub before: bool,
}

/// A mean over seeds.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    pub mean: f64,
    pub interval: Option<Interval>,
}

/// An arm at a rank.
pub struct Point {
    pub arm: String,
    pub rank: usize,
    pub lr: f64,
    /// Number of seeds.
    seeds: usize,
    pub accuracy: Option<Figure>,
    pub loss: Figure,
    /// Questions that the accuracy is of.
    questions: Option<u64>,
    /// The accuracy of guessing.
    pub guessing: Option<f64>,
    /// Share of texts in which no answer was found, where answers are read from generated text.
    unparsed: Option<f64>,
    trainable: u64,
    seconds: f64,
    peak_rss_mb: Option<f64>,
}

/// Points in the order of arms and ranks, of what is done.
pub fn of(done: &[Done], arms: &[Arm], ranks: &[usize]) -> Vec<Point> {
    let places = arms.iter().flat_map(|arm| ranks.iter().map(move |rank| (arm, *rank)));
    let runs = |arm: &Arm, rank| -> Vec<&Done> {
        done.iter().filter(|run| run.cell.arm == *arm && run.cell.rank == rank).collect()
    };
    places.filter_map(|(arm, rank)| Point::of(&runs(arm, rank))).collect()
}

impl Point {
    fn of(runs: &[&Done]) -> Option<Self> {
        let first = runs.first()?;
        let results =
            |name: &str| -> Vec<f64> { runs.iter().filter_map(|run| run.record["results"][name].as_f64()).collect() };
        let figure =
            |name: &str| -> Vec<f64> { runs.iter().filter_map(|run| run.evaluation.get(name)?.as_f64()).collect() };
        let mean = |figures: &[f64]| figures.iter().sum::<f64>() / figures.len() as f64;
        let (losses, shares, seconds) = (results("eval_loss_after"), figure("accuracy"), results("wall_s"));
        let questions = first.evaluation.get("questions").and_then(Value::as_u64);
        let share = || {
            let within = |Interval { low, high }| Interval { low: f64::max(low, 0.0), high: f64::min(high, 1.0) };
            let by_seed = mean_interval(&shares).map(within);
            let by_question = questions.map(|n| over_questions(mean(&figure("right")), n as usize));
            let both = by_seed.zip(by_question).map(|(a, b)| a.hull(b));
            Figure { mean: mean(&shares), interval: both.or(by_question).or(by_seed) }
        };
        let generated = first.evaluation.get("by").is_some_and(|by| by == "generation");
        Some(Point {
            arm: first.cell.arm.name.clone(),
            rank: first.cell.rank,
            lr: first.cell.lr,
            seeds: runs.len(),
            accuracy: (!shares.is_empty()).then(share),
            loss: Figure { mean: mean(&losses), interval: mean_interval(&losses) },
            questions,
            guessing: first.evaluation.get("guessing").and_then(Value::as_f64),
            unparsed: generated.then(|| mean(&figure("unparsed_share"))),
            trainable: first.record["trainable_params"].as_u64().unwrap_or(0),
            seconds: mean(&seconds),
            peak_rss_mb: results("peak_rss_mb").into_iter().reduce(f64::max),
        })
    }

    /// Where the accuracy's interval is from.
    fn accuracy_interval(&self) -> &'static str {
        if self.seeds > 1 {
            "exact binomial over questions or t over seeds, whichever reaches further"
        } else {
            "exact binomial over questions"
        }
    }

    pub fn json(&self) -> Value {
        let figure = |figure: Figure, kind: &str| {
            let Figure { mean, interval } = figure;
            json!({
                "mean": mean, "low": interval.map(|i| i.low), "high": interval.map(|i| i.high),
                "interval": interval.map(|_| kind),
            })
        };
        json!({
            "method": self.arm, "rank": self.rank, "learning_rate": self.lr, "seeds": self.seeds,
            "accuracy": self.accuracy.map(|share| figure(share, self.accuracy_interval())), "guessing": self.guessing,
            "unparsed_share": self.unparsed,
            "eval_loss": figure(self.loss, "t over seeds"), "trainable_params": self.trainable, "wall_s": self.seconds,
            "peak_rss_mb": self.peak_rss_mb,
        })
    }

    fn cells(&self) -> [String; COLUMNS] {
        let with = |figure: Figure, scale: f64, digits: usize| {
            let mean = format!("{:.digits$}", scale * figure.mean);
            match figure.interval {
                Some(Interval { low, high }) => {
                    format!("{mean} ({:.digits$} to {:.digits$})", scale * low, scale * high)
                }
                None => mean,
            }
        };
        [
            self.arm.clone(),
            self.rank.to_string(),
            format!("{:e}", self.lr),
            self.accuracy.map_or(String::new(), |share| with(share, 100.0, 1)),
            self.unparsed.map_or(String::new(), |share| format!("{:.1}", 100.0 * share)),
            with(self.loss, 1.0, 4),
            thousands(self.trainable as usize),
            format!("{:.0} s", self.seconds),
            self.peak_rss_mb.map_or(String::new(), |mb| format!("{} MB", thousands(mb.round() as usize))),
        ]
    }
}

/// The interval of a mean count of right answers to n questions; between two counts it is that of both.
fn over_questions(right: f64, n: usize) -> Interval {
    accuracy_interval(right.floor() as usize, n).hull(accuracy_interval(right.ceil() as usize, n))
}

impl Done {
    pub fn json(&self) -> Value {
        let Cell { arm, rank, lr, seed } = &self.cell;
        let (results, evaluation) = (&self.record["results"], |name: &str| self.evaluation.get(name).cloned());
        json!({
            "method": arm.name, "rank": rank, "learning_rate": lr, "seed": seed, "dir": self.dir,
            "results": evaluation("output"), "accuracy": evaluation("accuracy"), "right": evaluation("right"),
            "questions": evaluation("questions"), "unparsed": evaluation("unparsed"), "eval_loss_before": results["eval_loss_before"],
            "eval_loss_after": results["eval_loss_after"], "steps": results["steps"], "tokens": results["tokens"],
            "trainable_params": self.record["trainable_params"], "wall_s": results["wall_s"],
            "peak_rss_mb": results["peak_rss_mb"], "was_finished": self.before,
        })
    }
}

/// The table, and what its figures are.
pub fn report(points: &[Point], choices: &[Choice], output: &Path) -> String {
    let Some(first) = points.first() else { return "no run is finished".into() };
    let head =
        ["method", "rank", "lr", "accuracy %", "no answer %", "held-out loss", "trainable", "time", "peak memory"]
            .map(String::from);
    let rows: Vec<[String; COLUMNS]> = [head].into_iter().chain(points.iter().map(Point::cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let shown = |column: &usize| match column {
        3 => first.accuracy.is_some(),
        4 => first.unparsed.is_some(),
        _ => true,
    };
    let columns: Vec<usize> = (0..COLUMNS).filter(shown).collect();
    let line = |row: &[String; COLUMNS]| {
        let cell = |&column: &usize| match column {
            0 => format!("{:<1$}", row[column], width(column)),
            _ => format!("{:>1$}", row[column], width(column)),
        };
        columns.iter().map(cell).collect::<Vec<_>>().join("  ")
    };
    let mut text: Vec<String> = rows.iter().map(line).collect();
    text.push(String::new());
    let seeds = if first.seeds == 1 { "one seed".to_owned() } else { format!("{} seeds", first.seeds) };
    let of = match (first.questions, first.seeds) {
        (Some(n), 1) => {
            format!("accuracy with the exact 95 % interval over {n} questions; the loss of one run has none")
        }
        (Some(n), _) => {
            format!(
                "means over seeds with 95 % intervals; of accuracy the exact one over {n} questions, or Student's t over seeds where that \
                 reaches further; of loss Student's t"
            )
        }
        (None, 1) => "the loss of one run has no interval".into(),
        (None, _) => "loss as a mean over seeds with its 95 % interval (Student's t)".into(),
    };
    text.push(format!("{seeds}: {of}."));
    text.extend(first.guessing.map(|share| format!("Guessing gives {:.1} %.", 100.0 * share)));
    text.extend(choices.iter().map(Choice::line));
    text.push(format!("Written to {}: sweep.json, sweep.svg, and a folder a run", output.display()));
    text.join("\n")
}
