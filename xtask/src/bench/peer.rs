//! A process of `benches/peft_steps.py`, which trains when it is told to and waits in between.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::THREADS;
use super::cases::Case;
use super::results::{Round, Step};

/// PEFT with a model and a method.
pub struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it, and waits until its model is loaded: what runs meanwhile would be slowed down.
    pub fn start(root: &Path, peers: &Path, model: &Path, method: &str, case: &Case) -> Result<Self> {
        let python = peers.join("venv/bin/python");
        ensure!(python.exists(), "{} is not there, expected a Python with PEFT", python.display());
        let mut command = Command::new(python);
        command.arg(root.join("benches/peft_steps.py")).arg(model).arg(method);
        command.args([case.rank, case.batch, THREADS].map(|number| number.to_string()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let requests = child.stdin.take().context("its input is a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let mut peer = Peer { child, requests, answers };
        peer.answer()?;
        Ok(peer)
    }

    /// A round over the rows of a file.
    pub fn round(&mut self, rows: &Path) -> Result<Round> {
        writeln!(self.requests, "{}", rows.display()).context("talking to PEFT")?;
        parse(&self.answer()?)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("listening to PEFT")?;
        ensure!(!line.is_empty(), "benches/peft_steps.py ended without an answer; run by hand, it says why");
        Ok(line)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The steps of a round after the first.
fn parse(line: &str) -> Result<Round> {
    let answer: Value = serde_json::from_str(line).context("reading what PEFT answered")?;
    let numbers = |key: &str| serde_json::from_value::<Vec<f64>>(answer[key].clone());
    let (seconds, tokens) = (numbers("seconds")?, numbers("tokens")?);
    let peak_rss_mb = answer["peak_rss_mb"].as_f64().context("PEFT answers no peak_rss_mb")?;
    ensure!(seconds.len() == tokens.len(), "{} times of {} steps", seconds.len(), tokens.len());
    let steps = seconds.iter().zip(&tokens).skip(1).map(|(&seconds, &tokens)| Step { tokens, seconds });
    Ok(Round { steps: steps.collect(), peak_rss_mb, inside: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_without_the_first_step() {
        let round = parse(r#"{"seconds": [9.0, 2.0], "tokens": [5, 7], "peak_rss_mb": 11.5}"#).unwrap();
        assert_eq!(round, Round { steps: vec![Step { tokens: 7.0, seconds: 2.0 }], peak_rss_mb: 11.5, inside: None });
        assert!(parse(r#"{"seconds": [9.0], "tokens": [], "peak_rss_mb": 1}"#).is_err());
    }
}
