//! What the user sees: results on stdout as text or as JSON, notes and progress on stderr.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// How results are written.
pub struct Console {
    json: bool,
}

impl Console {
    /// `json`: one object on stdout instead of text.
    pub fn new(json: bool) -> Self {
        Console { json }
    }

    /// Whether results are JSON, so that text must go elsewhere.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Writes a result: `text`, or `object` with `--json`.
    pub fn result(&self, text: &str, object: &Value) -> Result<()> {
        match self.json {
            true => line(&object.to_string()),
            false => line(text),
        }
    }

    /// Writes a part of a result that `--json` gives as one object at the end.
    pub fn say(&self, text: &str) -> Result<()> {
        if self.json { Ok(()) } else { line(text) }
    }

    /// Says something beside the result: on stderr, so that stdout holds results only.
    pub fn note(&self, text: impl AsRef<str>) {
        eprintln!("{}", text.as_ref());
    }
}

fn line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        // The reader of a pipe went away; nothing is left to tell it.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to stdout"),
    }
}

/// Says why a command ends.
pub fn error(error: &anyhow::Error) {
    // A message of ours already ends with its cause; anyhow's contexts do not.
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    eprintln!("error: {text}");
}

/// A bar for steps with known number; without a terminal, a line now and then.
pub struct Progress {
    bar: ProgressBar,
    unit: &'static str,
    last_line: Instant,
}

impl Progress {
    /// Bar over `steps` steps, each a `unit`.
    pub fn new(unit: &'static str, steps: usize) -> Self {
        let terminal = stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
        let template = "{bar:24} {pos}/{len}  {msg}  {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("a constant template"));
        Progress { bar, unit, last_line: Instant::now() }
    }

    /// Shows that `step` steps are made; `message` are the figures of the last.
    pub fn step(&mut self, step: usize, message: String) {
        const EVERY: Duration = Duration::from_secs(10);
        let due = self.last_line.elapsed() >= EVERY || self.bar.length() == Some(step as u64) || step == 1;
        if self.bar.is_hidden() && due {
            eprintln!("{} {step}/{}  {message}", self.unit, self.bar.length().unwrap_or(0));
            self.last_line = Instant::now();
        }
        self.bar.set_message(message);
        self.bar.set_position(step as u64);
    }

    /// Says something above the bar.
    pub fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Leaves the bar as it stands.
    pub fn finish(&self) {
        self.bar.abandon();
    }
}
