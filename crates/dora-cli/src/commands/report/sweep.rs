//! A sweep's folder: `sweep.json` (points: a method at a rank, over its seeds; runs; how learning rates came to be), its plot,
//! and the results of its runs item by item, by which methods of the same rank are compared.

use std::path::{Path, PathBuf};

use anyhow::Result;
use dora_adapters::count::thousands;
use serde::Deserialize;
use serde_json::Value;

use super::inputs::Picture;
use super::table::{Column, Table, or_dash};
use crate::commands::compare::{Side, check_alike};
use crate::failure::Usage;
use crate::results::summary_path;

/// A sweep.
pub struct Sweep {
    pub path: PathBuf,
    pub pictures: Vec<Picture>,
    record: Record,
}

#[derive(Deserialize)]
struct Record {
    ending: String,
    #[serde(default)]
    shared_options: Vec<String>,
    #[serde(default)]
    learning_rates: Vec<Choice>,
    points: Vec<Point>,
    #[serde(default)]
    runs: Vec<Done>,
    #[serde(default)]
    failed: Vec<Failed>,
    #[serde(default)]
    left_out: Vec<String>,
}

/// A run that stopped at a figure that is not finite.
#[derive(Deserialize)]
struct Failed {
    run: String,
    reason: String,
}

#[derive(Deserialize)]
struct Choice {
    method: String,
    learning_rate: f64,
    tuned: bool,
    #[serde(default)]
    tried: Vec<Tried>,
}

#[derive(Deserialize)]
struct Tried {
    learning_rate: f64,
    eval_loss: Option<f64>,
}

#[derive(Deserialize)]
struct Point {
    method: String,
    rank: usize,
    learning_rate: f64,
    seeds: usize,
    accuracy: Option<Mean>,
    eval_loss: Option<Mean>,
    guessing: Option<f64>,
    unparsed_share: Option<f64>,
    trainable_params: Option<usize>,
    wall_s: Option<f64>,
    peak_rss_mb: Option<f64>,
}

/// Over the seeds, with the ends of its interval.
#[derive(Deserialize)]
struct Mean {
    mean: f64,
    low: Option<f64>,
    high: Option<f64>,
}

/// A finished run.
#[derive(Deserialize)]
struct Done {
    method: String,
    rank: usize,
    dir: PathBuf,
    results: Option<PathBuf>,
}

impl Sweep {
    /// Of what `sweep.json` holds.
    pub fn of(path: &Path, record: Value, pictures: Vec<Picture>) -> Result<Self, Usage> {
        let file = path.join("sweep.json");
        let refuse = |e| Usage(format!("{}: {e}, expected what `dora sweep` writes", file.display()));
        Ok(Sweep { path: path.to_owned(), pictures, record: serde_json::from_value(record).map_err(refuse)? })
    }

    /// What it is, in a sentence or two each.
    pub fn notes(&self) -> Vec<String> {
        let Record { ending, shared_options, learning_rates, points, left_out, .. } = &self.record;
        let mut notes = Vec::new();
        if ending != "finished" {
            notes.push(format!("This sweep is not whole ({ending}); the same command goes on where it stopped."));
        }
        for Failed { run, reason } in &self.record.failed {
            notes.push(format!("{run} failed and counts nowhere: {reason}."));
        }
        if !left_out.is_empty() {
            notes.push(format!("Its folder also holds finished runs that it does not name: {}.", left_out.join(", ")));
        }
        if !shared_options.is_empty() {
            notes.push(format!("All runs: {}.", shared_options.join(" ")));
        }
        notes.extend(learning_rates.iter().map(Choice::line));
        let guessing = points.iter().find_map(|point| point.guessing);
        notes.extend(guessing.map(|share| format!("Guessing gives {:.1} % right answers.", 100.0 * share)));
        notes
    }

