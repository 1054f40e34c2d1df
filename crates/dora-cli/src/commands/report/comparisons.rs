//! Verdicts: those that `dora compare --json` wrote, and those on what was named here and measured the same, by the same code.
//! Results that differ in nothing but the seed are one arm; the first arm goes against each of the others, over the seeds
//! that both have, and p-values are corrected for the number of such comparisons.

use anyhow::Result;
use askama::Template;

use super::inputs::Inputs;
use super::table::{Column, Table};
use crate::commands::compare::{Sheet, Side, check_alike, differing, sheets};

/// A comparison as the page shows it.
pub struct Comparison {
    pub title: String,
    pub a: String,
    pub b: String,
    pub verdict: String,
    pub table: String,
    pub settings: String,
    pub next: String,
}

/// All comparisons.
pub fn all(inputs: &Inputs) -> Result<Vec<Comparison>> {
    let mut all = inputs.verdicts.clone();
    for group in groups(sides(inputs)?) {
        all.extend(sheets(pairs(arms(group)))?);
    }
    all.into_iter().map(view).collect()
}

/// What can be compared: evaluations, and runs that finished with a held-out loss.
fn sides(inputs: &Inputs) -> Result<Vec<Side>> {
    let mut sides: Vec<Side> = inputs.evaluations.iter().map(|evaluation| evaluation.side.clone()).collect();
    let judged =
        inputs.runs.iter().filter(|run| run.ending() == "finished" && run.number("/results/eval_loss_after").is_some());
    for run in judged {
        sides.push(Side::read(&run.path)?);
    }
    Ok(sides)
}

/// Those that measure the same.
fn groups(sides: Vec<Side>) -> Vec<Vec<Side>> {
    let mut groups: Vec<Vec<Side>> = Vec::new();
    for side in sides {
        match groups.iter_mut().find(|group| check_alike(&group[0], &side).is_ok()) {
            Some(group) => group.push(side),
            None => groups.push(vec![side]),
        }
    }
    groups
}

/// Those that differ in the seed only.
fn arms(group: Vec<Side>) -> Vec<Vec<Side>> {
    let mut arms: Vec<Vec<Side>> = Vec::new();
    for side in group {
        let belongs = |arm: &&mut Vec<Side>| {
            let trained = arm[0].training.is_some() && side.training.is_some();
            let alike = differing(&arm[0], &side).iter().all(|(name, _)| name == "seed");
            trained && alike && arm.iter().all(|other| other.setting("seed") != side.setting("seed"))
        };
        match arms.iter_mut().find(belongs) {
            Some(arm) => arm.push(side),
            None => arms.push(vec![side]),
        }
    }
    arms
}

/// The first arm with each of the others: pairs of the seeds that both have, or else the first of both.
fn pairs(arms: Vec<Vec<Side>>) -> Vec<Vec<(Side, Side)>> {
    let Some((first, others)) = arms.split_first() else { return Vec::new() };
    let against = |arm: &Vec<Side>| {
        let twin =
            |a: &Side| arm.iter().find(|b| b.setting("seed").is_some() && b.setting("seed") == a.setting("seed"));
        let pairs: Vec<_> = first.iter().filter_map(|a| Some((a.clone(), twin(a)?.clone()))).collect();
        if pairs.is_empty() { vec![(first[0].clone(), arm[0].clone())] } else { pairs }
    };
    others.iter().map(against).collect()
}

fn view(sheet: Sheet) -> Result<Comparison> {
    let Sheet { labels: [a, b], files, verdict, table, settings, next, .. } = sheet;
    let columns = ["".into(), format!("A ({a})"), format!("B ({b})"), "B against A".into()];
    let table = Table {
        caption: "Figures of both".into(),
        columns: Column::of(columns, 4),
        rows: table.into_iter().map(Vec::from).collect(),
    };
    Ok(Comparison {
        title: format!("{a} (A) and {b} (B)"),
        a: files.a.join(", "),
        b: files.b.join(", "),
        verdict,
        table: table.render()?,
        settings: settings.join("; "),
        next,
    })
}
