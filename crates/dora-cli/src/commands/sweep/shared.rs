//! Options of `dora train` that all runs of a sweep share. They are kept as they were given, and every run is a line of
//! `dora train`, parsed as a user's.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Error, FromArgMatches};

use super::cell::Cell;
use crate::commands::train;
use crate::failure::Usage;

/// Options that a sweep settles itself.
const SETTLED: [&str; 9] = ["output", "method", "rank", "lr", "seed", "eval-data", "init-adapter", "profile", "config"];

/// The shared options, as words of a command line.
#[derive(Debug, Clone)]
pub struct Shared(pub Vec<OsString>);

impl Shared {
    /// A run's options: the shared ones, the arm's and the run's own.
    pub fn args(&self, cell: &Cell, eval_data: &[impl AsRef<Path>], output: &Path) -> Result<train::Args, Usage> {
        let mut line = self.0.clone();
        let mut add = |option: &str, value: OsString| {
            let mut word = OsString::from(format!("--{option}="));
            word.push(value);
            line.push(word);
        };
        add("output", output.into());
        eval_data.iter().for_each(|file| add("eval-data", file.as_ref().into()));
        let Cell { arm, rank, lr, seed } = cell;
        let method = train::name(arm.method);
        for (option, value) in
            [("method", method), ("rank", rank.to_string()), ("lr", format!("{lr:e}")), ("seed", seed.to_string())]
        {
            add(option, value.into());
        }
        line.extend(arm.options.iter().map(OsString::from));
        train::Args::of_line(line).map_err(|Usage(error)| Usage(format!("{}: {error}", cell.name())))
    }
}

fn options() -> impl Iterator<Item = Arg> {
    let train = <train::Args as clap::Args>::augment_args(Command::new("train"));
    let options: Vec<Arg> = train.get_arguments().cloned().collect();
    options.into_iter().filter(|option| option.get_long().is_some_and(|long| !SETTLED.contains(&long)))
}

impl clap::Args for Shared {
    fn augment_args(command: Command) -> Command {
        command.args(options())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Shared {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut line = Vec::new();
        for option in options() {
            let (id, long) = (option.get_id().as_str(), option.get_long().expect("options have a name"));
            if matches.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            if matches!(option.get_action(), ArgAction::SetTrue) {
                line.push(format!("--{long}").into());
                continue;
            }
            for value in matches.get_raw(id).into_iter().flatten() {
                let mut word = OsString::from(format!("--{long}="));
                word.push(value);
                line.push(word);
            }
        }
        Ok(Shared(line))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
