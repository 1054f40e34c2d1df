//! One side of a comparison, read from a run's folder (`run.json`) or from a file of `dora eval --output`; and what two
//! sides must share to be compared at all.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::failure::Usage;
use crate::results::{AnswerLine, RowLine, run_record, summary_path};

/// What was measured on a model.
#[derive(Debug, Clone)]
pub struct Side {
    pub path: PathBuf,
    pub measured: Measured,
    /// `run.json` of the training, where there is one.
    pub training: Option<Value>,
    /// The summary of an evaluation, or the record of a run.
    record: Map<String, Value>,
}

/// What there is to compare.
#[derive(Debug, Clone)]
pub enum Measured {
    /// Answers to questions.
    Answers(Vec<AnswerLine>),
    /// Losses of rows.
    Rows(Vec<RowLine>),
    /// The held-out loss of a run, if it had held-out rows.
    Run(Option<f64>),
}

impl Side {
    /// Reads a run's folder or an evaluation's file.
    pub fn read(path: &Path) -> Result<Self> {
        if path.is_dir() { Self::read_run(path) } else { Self::read_evaluation(path) }
    }

    fn read_run(path: &Path) -> Result<Self> {
        let shown = path.join("run.json");
        let shown = shown.display();
        let Some(record) = run_record(path)? else {
            return Err(Usage(format!("{shown} is missing, expected the folder of a run of `dora train`")).into());
        };
        let results = &record["results"];
        match results["ending"].as_str() {
            Some("finished") => {}
            ending => {
                let found = match ending {
                    Some("interrupted") => "a run that was interrupted".to_owned(),
                    Some(ending) => format!("a run that {ending}"),
                    None => "no results yet".to_owned(),
                };
                return Err(Usage(format!("{shown} holds {found}, expected one that finished")).into());
            }
        }
        let measured = Measured::Run(results["eval_loss_after"].as_f64());
        let Value::Object(fields) = record.clone() else { unreachable!("a record is read as an object") };
        Ok(Side { path: path.to_owned(), measured, training: Some(record), record: fields })
    }

    fn read_evaluation(path: &Path) -> Result<Self> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))
        };
        let (text, beside) = (read(path)?, summary_path(path));
        let record = dora_models::json::object(read(&beside)?.as_bytes(), &beside)?;
        let measured = match record.get("task") {
            None => Measured::Rows(lines(&text, path, RowLine::fault)?),
            Some(_) => Measured::Answers(lines(&text, path, AnswerLine::fault)?),
        };
        let (found, field) = match &measured {
            Measured::Answers(lines) => (lines.len(), "questions"),
            Measured::Rows(lines) => (lines.len(), "rows"),
            Measured::Run(_) => unreachable!("not read from a file"),
        };
        if found == 0 {
            return Err(Usage(format!("{} holds no item, expected at least one", path.display())).into());
        }
        let expected = record.get(field).and_then(Value::as_u64);
        if expected != Some(found as u64) {
            let (path, beside) = (path.display(), beside.display());
            let expected = expected.map_or("their number".into(), |n| n.to_string());
            return Err(Usage(format!("{path} holds {found} items, expected {expected} by {beside}")).into());
        }
        let training = record.get("training").filter(|run| !run.is_null()).cloned();
        Ok(Side { path: path.to_owned(), measured, training, record })
    }

    /// Hash of the data that was measured on, if any was.
    pub fn data(&self) -> Option<&str> {
        match self.measured {
            Measured::Run(_) => self.record.get("eval_data")?.get("sha256")?.as_str(),
            _ => self.record.get("data_sha256").and_then(Value::as_str),
        }
    }

    /// Hash of the base model.
    pub fn base(&self) -> Option<&str> {
        self.record.get("base_blake3").and_then(Value::as_str)
    }

    /// How an evaluation held the weights: its `dtype` or `nf4`.
    pub fn held(&self, name: &str) -> Value {
        match self.measured {
            Measured::Run(_) => Value::Null,
            _ => self.record.get(name).cloned().unwrap_or(Value::Null),
        }
    }

    /// Hash of the base that the training was on.
    fn trained_on(&self) -> Option<&str> {
        self.training.as_ref()?.get("base_blake3")?.as_str()
    }

    /// How questions were answered.
    pub fn by(&self) -> Option<&str> {
        self.record.get("by").and_then(Value::as_str)
    }

    /// A setting of the training.
    pub fn setting(&self, name: &str) -> Option<&Value> {
        self.training.as_ref().and_then(|run| run["settings"].get(name))
    }

    /// Method and rank where they are known, else the name of the file.
    pub fn label(&self) -> String {
        let method = self.setting("method").and_then(Value::as_str);
        let rank = self.training.as_ref().and_then(|run| run["adapter_config"]["r"].as_u64());
        match (method, rank) {
            (Some(method), Some(rank)) => format!("{method}, rank {rank}"),
            (Some(method), None) => method.to_owned(),
            (None, _) => self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    fn kind(&self) -> &'static str {
        match self.measured {
            Measured::Answers(_) => "answers to questions",
            Measured::Rows(_) => "losses of rows",
            Measured::Run(_) => "a run",
        }
    }

    /// Hash, position and labelled tokens of every item.
    fn items(&self) -> Vec<(&str, usize, usize)> {
        match &self.measured {
            Measured::Answers(lines) => lines.iter().map(|line| (line.item.as_str(), line.index, 1)).collect(),
            Measured::Rows(lines) => lines.iter().map(|line| (line.item.as_str(), line.index, line.tokens)).collect(),
            Measured::Run(_) => Vec::new(),
        }
    }
}

