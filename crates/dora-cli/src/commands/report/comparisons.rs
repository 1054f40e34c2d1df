//! Verdicts: those that `dora compare --json` wrote, and those on what was named here and measured the same, by the same code.
//! Results that differ in nothing but the seed are one arm; the first arm goes against each of the others, over the seeds
//! that both have. In a sweep the first method goes against each of the others at the same rank. p-values are corrected for
//! the number of such comparisons.

use anyhow::Result;
use askama::Template;

use super::inputs::Inputs;
use super::run::Run;
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
        let arms = arms(group);
        let Some((first, others)) = arms.split_first() else { continue };
        all.extend(sheets(others.iter().map(|other| pairs(first, other)).collect())?);
    }
    for sweep in &inputs.sweeps {
        all.extend(sheets(sweep.pairs()?.iter().map(|[a, b]| pairs(a, b)).collect())?);
    }
    all.into_iter().map(view).collect()
}

/// What can be compared: evaluations, and runs without one that finished with a held-out loss.
fn sides(inputs: &Inputs) -> Result<Vec<Side>> {
    let mut sides: Vec<Side> = inputs.evaluations.iter().map(|evaluation| evaluation.side.clone()).collect();
    let evaluated = |run: &&Run| sides.iter().any(|side| side.training.as_ref() == Some(&run.record));
    let finished = |run: &&Run| run.ending() == "finished" && run.number("/results/eval_loss_after").is_some();
    let runs: Vec<&Run> = inputs.runs.iter().filter(|run| finished(run) && !evaluated(run)).collect();
    for run in runs {
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

/// Two arms over the seeds that both have, or else the first of both.
fn pairs(a: &[Side], b: &[Side]) -> Vec<(Side, Side)> {
    let same = |a: &Side, b: &Side| a.setting("seed").is_some() && a.setting("seed") == b.setting("seed");
    let twin = |a: &Side| b.iter().find(|b| same(a, b)).cloned();
    let pairs: Vec<_> = a.iter().filter_map(|a| Some((a.clone(), twin(a)?))).collect();
    if pairs.is_empty() { vec![(a[0].clone(), b[0].clone())] } else { pairs }
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
