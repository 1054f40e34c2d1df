//! What `dora compare` has to say of one task, for a page: who was compared, the verdict, the figures, and the next experiment.
//! It goes into the JSON, from which `dora report` reads it back.

use serde::{Deserialize, Serialize};

use super::costs::Costs;
use super::task::{Found, Measure, Task, Test};
use super::words::{advice, amount, p_value, sentence};
use super::{Judged, Outcome};

/// One task's part of a report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sheet {
    /// A and B in words.
    pub labels: [String; 2],
    /// Their files or folders.
    pub files: Sides,
    /// A sentence.
    pub verdict: String,
    /// Whether a difference was found.
    pub decided: bool,
    /// Rows of name, A, B, and B against A; results first, then costs.
    pub table: Vec<[String; 4]>,
    /// Settings that differ, each in words.
    pub settings: Vec<String>,
    /// What would decide, or what remains to be shown.
    pub next: String,
}

/// Something of each side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sides {
    /// Of A.
    pub a: Vec<String>,
    /// Of B.
    pub b: Vec<String>,
}

impl Sheet {
    /// Of the i-th task.
    pub(super) fn of(judged: &Judged, i: usize) -> Self {
        let task = &judged.tasks[i];
        let costs = Costs::of(task.pairs.iter());
        let (a, b) = &task.pairs[0];
        let outcome = judged.outcome(i);
        Sheet {
            labels: [a.label(), b.label()],
            files: Sides {
                a: task.pairs.iter().map(|p| p.0.path.display().to_string()).collect(),
                b: task.pairs.iter().map(|p| p.1.path.display().to_string()).collect(),
            },
            verdict: sentence(judged, i),
            decided: matches!(outcome, Outcome::A | Outcome::B),
            table: figures(task).into_iter().chain(costs.lines()).collect(),
            settings: costs.settings().collect(),
            next: advice(task, outcome),
        }
    }
}

/// The first row of a task's table.
pub fn head(task: &Task) -> [String; 4] {
    let (a, b) = &task.pairs[0];
    [String::new(), format!("A ({})", a.label()), format!("B ({})", b.label()), "B against A".into()]
}

/// The rows of a task's table.
pub fn figures(task: &Task) -> Vec<[String; 4]> {
    let mut lines = vec![figure(
        &task.test,
        if task.test.measure == Measure::Accuracy { "right" } else { "loss (less is better)" },
    )];
    if let Some(p) = task.p_by_sign_flips {
        lines.push(["by sign flips over seeds".into(), String::new(), String::new(), p_value(p)]);
    }
    if let Some(answers) = &task.answers {
        let (a, b) = (answers.only_a.to_string(), answers.only_b.to_string());
        let (both, neither) = (answers.both, answers.neither);
        lines.push(["only this one right".into(), a, b, format!("both right {both}, both wrong {neither}")]);
    }
    lines.extend(task.loss.as_ref().map(|test| figure(test, "loss of the right answer")));
    lines
}

fn figure(test: &Test, name: &str) -> [String; 4] {
    let show = |x: f64| match test.measure {
        Measure::Accuracy => format!("{:.1} %", 100.0 * x),
        Measure::Loss => format!("{x:.4}"),
    };
    let unit = if test.measure == Measure::Accuracy { " points" } else { "" };
    let interval = match &test.found {
        Some(Found { interval, p, .. }) => {
            let [low, high] = [interval.low, interval.high].map(|end| amount(test.measure, end));
            format!(" (95 % interval {low} to {high}), {}, {}", p_value(*p), test.name)
        }
        None => String::new(),
    };
    [name.into(), show(test.a), show(test.b), format!("{}{unit}{interval}", amount(test.measure, test.difference()))]
}

/// Rows as text, column under column.
pub fn aligned(lines: &[[String; 4]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2].map(width);
    let row = |line: &[String; 4]| {
        let [a, b, c] = [0, 1, 2].map(|i| format!("{}{}", line[i], " ".repeat(widths[i] - line[i].chars().count())));
        format!("{a}  {b}  {c}  {}", line[3]).trim_end().to_owned()
    };
    lines.iter().map(row).collect::<Vec<_>>().join("\n")
}
