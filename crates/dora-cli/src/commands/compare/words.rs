//! A comparison in words for people who know no statistics: the verdict, the figures, and the next experiment.

use dora_stats::Seeds;

use dora_adapters::count::thousands;

use super::costs::Costs;
use super::task::{Found, Measure, Task, Test, Unit};
use super::{Judged, Outcome, sheet};

/// Items below which no test can reach p < 0.05: half of all signs of six alike is 2/64.
const LEAST: usize = 6;

/// Everything, verdict first.
pub fn report(judged: &Judged, costs: &Costs) -> String {
    let mut text = verdict(judged);
    for (i, task) in judged.tasks.iter().enumerate() {
        text.push_str("\n\n");
        if judged.tasks.len() > 1 {
            text.push_str(&format!("{}: {}\n", name(task), sentence(judged, i)));
        }
        let mut lines = [vec![sheet::head(task)], sheet::figures(task)].concat();
        if judged.tasks.len() == 1 {
            lines.extend(costs.lines());
        }
        text.push_str(&sheet::aligned(&lines));
    }
    if judged.tasks.len() > 1 && !costs.lines().is_empty() {
        text.push_str(&format!("\n\n{}", sheet::aligned(&costs.lines())));
    }
    let settings: Vec<String> = costs.settings().collect();
    if !settings.is_empty() {
        text.push_str(&format!("\n\nSettings that differ: {}.", settings.join("; ")));
    }
    text.push_str(&format!("\n\nNext: {}", next(judged)));
    text
}

/// The verdict in a sentence.
pub fn verdict(judged: &Judged) -> String {
    if judged.tasks.len() == 1 {
        return sentence(judged, 0);
    }
    let counts = [
        (Outcome::B, "B better on"),
        (Outcome::A, "A better on"),
        (Outcome::Noise, "within noise on"),
        (Outcome::Undecided, "undecided on"),
    ];
    let parts = counts.into_iter().map(|(outcome, words)| (judged.count(outcome), words)).filter(|(n, _)| *n > 0);
    let parts: Vec<String> = parts.map(|(n, words)| format!("{words} {n}")).collect();
    format!("Of {} tasks: {}.", judged.tasks.len(), parts.join(", "))
}

/// What to do next: once where it is the same for all tasks.
pub fn next(judged: &Judged) -> String {
    let all: Vec<String> = (0..judged.tasks.len()).map(|i| advice(&judged.tasks[i], judged.outcome(i))).collect();
    if all.iter().all(|advice| *advice == all[0]) {
        return all[0].clone();
    }
    let of = |(task, advice): (&Task, &String)| format!("{}: {advice}", name(task));
    judged.tasks.iter().zip(&all).map(of).collect::<Vec<_>>().join("\n")
}

/// What one task's test says.
pub fn sentence(judged: &Judged, i: usize) -> String {
    let task = &judged.tasks[i];
    let test = &task.test;
    let (ahead, behind) = if test.gain() >= 0.0 { ("B", "A") } else { ("A", "B") };
    let lead = match test.measure {
        Measure::Accuracy => format!("{ahead} is {} ahead of {behind}", size(test, test.gain())),
        Measure::Loss => format!("the loss of {ahead} is lower than that of {behind} by {}", size(test, test.gain())),
    };
    let unit = test.unit.name();
    let Some(found) = &test.found else {
        let why = match task.pairs.len() {
            _ if test.unit != Unit::Seeds => format!("one of the {unit} alone tells nothing"),
            k if k >= Seeds::LEAST => {
                "every seed gives exactly the same difference, so there is no spread to judge it by".to_owned()
            }
            k => format!("{} of each cannot tell a better method from a lucky run", runs(k)),
        };
        return format!("Undecided: {lead}, but {why}.");
    };
    let equal = if test.unit == Unit::Seeds { "methods" } else { "models" };
    let chance = format!("if both {equal} were equally good, luck alone would give a difference at least this large");
    let p = p_value(found.p);
    let p = match (judged.tasks.len(), judged.p_adjusted[i]) {
        (2.., Some(adjusted)) => {
            let n = judged.p_adjusted.len();
            format!("{p}; {} after Holm's correction, as {n} comparisons give luck {n} chances", number(adjusted))
        }
        _ => p,
    };
    match judged.outcome(i) {
        _ if found.smallest == 0.0 && test.gain() == 0.0 => {
            let same = match test.measure {
                Measure::Accuracy if test.unit != Unit::Seeds && task.pairs.len() == 1 => {
                    "are right and wrong on the same"
                }
                _ => "do the same on all",
            };
            format!("Within noise: A and B {same} {} {unit}, which does not show that they are equal.", test.n)
        }
        _ if test.gain() == 0.0 => format!("Within noise: A and B are even ({p})."),
        Outcome::Noise | Outcome::Undecided => format!(
            "Within noise: {lead}, but {chance} {} ({p}). That shows neither that {ahead} is better nor that they are equal.",
            odds(found.p)
        ),
        Outcome::A | Outcome::B => {
            let over = if test.unit == Unit::Seeds { format!(" over {} seeds", test.n) } else { String::new() };
            let (low, high) = (found.interval.low, found.interval.high);
            let ends = if test.difference() >= 0.0 { [low, high] } else { [-high, -low] };
            let [low, high] = ends.map(|end| amount(test.measure, end));
            let by = size(test, test.gain());
            let by = if test.measure == Measure::Loss { format!("{by} in loss") } else { by };
            format!(
                "{ahead} better by {by}{over}, likely by {low} to {high} (95 % interval): {chance} only {} ({p}).",
                odds(found.p)
            )
        }
    }
}

