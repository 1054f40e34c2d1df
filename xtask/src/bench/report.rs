//! The tables, ready for `benches/RESULTS.md`, and everything measured as JSON.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::THREADS;
use super::bars::{Bound, Judged, judge};
use super::ops::Operation;
use super::results::{Results, Round, Side, median, peak, tokens_per_s};

/// Where and when something was measured.
pub struct Origin {
    date: String,
    cpu: String,
    commit: String,
    command: String,
}

/// All of a run of the benchmark.
pub struct Record {
    /// Where and when.
    pub origin: Origin,
    /// Operations, if they were asked for.
    pub operations: Vec<Operation>,
    /// Whole steps.
    pub results: Results,
}

impl Origin {
    /// Today, this machine, this commit and this command.
    pub fn find(root: &Path) -> Result<Self> {
        let said = |program: &str, arguments: &[&str]| -> Result<String> {
            let ran = Command::new(program).args(arguments).current_dir(root).output();
            let ran = ran.with_context(|| format!("starting {program}"))?;
            ensure!(ran.status.success(), "{program} failed: {}", String::from_utf8_lossy(&ran.stderr));
            Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
        };
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
        Ok(Origin {
            date: said("date", &["-u", "+%F"])?,
            cpu: field.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            commit: said("git", &["describe", "--always", "--dirty"])?,
            command: command(std::env::args().skip(1)),
        })
    }
}

/// The command as it can be repeated elsewhere: folders are this machine's affair.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut words = vec!["cargo xtask".to_owned()];
    for argument in arguments {
        let after_peers = words.last().is_some_and(|word| word == "--peers");
        words.push(match argument.split_once('=') {
            Some(("--peers", _)) => "--peers=PEERS".into(),
            _ if after_peers => "PEERS".into(),
            _ => argument,
        });
    }
    words.join(" ")
}

impl Record {
    /// The section for `benches/RESULTS.md`.
    pub fn text(&self) -> String {
        let Origin { date, cpu, commit, command } = &self.origin;
        let mut parts = vec![
            format!("## {date}: `{command}`"),
            format!(
                "CPU: {cpu}, {THREADS} threads; commit {commit}. Medians; in brackets, the smallest and the largest."
            ),
        ];
        if !self.operations.is_empty() {
            parts.push(table(&["operation", "ms", "GFLOP/s", "GB/s"], self.operations.iter().map(operation_row)));
        }
        let ours = self
            .results
            .runs()
            .filter(|((_, _, side), rounds)| *side == Side::Ours && !tokens_per_s(rounds).is_empty());
        let rows: Vec<_> = ours.map(|((case, method, _), rounds)| self.steps_row(case, method, rounds)).collect();
        if !rows.is_empty() {
            let head = ["work", "method", "tokens/s", "PEFT's", "peak MB", "PEFT's", "GFLOP/s", "gemm's"];
            parts.push(table(&head, rows.into_iter()));
        }
        let judged = judge(&self.results);
        if !judged.is_empty() {
            parts.push(table(&["bar", "expected", "measured", "met"], judged.iter().map(bar_row)));
        }
        parts.join("\n\n") + "\n"
    }

    fn steps_row(&self, case: &str, method: &str, ours: &[Round]) -> Vec<String> {
        let peft = self.results.rounds(case, method, Side::Peft);
        let rates = tokens_per_s(ours);
        let per_token = ours.iter().find_map(|round| round.inside).map(|inside| inside.flops_per_token);
        let gflops = median(&rates).zip(per_token).map(|(rate, flops)| rate * flops / 1e9);
        let whole = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.0}"));
        vec![
            case.to_owned(),
            method.to_owned(),
            with_spread(&rates),
            with_spread(&tokens_per_s(peft)),
            whole(peak(ours)),
            whole(peak(peft)),
            whole(gflops),
            whole(median(self.results.gemm(case))),
        ]
    }

    /// Everything.
    pub fn json(&self) -> Value {
        let Origin { date, cpu, commit, command } = &self.origin;
        let operation =
            |o: &Operation| json!({"name": o.name, "seconds": o.seconds, "flops": o.flops, "bytes": o.bytes});
        let steps = self.results.runs().map(|((case, method, side), rounds)| {
            let of = |f: fn(&super::results::Step) -> f64| -> Vec<Vec<f64>> {
                rounds.iter().map(|round| round.steps.iter().map(f).collect()).collect()
            };
            let inside: Vec<_> = rounds.iter().filter_map(|round| round.inside).collect();
            json!({
                "case": case, "method": method, "peft": *side == Side::Peft,
                "tokens_per_s": median(&tokens_per_s(rounds)), "peak_rss_mb": peak(rounds),
                "seconds": of(|step| step.seconds), "tokens": of(|step| step.tokens),
                "flops_per_token": inside.first().map(|inside| inside.flops_per_token),
                "attention_share": inside.iter().map(|inside| inside.attention_share).collect::<Vec<_>>(),
                "start_s": inside.iter().map(|inside| inside.start_s).collect::<Vec<_>>(),
                "gemm_gflops": self.results.gemm(case),
            })
        });
        let bar = |Judged { bar, measured: [middle, least, most], met }: &Judged| {
            let (kind, bound) = match bar.bound {
                Bound::AtLeast(bound) => ("at_least", bound),
                Bound::AtMost(bound) => ("at_most", bound),
            };
            json!({"name": bar.name, kind: bound, "median": middle, "smallest": least, "largest": most, "met": met})
        };
        json!({
            "date": date, "cpu": cpu, "threads": THREADS, "commit": commit, "command": command,
            "operations": self.operations.iter().map(operation).collect::<Vec<_>>(),
            "steps": steps.collect::<Vec<_>>(),
            "bars": judge(&self.results).iter().map(bar).collect::<Vec<_>>(),
        })
    }
}

