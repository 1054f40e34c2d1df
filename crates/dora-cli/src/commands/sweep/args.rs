//! Options of `dora sweep`, and the runs that they ask for.

use std::path::PathBuf;

use anyhow::{Context, Result};
use dora_models::checkpoint::ensure_writable_dir;

use super::arm::{Arm, Rates};
use super::cell::Cell;
use super::shared::Shared;
use crate::commands::eval::{By, Task};
use crate::commands::train;
use crate::failure::Usage;
use crate::output::check_file;

/// Arguments of `dora sweep`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder to write to; what an earlier sweep finished there is not made again
    #[arg(long)]
    pub output: PathBuf,
    /// Methods, separated by commas: lora, dora, qlora or qdora, with options of their own behind a +, as in dora+dropout=0.1
    #[arg(long, value_delimiter = ',', default_value = "lora,dora")]
    pub methods: Vec<Arm>,
    /// Ranks, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "4,8,16,32")]
    pub ranks: Vec<usize>,
    /// Seeds, separated by commas; each settles the initial adapter and the order of rows
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub seeds: Vec<u64>,
    /// Learning rates for all methods, or METHOD=RATES for one (may be given again); of several, each method gets the one
    /// with the least held-out loss [default: 2e-4]
    #[arg(long, value_name = "[METHOD=]RATE,…")]
    pub learning_rates: Vec<Rates>,
    /// Held-out rows that the results are of
    #[arg(long, num_args = 1.., required = true)]
    pub eval_data: Vec<PathBuf>,
    /// Measure right answers to the questions of --eval-data as well
    #[arg(long, value_enum)]
    pub task: Option<Task>,
    /// How a question is answered [default: likelihood]
    #[arg(long, value_enum, requires = "task")]
    pub by: Option<By>,
    /// Held-out rows that learning rates are chosen on [default: those of --eval-data]
    #[arg(long, num_args = 1..)]
    pub tune_data: Vec<PathBuf>,
    /// Rank that learning rates are chosen at [default: the middle one of --ranks]
    #[arg(long)]
    pub tune_rank: Option<usize>,
    /// Seed that learning rates are chosen with [default: one above those of --seeds]
    #[arg(long)]
    pub tune_seed: Option<u64>,
    #[command(flatten)]
    pub shared: Shared,
}

impl Args {
    /// Refuses what can be told before anything loads.
    pub fn check(&self) -> Result<()> {
        once("--methods", &self.methods.iter().map(|arm| &arm.name).collect::<Vec<_>>())?;
        once("--ranks", &self.ranks)?;
        once("--seeds", &self.seeds)?;
        Rates::check(&self.learning_rates, &self.methods)?;
        let tuned = self.methods.iter().any(|arm| Rates::of(&self.learning_rates, arm).len() > 1);
        if !tuned && (!self.tune_data.is_empty() || self.tune_rank.is_some() || self.tune_seed.is_some()) {
            let text = "--tune-data, --tune-rank and --tune-seed are for several --learning-rates, expected these";
            return Err(Usage(text.into()).into());
        }
        if let Some(seed) = self.tune_seed.filter(|seed| self.seeds.contains(seed)) {
            return Err(Usage(format!("--tune-seed {seed} is one of --seeds, expected another")).into());
        }
        let resolved = |files: &[PathBuf]| files.iter().map(|file| file.canonicalize().ok()).collect::<Vec<_>>();
        if !self.tune_data.is_empty() && resolved(&self.tune_data) == resolved(&self.eval_data) {
            return Err(Usage("--tune-data names the files of --eval-data, expected others".into()).into());
        }
        let mut inputs: Vec<PathBuf> = self.eval_data.iter().chain(&self.tune_data).cloned().collect();
        for cell in self.methods.iter().flat_map(|arm| self.tuning_cells(arm).into_iter().chain(self.cells(arm))) {
            let args = self.train_args(&cell, false)?;
            args.check().with_context(|| cell.name())?;
            inputs.extend(args.data.iter().chain([&args.model]).cloned());
        }
        ensure_writable_dir(&self.output).map_err(|e| Usage(format!("--output: {e}")))?;
        for name in ["sweep.json", "sweep.svg"] {
            check_file("--output", &self.output.join(name), &inputs)?;
        }
        Ok(())
    }

    /// The runs of an arm at every learning rate that it may have.
    pub fn cells(&self, arm: &Arm) -> Vec<Cell> {
        let rates = Rates::of(&self.learning_rates, arm);
        rates.iter().flat_map(|lr| self.cells_at(arm, *lr)).collect()
    }

    /// The runs of an arm at a learning rate.
    pub fn cells_at(&self, arm: &Arm, lr: f64) -> Vec<Cell> {
        let cell = |rank, seed| Cell { arm: arm.clone(), rank, lr, seed };
        self.ranks.iter().flat_map(|rank| self.seeds.iter().map(move |seed| cell(*rank, *seed))).collect()
    }

    /// The runs by which an arm's learning rate is chosen: none where there is but one.
    pub fn tuning_cells(&self, arm: &Arm) -> Vec<Cell> {
        let rates = Rates::of(&self.learning_rates, arm);
        let rank = self.tune_rank.unwrap_or(self.ranks[self.ranks.len() / 2]);
        let unused = || self.seeds.iter().max().map_or(0, |seed| seed.wrapping_add(1));
        let seed = self.tune_seed.unwrap_or_else(unused);
        let cell = |lr| Cell { arm: arm.clone(), rank, lr, seed };
        if rates.len() > 1 { rates.into_iter().map(cell).collect() } else { Vec::new() }
    }

    /// The line of `dora train` that makes a run.
    pub fn train_args(&self, cell: &Cell, tuning: bool) -> Result<train::Args, Usage> {
        let (folder, rows) = match tuning {
            false => ("runs", &self.eval_data),
            true if self.tune_data.is_empty() => ("tuning", &self.eval_data),
            true => ("tuning", &self.tune_data),
        };
        self.shared.args(cell, rows, &self.output.join(folder).join(cell.name()))
    }
}

/// Refuses a value that is given twice.
fn once<T: PartialEq + std::fmt::Display>(option: &str, values: &[T]) -> Result<(), Usage> {
    match values.iter().enumerate().find(|(i, value)| values[..*i].contains(value)) {
        Some((_, value)) => Err(Usage(format!("{option} has {value} twice, expected each once"))),
        None => Ok(()),
    }
}
