//! `dora compare A B`: whether one of two models is better, or the difference is within noise; what each cost; and which
//! experiment would decide. A and B are results of `dora eval --output`, or folders of `dora train`. More pairs (all of A's
//! first, then B's in the same order) are further tasks or, on the same data, further seeds.

mod costs;
mod sheet;
mod side;
mod task;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use dora_stats::{ALPHA, holm};
use serde_json::{Value, json};

use crate::console::Console;
use crate::failure::Usage;
pub use costs::differing;
pub use sheet::Sheet;
pub use side::{Side, check_alike};
use task::Task;

/// Arguments of `dora compare`.
#[derive(clap::Args)]
pub struct Args {
    /// A and B: results of `dora eval --output`, or folders of `dora train`; or all of A's, then all of B's in the same order
    #[arg(num_args = 2.., required = true, value_name = "A B")]
    results: Vec<PathBuf>,
}

pub fn run(args: Args, console: &Console) -> Result<ExitCode> {
    let n = args.results.len();
    if !n.is_multiple_of(2) {
        return Err(Usage(format!("found {n} results to compare, expected as many of A as of B")).into());
    }
    let sides = args.results.iter().map(|path| Side::read(path)).collect::<Result<Vec<_>>>()?;
    let mut left = sides;
    let right = left.split_off(n / 2);
    left.iter().zip(&right).try_for_each(|(a, b)| check_alike(a, b))?;
    [&left, &right].into_iter().try_for_each(|arm| check_arm(arm))?;
    let tasks = by_data(left, right).into_iter().map(|pairs| {
        check_seeds(&pairs)?;
        Task::of(pairs)
    });
    let tasks = tasks.collect::<Result<Vec<Task>>>()?;
    let judged = Judged::of(tasks);
    let costs = costs::Costs::of(judged.tasks.iter().flat_map(|task| &task.pairs));
    let text = words::report(&judged, &costs);
    let tasks = (0..judged.tasks.len()).map(|i| judged.json(i)).collect::<Result<Vec<_>>>()?;
    let object = json!({
        "verdict": words::verdict(&judged), "better": judged.better(), "next": words::next(&judged), "tasks": tasks,
        "costs": costs.json(), "settings_that_differ": costs.settings_json(),
    });
    console.result(&text, &object)?;
    Ok(ExitCode::SUCCESS)
}

/// What was measured on the same items, first against each of the others, with the p-values corrected for their number. The
/// pairs of each are the same data's.
pub fn sheets(tasks: Vec<Vec<(Side, Side)>>) -> Result<Vec<Sheet>> {
    let judged = Judged::of(tasks.into_iter().map(Task::of).collect::<Result<_>>()?);
    Ok((0..judged.tasks.len()).map(|i| Sheet::of(&judged, i)).collect())
}

/// All tasks, with their p-values corrected for their number.
struct Judged {
    tasks: Vec<Task>,
    /// By Holm; `None` for a task without a test.
    p_adjusted: Vec<Option<f64>>,
}

/// What a test says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    A,
    B,
    Noise,
    Undecided,
}

impl Judged {
    fn of(tasks: Vec<Task>) -> Self {
        let p = |task: &Task| task.test.found.map(|found| found.p);
        let mut adjusted = holm(&tasks.iter().filter_map(p).collect::<Vec<_>>()).into_iter();
        let p_adjusted = tasks.iter().map(|task| p(task).and_then(|_| adjusted.next())).collect();
        Judged { tasks, p_adjusted }
    }

    /// A task's figures and words.
    fn json(&self, i: usize) -> Result<Value> {
        let mut object = self.tasks[i].json(self.p_adjusted[i]);
        if let (Value::Object(fields), Value::Object(words)) = (&mut object, serde_json::to_value(Sheet::of(self, i))?)
        {
            fields.extend(words);
        }
        Ok(object)
    }