/// Refuses two sides that measure different things.
pub fn check_alike(a: &Side, b: &Side) -> Result<(), Usage> {
    let refuse = |what: String| {
        let (a, b) = (a.path.display(), b.path.display());
        Err(Usage(format!("{a} and {b} cannot be compared: {what}")))
    };
    if a.path.canonicalize().ok() == b.path.canonicalize().ok() {
        return refuse("both are the same".into());
    }
    if a.kind() != b.kind() {
        return refuse(format!("found {} and {}, expected two of a kind", a.kind(), b.kind()));
    }
    if a.by() != b.by() {
        let by = |side: &Side| side.by().unwrap_or("unknown").to_owned();
        return refuse(format!("found answers by {} and by {}, expected the same way", by(a), by(b)));
    }
    let differ = |of: fn(&Side) -> Option<&str>| of(a) != of(b);
    let hashes = |of: fn(&Side) -> Option<&str>| {
        let short = |side| of(side).map_or("none".to_owned(), |hash| hash.chars().take(12).collect());
        format!("found {} and {}", short(a), short(b))
    };
    if differ(Side::base) {
        return refuse(format!("their base models differ ({} as base_blake3)", hashes(Side::base)));
    }
    if differ(Side::data) {
        return refuse(format!("they were measured on different data ({} as SHA-256)", hashes(Side::data)));
    }
    if let (Some(left), Some(right)) = (a.trained_on(), b.trained_on())
        && left != right
    {
        let [left, right] = [left, right].map(|hash| hash.chars().take(12).collect::<String>());
        return refuse(format!("they were trained on different base models (found {left} and {right} as base_blake3)"));
    }
    let training_data = |side: &Side| side.training.as_ref().map(|run| run["data"]["sha256"].clone());
    if matches!(a.measured, Measured::Run(_)) && training_data(a) != training_data(b) {
        return refuse("they were trained on different data, expected the same for two runs".into());
    }
    for side in [a, b] {
        if side.base().is_none() || (side.data().is_none() && !matches!(side.measured, Measured::Run(_))) {
            return refuse(format!("{} names no base_blake3 and data_sha256, expected both", side.path.display()));
        }
    }
    let (left, right) = (a.items(), b.items());
    if left.len() != right.len() {
        return refuse(format!("found {} and {} items, expected the same", left.len(), right.len()));
    }
    match left.iter().zip(&right).position(|(a, b)| a != b) {
        Some(at) if (left[at].0, left[at].1) == (right[at].0, right[at].1) => {
            let (found, at) = (format!("{} and {} labelled tokens", left[at].2, right[at].2), at + 1);
            refuse(format!("line {at} has {found}, expected the same"))
        }
        Some(at) => refuse(format!("line {} is another item in each, expected the same", at + 1)),
        None => Ok(()),
    }
}

/// Reads the lines of a file; `fault` says what is wrong with one that can be read.
fn lines<T: DeserializeOwned>(text: &str, path: &Path, fault: fn(&T) -> Option<String>) -> Result<Vec<T>, Usage> {
    let line = |(at, line)| {
        let refuse = |found: String| {
            Usage(format!("{}:{}: {found}, expected a line of `dora eval --output`", path.display(), at + 1))
        };
        let line: T = serde_json::from_str(line).map_err(|e| refuse(e.to_string()))?;
        match fault(&line) {
            Some(found) => Err(refuse(found)),
            None => Ok(line),
        }
    };
    text.lines().enumerate().map(line).collect()
}
