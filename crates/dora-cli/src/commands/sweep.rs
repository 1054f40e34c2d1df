//! `dora sweep`: methods × ranks × seeds on the same rows with the same number of steps, each method at a learning rate of its
//! own choosing or at one for all; a table, `sweep.json` and a plot. Every run is a run of `dora train` in a folder of its
//! own, so a sweep that stopped goes on where it was, and `dora compare` takes any two of its results.
//!
//! Folders: `runs/METHOD-rRANK-lrRATE-sSEED`, and `tuning/…` for the runs that a learning rate is chosen by.

mod args;
mod arm;
mod cell;
mod plot;
mod points;
mod shared;
mod tuning;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use dora_adapters::Adapter;
use dora_models::checkpoint::write_file;
use dora_tensor::Device;
use dora_train::metrics::reset_peak_rss;
use serde_json::{Map, Value, json};

use super::eval::{self, By, WeightArgs, answers};
use super::train::{self, Rows, description, load_base, prepare, train_on};
use crate::base::Base;
use crate::console::Console;
use crate::failure::Usage;
use crate::interrupt::Interrupt;
use crate::results::{evaluation_record, run_record, summary_path};
pub use args::Args;
use arm::{Arm, Rates};
use cell::{Cell, State, effect, is_finished};
use points::{Done, Point};
use tuning::Choice;

pub fn run(mut args: Args, console: &Console) -> Result<ExitCode> {
    args.ranks.sort_unstable();
    let interrupt = Interrupt::listen()?;
    args.check()?;
    if !reset_peak_rss() {
        console
            .note("note: the system does not let memory be measured anew for each run; a peak may be an earlier run's");
    }
    let mut sweep = Sweep {
        args: &args,
        console,
        interrupt: interrupt.clone(),
        start: Instant::now(),
        begun: 0,
        choices: vec![],
        done: vec![],
        failed: vec![],
    };
    let whole = sweep.run()?;
    if let (true, Some((name, why))) = (sweep.done.is_empty(), sweep.failed.first()) {
        bail!("{name}: {why}");
    }
    let (points, object) = sweep.write(if whole { "finished" } else { "interrupted" })?;
    let Sweep { choices, failed, .. } = &sweep;
    if !whole {
        console.note("interrupted; the same command goes on where this stopped");
    }
    for (name, why) in failed {
        console.note(format!("{name} failed and counts nowhere: {why}"));
    }
    let left_out = sweep.left_out();
    if !left_out.is_empty() {
        let (runs, names) = (args.output.join("runs"), left_out.join(", "));
        console.note(format!(
            "note: {} also holds finished runs that this command does not name: {names}",
            runs.display()
        ));
    }
    console.result(&points::report(&points, choices, &args.output), &object)?;
    let ended = if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok(interrupt.exit_code().filter(|_| !whole).unwrap_or(ended))
}

/// A sweep under way.
struct Sweep<'a> {
    args: &'a Args,
    console: &'a Console,
    interrupt: Interrupt,
    start: Instant,
    /// Runs begun or found finished.
    begun: usize,
    choices: Vec<Choice>,
    done: Vec<Done>,
    /// Runs that stopped at a loss or gradient that is not finite: name and reason.
    failed: Vec<(String, String)>,
}

/// What came of a run.
enum Ended {
    /// It is finished: its record, and whether it was so before.
    Finished(Value, bool),
    /// It stopped at a loss or gradient that is not finite.
    Failed(String),
    /// A signal stopped it.
    Interrupted,
}