    fn outcome(&self, i: usize) -> Outcome {
        match self.p_adjusted[i] {
            None => Outcome::Undecided,
            Some(p) if p >= ALPHA => Outcome::Noise,
            Some(_) if self.tasks[i].test.gain() > 0.0 => Outcome::B,
            Some(_) => Outcome::A,
        }
    }

    fn count(&self, outcome: Outcome) -> usize {
        (0..self.tasks.len()).filter(|&i| self.outcome(i) == outcome).count()
    }

    /// The side that is better on some task while the other is on none.
    fn better(&self) -> Option<&'static str> {
        match (self.count(Outcome::A), self.count(Outcome::B)) {
            (0, 0) => None,
            (_, 0) => Some("a"),
            (0, _) => Some("b"),
            _ => None,
        }
    }
}

/// Pairs on the same data and base together, in the order given.
fn by_data(left: Vec<Side>, right: Vec<Side>) -> Vec<Vec<(Side, Side)>> {
    let mut tasks: Vec<Vec<(Side, Side)>> = Vec::new();
    for (a, b) in left.into_iter().zip(right) {
        let same = |task: &&mut Vec<(Side, Side)>| {
            let first = &task[0].0;
            (first.data(), first.base(), first.by()) == (a.data(), a.base(), a.by())
        };
        match tasks.iter_mut().find(same) {
            Some(task) => task.push((a, b)),
            None => tasks.push(vec![(a, b)]),
        }
    }
    tasks
}

/// All of one side must be of one method: no file twice, and alike in all settings but the seed, as far as they are known; on
/// other data, where steps and the like may differ, alike in method and rank.
fn check_arm(arm: &[Side]) -> Result<(), Usage> {
    for (i, side) in arm.iter().enumerate().skip(1) {
        let (path, first) = (side.path.display(), arm[0].path.display());
        if arm[..i].iter().any(|other| other.path.canonicalize().ok() == side.path.canonicalize().ok()) {
            return Err(Usage(format!("{path} is on one side twice, expected each result once")));
        }
        let elsewhere = arm[0].data() != side.data();
        let counts = |name: &str| if elsewhere { ["method", "r"].contains(&name) } else { name != "seed" };
        let differing = costs::differing(&arm[0], side).into_iter().find(|(name, _)| counts(name));
        if let Some((name, [was, is])) = differing {
            let found = format!("{first} and {path} are on the same side but differ in {name} ({was} and {is})");
            return Err(Usage(format!("{found}, expected results of one method")));
        }
    }
    Ok(())
}

/// Pairs on the same data must be seeds: each of its own seed, which the pair shares.
fn check_seeds(pairs: &[(Side, Side)]) -> Result<(), Usage> {
    if pairs.len() == 1 {
        return Ok(());
    }
    let seed = |side: &Side| side.setting("seed").cloned();
    for (a, b) in pairs {
        if let (Some(left), Some(right)) = (seed(a), seed(b))
            && left != right
        {
            let (a, b) = (a.path.display(), b.path.display());
            return Err(Usage(format!("{a} has seed {left} and {b} seed {right}, expected pairs of the same seed")));
        }
    }
    for arm in [pairs.iter().map(|p| &p.0).collect::<Vec<_>>(), pairs.iter().map(|p| &p.1).collect()] {
        for (i, side) in arm.iter().enumerate() {
            let path = side.path.display();
            if seed(side).is_none() {
                let found = format!("{path} is one of {} on the same data but no seed is on record", arm.len());
                return Err(Usage(format!(
                    "{found}, expected results of trained models (run.json beside the adapter)"
                )));
            }
            if let Some(same) = arm[..i].iter().find(|other| seed(other) == seed(side)) {
                let same = same.path.display();
                return Err(Usage(format!(
                    "{same} and {path} are of the same seed on the same data, expected each once"
                )));
            }
        }
    }
    Ok(())
}

/// A value of JSON as a person reads it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