/// The experiment that would decide.
pub fn advice(task: &Task, outcome: Outcome) -> String {
    let test = &task.test;
    let by_seed = test.unit == Unit::Seeds;
    let k = task.pairs.len();
    let seeds = format!(
        "training again from another random start (`--seed`) may turn the result round; train and evaluate both with at \
         least {} seeds, of which {}, and compare all.",
        Seeds::LEAST,
        if k == 1 { "these runs are one".to_owned() } else { format!("these runs are {k}") }
    );
    match (outcome, &test.found) {
        (Outcome::Undecided, None) if !by_seed => "evaluate both on hundreds of items.".into(),
        (Outcome::Undecided, _) | (_, None) => format!(
            "evaluate both on the same held-out items (`dora eval --output`) and compare the two files; or train both with \
             at least {} seeds and compare all runs.",
            Seeds::LEAST
        ),
        (Outcome::A | Outcome::B, Some(_)) if by_seed => {
            "nothing on this data; other data would say whether it holds there too.".into()
        }
        (Outcome::A | Outcome::B, Some(_)) => {
            let models = if k == 1 { "two".to_owned() } else { (2 * k).to_string() };
            format!("that holds for these {models} trained models, not yet for the methods behind them, as {seeds}")
        }
        (Outcome::Noise, Some(found)) if by_seed => more(test, found),
        (Outcome::Noise, Some(found)) => {
            format!("{} To judge the methods and not only these models: {seeds}", more(test, found))
        }
    }
}

/// How many items or seeds would decide what is within noise.
fn more(test: &Test, found: &Found) -> String {
    let (n, unit) = (thousands(test.n), test.unit.name());
    if found.smallest == 0.0 && test.gain() == 0.0 {
        return format!(
            "these {n} {unit} do not tell the two apart at all: see whether A and B are different models; if so, take more {unit}."
        );
    }
    if test.unit != Unit::Seeds && test.n < LEAST {
        return format!("{n} {unit} cannot show any difference, however large; take hundreds.");
    }
    let smallest = size(test, found.smallest);
    let beyond = test.unit == Unit::Seeds && found.needed.is_none();
    if beyond || amount(test.measure, test.gain()) == amount(test.measure, 0.0) && test.gain() > 0.0 {
        return format!(
            "these {n} {unit} find only {smallest} or more, and what they show is far less; choose by cost."
        );
    }
    let (plan, items): (f64, String) = match (found.needed.filter(|&k| k > test.n as f64), test.unit) {
        (None, _) if found.needed.is_some() => (test.gain(), format!("somewhat more {unit} than these")),
        (Some(k), Unit::Seeds) => (test.gain(), format!("about {k} seeds an arm in all")),
        (Some(items), _) => (test.gain(), format!("about {} {unit} like these in all", rounded(items))),
        (None, _) => {
            // Nothing to go by: a point of accuracy, or a hundredth of the loss.
            let least = if test.measure == Measure::Accuracy { 0.01 } else { 0.01 * test.a };
            let items = rounded(test.n as f64 * (found.smallest / least).powi(2));
            (least, format!("about {items} {unit} like these in all"))
        }
    };
    let how = if test.unit == Unit::Seeds { "train and evaluate both with" } else { "evaluate both on" };
    let plan = size(test, plan);
    format!(
        "if a difference of {plan} would matter to you, {how} {items}, enough to find it 4 times out of 5 (these {n} find \
         only {smallest} or more); if not, choose by cost."
    )
}

fn name(task: &Task) -> String {
    let stem = |path: &std::path::Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (a, b) = &task.pairs[0];
    format!("{} and {}", stem(&a.path), stem(&b.path))
}

/// A difference in words, without its sign.
fn size(test: &Test, difference: f64) -> String {
    let unit = if test.measure == Measure::Accuracy { " points of accuracy" } else { "" };
    format!("{}{unit}", amount(test.measure, difference.abs()))
}

/// A difference as a number: points for shares.
pub fn amount(measure: Measure, difference: f64) -> String {
    let text = match measure {
        Measure::Accuracy => format!("{:.1}", 100.0 * difference),
        Measure::Loss => format!("{difference:.4}"),
    };
    match text.strip_prefix('-') {
        Some(zero) if zero.chars().all(|c| matches!(c, '0' | '.')) => zero.to_owned(),
        Some(digits) => format!("−{digits}"),
        None => text,
    }
}

fn runs(k: usize) -> String {
    if k == 1 { "one run".into() } else { format!("{k} runs") }
}

/// How often chance does it.
fn odds(p: f64) -> String {
    match p {
        p if p >= 0.995 => "in practically every such test".into(),
        p if p >= 0.0095 => format!("in {:.0} of 100 such tests", 100.0 * p),
        p if p >= 1e-6 => format!("in 1 of {} such tests", rounded(1.0 / p)),
        _ => "in fewer than 1 of a million such tests".into(),
    }
}

pub fn p_value(p: f64) -> String {
    format!("p = {}", number(p))
}

/// Two digits that count.
fn number(p: f64) -> String {
    match p {
        p if p >= 0.995 => "1".into(),
        p if p >= 0.095 => format!("{p:.2}"),
        p if p >= 0.0095 => format!("{p:.3}"),
        p if p >= 0.00095 => format!("{p:.4}"),
        _ => format!("{p:.1e}"),
    }
}

/// A count to two digits that count.
fn rounded(x: f64) -> String {
    let scale = 10f64.powf((x.max(1.0).log10().floor() - 1.0).max(0.0));
    thousands(((x / scale).round() * scale) as usize)
}