impl Sweep<'_> {
    /// Makes all runs; false where a signal came between. Methods over 16-bit weights first, then those over 4-bit weights, so
    /// that there is one base in memory.
    fn run(&mut self) -> Result<bool> {
        let mut looked_at = false;
        for quantized in [false, true] {
            let arms: Vec<&Arm> =
                self.args.methods.iter().filter(|arm| arm.method.is_quantized() == quantized).collect();
            let Some(first) = arms.first() else { continue };
            let line = self.args.train_args(&self.args.cells(first)[0], false)?;
            let mut base = load_base(&line, Device::Cpu, self.console)?;
            // What cannot be read shows before the first run, not after hours.
            let rows = Rows::load(&line, &base, self.console)?;
            if self.args.task.is_some() {
                answers::load(&self.evaluation(&line), &base)?;
            }
            if !looked_at {
                self.check_arms(&base, &rows)?;
                looked_at = true;
            }
            if !self.tune(&arms, &mut base)? || !self.measure(&arms, &mut base, &rows)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Chooses the learning rate of each arm.
    fn tune(&mut self, arms: &[&Arm], base: &mut Base) -> Result<bool> {
        let mut rows = None;
        for arm in arms {
            let (cells, rates) = (self.args.tuning_cells(arm), Rates::of(&self.args.learning_rates, arm));
            let on_own_rows = !self.args.tune_data.is_empty();
            let mut tried = Vec::new();
            for cell in &cells {
                let line = self.args.train_args(cell, true)?;
                let rows = match &mut rows {
                    Some(rows) => rows,
                    empty => empty.insert(Rows::load(&line, base, self.console)?),
                };
                let loss = match self.train(cell, &line, base, rows)? {
                    Ended::Finished(record, _) => record["results"]["eval_loss_after"].as_f64(),
                    Ended::Failed(why) => {
                        self.console.note(format!("{}: {why}", cell.name()));
                        None
                    }
                    Ended::Interrupted => return Ok(false),
                };
                tried.push((cell.lr, loss));
            }
            let choice = Choice::of(arm, rates[0], tried, cells.first(), on_own_rows)?;
            choice.notes().into_iter().for_each(|note| self.console.note(note));
            self.choices.push(choice);
        }
        Ok(true)
    }

    /// Makes and evaluates the runs whose results count.
    fn measure(&mut self, arms: &[&Arm], base: &mut Base, rows: &Rows) -> Result<bool> {
        let mut runs = Vec::new();
        for arm in arms {
            let rate = self.choices.iter().find(|choice| choice.arm == arm.name).expect("every arm has one").rate;
            for cell in self.args.cells_at(arm, rate) {
                let line = self.args.train_args(&cell, false)?;
                // A folder of other settings shows before the first run, not after hours.
                let state = State::of(&line.output, &description(&line, base, rows)?)?;
                runs.push((cell, line, matches!(state, State::Finished(_))));
            }
        }
        // What is there is in `sweep.json` before the first new run.
        runs.sort_by_key(|(.., finished)| !finished);
        for (cell, line, _) in runs {
            match self.train(&cell, &line, base, rows)? {
                Ended::Finished(record, before) => {
                    let evaluation = self.evaluate(&line, base, rows, before)?;
                    self.done.push(Done { cell, dir: line.output, record, evaluation, before });
                }
                Ended::Failed(why) => self.failed.push((cell.name(), why)),
                Ended::Interrupted => return Ok(false),
            }
            self.write("unfinished")?;
        }
        Ok(true)
    }

    /// Writes `sweep.json` and the plot of what is done.
    fn write(&mut self, ending: &str) -> Result<(Vec<Point>, Value)> {
        let Args { methods, ranks, seeds, output, shared, .. } = self.args;
        let place = |Cell { arm, rank, seed, .. }: &Cell| {
            (methods.iter().position(|a| a == arm), *rank, seeds.iter().position(|s| s == seed))
        };
        self.done.sort_by_key(|run| place(&run.cell));
        let points = points::of(&self.done, methods, ranks);
        let svg = output.join("sweep.svg");
        if !points.is_empty() {
            write_file(&svg, crate::plot::file(&plot::draw(methods, ranks, &points)?).as_bytes())?;
        }
        let shared: Vec<_> = shared.0.iter().map(|word| word.to_string_lossy()).collect();
        let failed = self.failed.iter().map(|(name, why)| json!({ "run": name, "reason": why }));
        let object = json!({
            "ending": ending, "output": output, "shared_options": shared,
            "learning_rates": self.choices.iter().map(Choice::json).collect::<Vec<_>>(),
            "points": points.iter().map(Point::json).collect::<Vec<_>>(),
            "runs": self.done.iter().map(Done::json).collect::<Vec<_>>(), "failed": failed.collect::<Vec<_>>(),
            "left_out": self.left_out(), "svg": (!points.is_empty()).then_some(&svg),
            "seconds": self.start.elapsed().as_secs_f64(),
        });
        write_file(&output.join("sweep.json"), format!("{object:#}\n").as_bytes())?;
        Ok((points, object))
    }

    /// Names of finished runs in the folder that this command does not name, as that of an earlier sweep with more ranks did.
    fn left_out(&self) -> Vec<String> {
        let rate = |arm: &Arm| self.choices.iter().find(|choice| choice.arm == arm.name).map(|choice| choice.rate);
        let cells = |arm: &Arm| rate(arm).map_or_else(|| self.args.cells(arm), |rate| self.args.cells_at(arm, rate));
        let named: Vec<String> = self.args.methods.iter().flat_map(cells).map(|cell| cell.name()).collect();
        let entries = std::fs::read_dir(self.args.output.join("runs")).into_iter().flatten().flatten();
        let finished = |dir: &Path| run_record(dir).is_ok_and(|run| run.is_some_and(|run| is_finished(&run, dir)));
        let folders = entries.map(|entry| entry.path()).filter(|path| finished(path));
        let names = folders.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let mut left_out: Vec<String> = names.filter(|name| !named.contains(name)).collect();
        left_out.sort();
        left_out
    }

    /// Refuses two arms that would train the same, whatever they are called.
    fn check_arms(&self, base: &Base, rows: &Rows) -> Result<()> {
        let seed = self.args.seeds[0];
        let effects = |arm: &Arm| {
            let cells = self.args.cells(arm).into_iter().filter(|cell| cell.seed == seed);
            let effect = |cell| Ok(effect(description(&self.args.train_args(&cell, false)?, base, rows)?));
            cells.map(effect).collect::<Result<Vec<Value>>>()
        };
        let effects = self.args.methods.iter().map(effects).collect::<Result<Vec<_>>>()?;
        for (i, one) in effects.iter().enumerate() {
            if let Some(j) = effects[..i].iter().position(|other| other == one) {
                let [first, second] = [j, i].map(|i| &self.args.methods[i].name);
                let text = format!("--methods {first} and {second} train the same, expected each method once");
                return Err(Usage(text).into());
            }
        }
        Ok(())
    }

    /// Makes a run, unless it is there.
    fn train(&mut self, cell: &Cell, line: &train::Args, base: &mut Base, rows: &Rows) -> Result<Ended> {
        if self.interrupt.exit_code().is_some() {
            return Ok(Ended::Interrupted);
        }
        self.begun += 1;
        let (name, n) = (line.output.display(), self.begun);
        let all: usize = self
            .args
            .methods
            .iter()
            .map(|arm| self.args.tuning_cells(arm).len() + self.args.cells_at(arm, 0.0).len())
            .sum();
        match State::of(&line.output, &description(line, base, rows)?)? {
            State::Finished(record) => {
                self.console.note(format!("run {n} of {all} is finished: {name}"));
                return Ok(Ended::Finished(record, true));
            }
            State::Failed => return Ok(Ended::Failed("stopped before, as its loss was not finite".into())),
            State::Open => self.console.note(format!("run {n} of {all}: {name}")),
        }
        prepare(line, Device::Cpu)?;
        // What an earlier adapter answered.
        for task in ["answers", "rows"] {
            let stale = summary_path(&results_path(&line.output, task));
            if stale.exists() {
                std::fs::remove_file(&stale).with_context(|| format!("removing {}", stale.display()))?;
            }
        }
        reset_peak_rss();
        match train_on(line, base, rows, Instant::now(), self.console, self.interrupt.clone()) {
            Ok(outcome) => {
                self.console.note(outcome.text);
                Ok(if outcome.interrupted { Ended::Interrupted } else { Ended::Finished(outcome.object, false) })
            }
            Err(error) if error.downcast_ref::<dora_train::Error>().is_some_and(dora_train::Error::is_not_finite) => {
                Ok(Ended::Failed(format!("{error:#}")))
            }
            Err(error) => Err(error.context(cell.name())),
        }
    }

    /// Results item by item in a run's folder, which are kept where they are of this data. The adapter is on the base unless
    /// the run was there `before`.
    fn evaluate(&self, line: &train::Args, base: &mut Base, rows: &Rows, before: bool) -> Result<Map<String, Value>> {
        let args = self.evaluation(line);
        let path = args.output.clone().expect("results are kept");
        if before && let Some(record) = evaluation_record(&path)? {
            let by = self.args.task.map(|_| train::name(self.args.by.unwrap_or(By::Likelihood)));
            let same = record.get("data_sha256").and_then(Value::as_str) == rows.held_out_sha256();
            if same && record.get("by").and_then(Value::as_str) == by.as_deref() {
                return Ok(record);
            }
        }
        if before {
            Adapter::remove(&mut *base.model);
            Adapter::load(&mut *base.model, &line.output, base.architecture.default_targets)?;
        }
        let outcome = eval::evaluate(&args, base, self.console)?;
        self.console.note(outcome.text);
        Ok(outcome.object)
    }

    /// The evaluation of a run.
    fn evaluation(&self, line: &train::Args) -> eval::Args {
        let path = results_path(&line.output, if self.args.task.is_some() { "answers" } else { "rows" });
        eval::Args {
            model: line.model.clone(),
            adapter: Some(line.output.clone()),
            data: self.args.eval_data.clone(),
            task: self.args.task,
            by: self.args.by,
            output: Some(path),
            rows: line.rows.clone(),
            weights: WeightArgs::default(),
        }
    }
}

fn results_path(run: &Path, task: &str) -> PathBuf {
    run.join(format!("{task}.jsonl"))
}