    /// A row a point.
    pub fn table(&self) -> Table {
        let columns = [
            "Method",
            "Rank",
            "Learning rate",
            "Seeds",
            "Right answers, %",
            "No answer, %",
            "Held-out loss",
            "Trainable",
            "Time",
            "Peak memory",
        ];
        let caption = "Means over seeds, with 95 % intervals in parentheses where there are any".into();
        Table { caption, columns: Column::of(columns, 1), rows: self.record.points.iter().map(Point::row).collect() }
    }

    /// For each rank, results of the first method and of each other: those that measured the same, to be paired by seed.
    pub fn pairs(&self) -> Result<Vec<[Vec<Side>; 2]>> {
        let mut first: Vec<(usize, &str, Vec<Side>)> = Vec::new();
        let mut others: Vec<(usize, &str, Vec<Side>)> = Vec::new();
        for run in &self.record.runs {
            let Some(side) = self.side(run)? else { continue };
            let lead = first.iter().find(|arm| arm.0 == run.rank).map(|arm| arm.1);
            let arms = if lead.is_none_or(|lead| lead == run.method) { &mut first } else { &mut others };
            match arms.iter_mut().find(|arm| (arm.0, arm.1) == (run.rank, run.method.as_str())) {
                Some(arm) => arm.2.push(side),
                None => arms.push((run.rank, &run.method, vec![side])),
            }
        }
        let pair = |(rank, _, mut b): (usize, &str, Vec<Side>)| {
            let mut a = first.iter().find(|arm| arm.0 == rank)?.2.clone();
            let one = a.remove(0);
            for arm in [&mut a, &mut b] {
                arm.retain(|side| check_alike(&one, side).is_ok());
            }
            a.insert(0, one);
            (!b.is_empty()).then_some([a, b])
        };
        Ok(others.into_iter().filter_map(pair).collect())
    }

    /// A run's results, wherever the sweep's folder lies now; `None` where they are gone.
    fn side(&self, run: &Done) -> Result<Option<Side>> {
        let (Some(dir), Some(results)) = (run.dir.file_name(), run.results.as_ref().and_then(|r| r.file_name())) else {
            return Ok(None);
        };
        let path = self.path.join("runs").join(dir).join(results);
        if !(path.is_file() && summary_path(&path).is_file()) {
            return Ok(None);
        }
        Ok(Some(Side::read(&path)?))
    }
}

impl Choice {
    fn line(&self) -> String {
        let Choice { method, learning_rate, tuned, tried } = self;
        if !tuned {
            return format!("{method}: learning rate {learning_rate:e}, as given.");
        }
        let trial = |tried: &Tried| match tried.eval_loss {
            Some(loss) => format!("{:e}: {loss:.4}", tried.learning_rate),
            None => format!("{:e}: no end", tried.learning_rate),
        };
        let tried: Vec<String> = tried.iter().map(trial).collect();
        format!(
            "{method}: learning rate {learning_rate:e}, the one with the least held-out loss ({}).",
            tried.join(", ")
        )
    }
}

impl Point {
    fn row(&self) -> Vec<String> {
        let with = |mean: &Mean, scale: f64, digits: usize| {
            let figure = |x: f64| format!("{:.digits$}", scale * x);
            match mean.low.zip(mean.high) {
                Some((low, high)) => format!("{} ({} to {})", figure(mean.mean), figure(low), figure(high)),
                None => figure(mean.mean),
            }
        };
        vec![
            self.method.clone(),
            self.rank.to_string(),
            format!("{:e}", self.learning_rate),
            self.seeds.to_string(),
            or_dash(self.accuracy.as_ref().map(|mean| with(mean, 100.0, 1))),
            or_dash(self.unparsed_share.map(|share| format!("{:.1}", 100.0 * share))),
            or_dash(self.eval_loss.as_ref().map(|mean| with(mean, 1.0, 4))),
            or_dash(self.trainable_params.map(thousands)),
            or_dash(self.wall_s.map(|seconds| format!("{seconds:.0} s"))),
            or_dash(self.peak_rss_mb.map(|mb| format!("{} MB", thousands(mb.round() as usize)))),
        ]
    }
}
