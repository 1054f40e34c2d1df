//! `cargo xtask bench`: operations by criterion (`benches/benches/ops.rs`), then whole steps of `dora train` by workload and
//! method, and with `--peers` Hugging Face PEFT in turn with ours on the same rows, all judged against the bars. Prints
//! tables that are ready for `benches/RESULTS.md`, and keeps them in `target/bench` with everything measured as JSON.
//!
//! A case runs in rounds. In each, every method and every peer makes the same steps over the same rows one after another, so
//! that a slow spell of the machine falls on all; the first step of a round is warm-up. Ratios are taken step by step, and
//! their median counts.

mod bars;
mod cases;
mod ops;
mod peer;
mod report;
mod results;
mod steps;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use cases::{GROUPS, Group};
use results::Results;

/// Threads of every side, as the bars have them.
const THREADS: usize = 2;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder with PEFT and real models, to run in turn with ours: venv/ (torch, transformers, peft, bitsandbytes), random135/ and
    /// smollm2/ (SmolLM2-135M with random and with real weights), rows/TASK-train.jsonl (tokenised)
    #[arg(long)]
    peers: Option<PathBuf>,
    /// One workload alone: ops, random135, short, rank128, growth, start, openbookqa, boolq; or demo, which takes seconds
    #[arg(long)]
    only: Option<String>,
}

/// Measures, prints, and keeps what was asked for.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let dir = root.join("target/bench");
    let text = measure(root, &dir, args)?;
    println!("{text}");
    println!("in {}: results.md, results.json", dir.display());
    Ok(())
}

/// Measures into the folder `dir`, and gives the tables.
fn measure(root: &Path, dir: &Path, args: &Args) -> Result<String> {
    std::fs::create_dir_all(dir)?;
    let (chosen, origin) = (chosen(args)?, report::Origin::find(root)?);
    let operations =
        if args.only.as_deref().unwrap_or(ops::NAME) == ops::NAME { ops::run(root, dir)? } else { Vec::new() };
    let mut results = Results::default();
    for group in chosen {
        steps::run(root, dir, args.peers.as_deref(), group, &mut results)?;
    }
    let record = report::Record { origin, operations, results };
    std::fs::write(dir.join("results.json"), format!("{:#}\n", record.json()))?;
    let text = record.text();
    std::fs::write(dir.join("results.md"), &text)?;
    Ok(text)
}

/// The groups that were asked for, without those that need peers where there are none.
fn chosen(args: &Args) -> Result<Vec<&'static Group>> {
    let Some(only) = args.only.as_deref() else {
        let (chosen, left): (Vec<_>, Vec<_>) = GROUPS
            .iter()
            .filter(|group| group.name != "demo")
            .partition(|group| args.peers.is_some() || !group.needs_peers());
        for group in left {
            eprintln!("left out: {}, which needs --peers for its model and rows", group.name);
        }
        return Ok(chosen);
    };
    let names = || GROUPS.iter().map(|group| group.name).collect::<Vec<_>>().join(", ");
    let chosen: Vec<_> = GROUPS.iter().filter(|group| group.name == only).collect();
    ensure!(only == ops::NAME || !chosen.is_empty(), "--only is {only:?}, expected one of {}, {}", ops::NAME, names());
    let lacking = chosen.iter().any(|group| group.needs_peers()) && args.peers.is_none();
    ensure!(!lacking, "--only {only} needs --peers, whose folder has its model and rows");
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(only: Option<&str>, peers: bool) -> Args {
        Args { only: only.map(str::to_owned), peers: peers.then(|| "peers".into()) }
    }

    #[test]
    fn workloads_are_chosen_by_name() {
        let names =
            |only, peers| chosen(&args(only, peers)).map(|groups| groups.iter().map(|g| g.name).collect::<Vec<_>>());
        assert_eq!(names(None, false).unwrap(), ["random135", "short", "overhead", "rank128", "growth", "start"]);
        assert_eq!(names(None, true).unwrap().len(), 8);
        assert_eq!(names(Some("growth"), false).unwrap(), ["growth"]);
        assert!(names(Some("ops"), false).unwrap().is_empty());
        let said = |only| names(Some(only), false).unwrap_err().to_string();
        assert_eq!(said("boolq"), "--only boolq needs --peers, whose folder has its model and rows");
        assert!(said("speed").starts_with("--only is \"speed\", expected one of ops, random135"));
    }

    #[test]
    fn the_demo_runs_through_in_seconds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let text = measure(root, dir.path(), &args(Some("demo"), false)).unwrap();
        for row in ["| demo | lora ", "| demo | dora ", "| demo | qlora ", "| demo | qdora "] {
            assert!(text.contains(row), "{text}");
        }
        let kept: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("results.json")).unwrap()).unwrap();
        let steps = kept["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 4);
        assert!(steps.iter().all(|row| row["seconds"][1].as_array().unwrap().len() == 3 && row["peft"] == false));
    }
}
