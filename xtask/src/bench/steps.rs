//! Runs of the cases of a group, in turn.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::THREADS;
use super::cases::{Case, Group};
use super::peer::Peer;
use super::results::{Inside, Results, Round, Side, Step, median, tokens_per_s};
use crate::training::{build, train};

/// A case that is ready to run.
struct Prepared {
    case: &'static Case,
    model: PathBuf,
    /// File of the rows of each round.
    rows: Vec<PathBuf>,
    peers: Vec<(&'static str, Peer)>,
}

/// Measures a group.
pub fn run(root: &Path, dir: &Path, peers: Option<&Path>, group: &Group, results: &mut Results) -> Result<()> {
    let (dora, gemm) = (build(root, "dora-cli")?, build(root, "dora-benches")?);
    let prepared: Result<Vec<_>> =
        group.cases.iter().map(|case| prepare(root, dir, peers, case, group.rounds)).collect();
    let mut prepared = prepared?;
    for round in 0..group.rounds {
        for Prepared { case, model, rows, peers } in &mut prepared {
            let say = |what: String| eprintln!("{}, round {}: {what}", case.name, round + 1);
            let mut methods = case.methods.to_vec();
            if round % 2 == 1 {
                // A machine that becomes slower and slower then favours none.
                methods.reverse();
            }
            for method in methods {
                let measured = ours(&dora, dir, case, model, &rows[round], method)?;
                say(format!("{method} {}", in_short(&measured)));
                if let Some((_, peer)) = peers.iter_mut().find(|(peer, _)| *peer == method) {
                    let theirs = peer.round(&rows[round])?;
                    say(format!("PEFT's {method} {}", in_short(&theirs)));
                    let tokens = |round: &Round| round.steps.iter().map(|step| step.tokens).collect::<Vec<_>>();
                    ensure!(tokens(&measured) == tokens(&theirs), "{}: the sides saw different rows", case.name);
                    results.add((case.name, method, Side::Peft), theirs);
                }
                results.add((case.name, method, Side::Ours), measured);
            }
            if group.gemm {
                let rate = gemm_rate(&gemm, model, case)?;
                say(format!("gemm {rate:.0} GFLOP/s"));
                results.add_gemm(case.name, rate);
            }
        }
    }
    Ok(())
}

fn in_short(round: &Round) -> String {
    let rate = median(&tokens_per_s(std::slice::from_ref(round)));
    let rate = rate.map_or(String::new(), |rate| format!("{rate:.0} tokens/s, "));
    let start = round.inside.map_or(String::new(), |inside| format!(", first step after {:.2} s", inside.start_s));
    format!("{rate}{:.0} MB{start}", round.peak_rss_mb)
}

fn prepare(root: &Path, dir: &Path, peers: Option<&Path>, case: &'static Case, rounds: usize) -> Result<Prepared> {
    let model = case.model_dir(root, dir, peers)?;
    let write = |(round, rows): (usize, Vec<String>)| {
        let path = dir.join(format!("rows-{round}-{}.jsonl", case.name.replace(' ', "")));
        std::fs::write(&path, rows.join("\n") + "\n").with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    };
    let rows: Result<Vec<_>> = case.rows(&model, peers, rounds)?.into_iter().enumerate().map(write).collect();
    let start = |peers| {
        let start = |&method| Ok((method, Peer::start(root, peers, &model, method, case)?));
        case.peer_methods.iter().map(start).collect::<Result<Vec<_>>>()
    };
    let peers = peers.map_or(Ok(Vec::new()), start)?;
    Ok(Prepared { case, model, rows: rows?, peers })
}

/// A run of `dora train`.
fn ours(dora: &Path, dir: &Path, case: &Case, model: &Path, rows: &Path, method: &str) -> Result<Round> {
    let output = dir.join("run");
    let mut arguments: Vec<OsString> = Vec::new();
    for (option, path) in [("--model", model), ("--data", rows), ("--output", &output)] {
        arguments.extend([option.into(), path.into()]);
    }
    let (batch, rank, steps) = (case.batch, case.rank, 1 + case.steps);
    let settings = format!(
        "--method={method} --rank={rank} --target-modules=all-linear --batch-size={batch} --max-steps={steps} --no-shuffle \
         --lr=2e-4 --schedule=constant --max-grad-norm=0 --threads={THREADS} --profile"
    );
    arguments.extend(settings.split_whitespace().map(OsString::from));
    arguments.extend(case.longest().map(|tokens| format!("--max-seq-len={tokens}").into()));
    let record = train(dora, &arguments)?;
    let path = output.join("metrics.jsonl");
    let lines = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let round = parse(&record["results"], &lines)?;
    ensure!(round.steps.len() == case.steps, "{} steps in {}, expected {steps}", round.steps.len() + 1, path.display());
    Ok(round)
}

/// A round from a run's results and its metrics, a line a step.
fn parse(results: &Value, lines: &str) -> Result<Round> {
    let number = |value: &Value| value.as_f64().with_context(|| format!("found {value}, expected a number"));
    let step = |line: &str| {
        let line: Value = serde_json::from_str(line)?;
        let tokens = number(&line["tokens"])?;
        Ok(Step { tokens, seconds: tokens / number(&line["tokens_per_s"])? })
    };
    let steps: Vec<Step> = lines.lines().map(step).collect::<Result<_>>()?;
    let operations = results["profile"]["operations"].as_array().context("the record has no profile")?;
    let (mut flops, mut attention) = (0.0, 0.0);
    for operation in operations {
        flops += number(&operation["flops"])?;
        if operation["operation"].as_str().is_some_and(|name| name.starts_with("attention ")) {
            attention += number(&operation["seconds"])?;
        }
    }
    let inside = Inside {
        flops_per_token: flops / number(&results["tokens"])?,
        attention_share: attention / number(&results["profile"]["seconds"])?,
        start_s: number(&results["start_s"])?,
    };
    let warm = steps.get(1..).context("a run has no steps")?.to_vec();
    Ok(Round { steps: warm, peak_rss_mb: number(&results["peak_rss_mb"])?, inside: Some(inside) })
}

/// GFLOP/s of the `gemm` crate at the shapes of a case.
fn gemm_rate(gemm: &Path, model: &Path, case: &Case) -> Result<f64> {
    let tokens = case.batch * case.longest().context("the case has no fixed number of tokens")?;
    let mut command = Command::new(gemm);
    command.arg(model).arg(tokens.to_string()).env("RAYON_NUM_THREADS", THREADS.to_string());
    let ran = command.output().context("starting dora-benches")?;
    ensure!(ran.status.success(), "dora-benches failed: {}", String::from_utf8_lossy(&ran.stderr));
    let printed: Value = serde_json::from_slice(&ran.stdout).context("reading what dora-benches printed")?;
    printed["gflops"].as_f64().context("dora-benches printed no rate")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_step_is_warm_up() {
        let operation =
            |name: &str, seconds: f64, flops: u64| json!({"operation": name, "seconds": seconds, "flops": flops});
        let results = json!({
            "tokens": 30, "start_s": 0.5, "peak_rss_mb": 7.5,
            "profile": {"seconds": 8.0, "operations": [
                operation("attention forward", 1.0, 30), operation("attention backward", 3.0, 60), operation("all else", 4.0, 0),
            ]},
        });
        let lines = "{\"tokens\": 10, \"tokens_per_s\": 1.0}\n{\"tokens\": 20, \"tokens_per_s\": 40.0}\n";
        let round = parse(&results, lines).unwrap();
        assert_eq!(round.steps, [Step { tokens: 20.0, seconds: 0.5 }]);
        assert_eq!(round.peak_rss_mb, 7.5);
        assert_eq!(round.inside, Some(Inside { flops_per_token: 3.0, attention_share: 0.5, start_s: 0.5 }));
        assert!(parse(&json!({"tokens": 30}), lines).is_err());
        assert!(parse(&results, "").is_err());
    }
}