fn operation_row(operation: &Operation) -> Vec<String> {
    let Operation { name, seconds, flops, bytes } = operation;
    let rate = |amount: f64| if amount > 0.0 { format!("{:.1}", amount / seconds / 1e9) } else { String::new() };
    vec![name.clone(), format!("{:.3}", 1e3 * seconds), rate(*flops), rate(*bytes)]
}

fn bar_row(judged: &Judged) -> Vec<String> {
    let expected = match judged.bar.bound {
        Bound::AtLeast(bound) => format!("at least {bound}"),
        Bound::AtMost(bound) => format!("at most {bound}"),
    };
    let [middle, least, most] = judged.measured;
    let met = if judged.met { "yes" } else { "no" };
    vec![judged.bar.name.to_owned(), expected, format!("{middle:.3} ({least:.3}–{most:.3})"), met.to_owned()]
}

/// Median, and the smallest and largest; nothing of nothing.
fn with_spread(values: &[f64]) -> String {
    let of = |f: fn(f64, f64) -> f64| values.iter().copied().reduce(f).unwrap_or_default();
    median(values).map_or(String::new(), |middle| format!("{middle:.0} ({:.0}–{:.0})", of(f64::min), of(f64::max)))
}

/// A table as Markdown has it, aligned for the terminal.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|&cell| cell.to_owned()).collect();
    let mut lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    lines.insert(1, widths.iter().map(|&width| "-".repeat(width)).collect());
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, &width)| format!("| {cell:<width$} "));
        padded.collect::<String>() + "|"
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::results::{Inside, Step};
    use super::*;

    fn round(seconds: f64, inside: bool) -> Round {
        let inside = inside.then_some(Inside { flops_per_token: 3e9, attention_share: 0.1, start_s: 0.7 });
        Round { steps: vec![Step { tokens: 100.0, seconds }], peak_rss_mb: 1000.0 * seconds, inside }
    }

    #[test]
    fn tables_have_what_was_measured() {
        let mut results = Results::default();
        for seconds in [0.5, 1.0, 2.0] {
            results.add(("openbookqa", "dora", Side::Ours), round(seconds, true));
            results.add(("openbookqa", "dora", Side::Peft), round(3.0 * seconds, false));
        }
        results.add_gemm("openbookqa", 400.4);
        let origin =
            Origin { date: "D".into(), cpu: "C".into(), commit: "0f".into(), command: "cargo xtask bench".into() };
        let operations = vec![Operation { name: "adamw 3".into(), seconds: 2e-3, flops: 0.0, bytes: 4e6 }];
        let record = Record { origin, operations, results };
        let expected = "## D: `cargo xtask bench`

CPU: C, 2 threads; commit 0f. Medians; in brackets, the smallest and the largest.

| operation | ms    | GFLOP/s | GB/s |
| --------- | ----- | ------- | ---- |
| adamw 3   | 2.000 |         | 2.0  |

| work       | method | tokens/s     | PEFT's     | peak MB | PEFT's | GFLOP/s | gemm's |
| ---------- | ------ | ------------ | ---------- | ------- | ------ | ------- | ------ |
| openbookqa | dora   | 100 (50–200) | 33 (17–67) | 2000    | 6000   | 300     | 400    |

| bar                                    | expected     | measured            | met |
| -------------------------------------- | ------------ | ------------------- | --- |
| openbookqa: DoRA, tokens/s over PEFT's | at least 2.5 | 3.000 (3.000–3.000) | yes |
";
        assert_eq!(record.text(), expected);
        let json = record.json();
        assert_eq!(json["bars"][0]["at_least"], 2.5);
        assert_eq!(json["steps"][1]["peft"], true);
        assert_eq!(json["steps"][0]["seconds"], json!([[0.5], [1.0], [2.0]]));
    }

    #[test]
    fn commands_name_no_folder() {
        let of = |words: &str| command(words.split(' ').map(str::to_owned));
        assert_eq!(of("bench --peers /home/x --only boolq"), "cargo xtask bench --peers PEERS --only boolq");
        assert_eq!(of("bench --peers=/home/x"), "cargo xtask bench --peers=PEERS");
    }
}
