//! Results of `dora eval --output FILE`, for `dora compare`: FILE holds a line of JSON for each item; beside it, in
//! `FILE.summary.json`, stand the figures of all, and the hashes that say what was measured on what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use dora_adapters::config_file::CONFIG_FILE;
use dora_adapters::factors::TENSORS_FILE;
use dora_models::checkpoint::write_file;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{self, Base};
use crate::failure::Usage;

/// A question and its answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerLine {
    /// Position among the records of the data.
    pub index: usize,
    /// Hash of the question.
    pub item: String,
    /// The right answer.
    pub gold: String,
    /// The answer given, if any.
    pub predicted: Option<String>,
    /// Whether they are the same.
    pub right: bool,
    /// Whether an answer was given.
    pub parsed: bool,
    /// Loss of the right answer; by likelihood only.
    pub loss: Option<f64>,
    /// Loss of each option, by likelihood only.
    pub losses: Option<BTreeMap<String, f64>>,
    /// What was said; by generation only.
    pub text: Option<String>,
}

impl AnswerLine {
    /// What contradicts itself in it.
    pub fn fault(&self) -> Option<String> {
        let right = self.predicted.as_ref() == Some(&self.gold);
        (self.right != right).then(|| {
            let predicted = self.predicted.as_deref().unwrap_or("none");
            format!("found right = {} for answer {predicted} where {} is right", self.right, self.gold)
        })
    }
}

/// A row and its loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowLine {
    /// Position among the rows evaluated.
    pub index: usize,
    /// Hash of the tokens and labels.
    pub item: String,
    /// Mean over the labelled tokens.
    pub loss: f64,
    /// Labelled tokens.
    pub tokens: usize,
}

impl RowLine {
    /// What cannot be in it.
    pub fn fault(&self) -> Option<String> {
        (self.tokens == 0).then(|| "found 0 labelled tokens".to_owned())
    }
}

/// Settings in a run's record that say where things are, not what was done.
pub const PLACES: [&str; 6] = ["model", "data", "output", "eval_data", "threads", "base_model_name_or_path"];

/// Where the figures of all items of a file are.
pub fn summary_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".summary.json");
    name.into()
}

/// What was evaluated: hashes of the model, of the base that it or the adapter was trained from, and of the adapter; the
/// record of that training where there is one; how the weights are held; and this program's version.
pub fn identity(adapter: Option<&Path>, held: &Base) -> Result<Map<String, Value>> {
    let training = run_record(adapter.unwrap_or(&held.dir))?;
    let model_blake3 = held.blake3()?;
    // A fine-tune of all weights is a model of its own, made from another.
    let base = match (adapter, &training) {
        (None, Some(run)) if run["settings"]["method"] == "full" => run["base_blake3"].as_str(),
        _ => None,
    };
    Ok(into_map(json!({
        "base_blake3": base.unwrap_or(model_blake3), "model_blake3": model_blake3,
        "adapter_blake3": adapter.map(adapter_blake3).transpose()?,
        "nf4": held.nf4.map(|nf4| json!({ "block_size": nf4.block_size, "double_quant": nf4.double_quant })),
        "dtype": held.dtype.to_string(), "training": training, "dora_version": env!("CARGO_PKG_VERSION"),
    })))
}

/// The files of an adapter in a folder.
pub fn adapter_files(dir: &Path) -> [PathBuf; 2] {
    [CONFIG_FILE, TENSORS_FILE].map(|name| dir.join(name))
}

/// The hash of an adapter in a folder.
pub fn adapter_blake3(dir: &Path) -> Result<String> {
    base::files_blake3(&adapter_files(dir))
}

/// `run.json` of a folder, where it has one.
pub fn run_record(dir: &Path) -> Result<Option<Value>> {
    let path = dir.join("run.json");
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))?,
    };
    Ok(Some(Value::Object(dora_models::json::object(&bytes, &path)?)))
}

/// An adapter's base, by its `run.json`, and the model that it is put on, where they are not the same.
pub struct OtherBase {
    text: String,
    /// Whether it was trained over 4-bit weights, so that the two may be one model, of which one or the other is quantised.
    pub over_nf4: bool,
}

impl OtherBase {
    /// Of the folders of an adapter and of a model, which is hashed only where there is something to compare with.
    pub fn of(adapter: &Path, model: &Path, blake3: impl FnOnce() -> Result<String>) -> Result<Option<Self>> {
        let Some(run) = run_record(adapter)? else { return Ok(None) };
        let Some(expected) = run["base_blake3"].as_str() else { return Ok(None) };
        let found = blake3()?;
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        let text = format!(
            "{} is not the base that {} was trained on: found base_blake3 {}, expected {} by its run.json",
            model.display(),
            adapter.display(),
            short(&found),
            short(expected)
        );
        Ok((found != expected).then_some(OtherBase { text, over_nf4: !run["settings"]["nf4"].is_null() }))
    }

    /// For who goes on all the same.
    pub fn note(&self) -> String {
        let why = if self.over_nf4 { "; they may be the same weights, of which one is in 4 bits" } else { "" };
        format!("note: {}{why}", self.text)
    }

    /// For who does not.
    pub fn refusal(self) -> Usage {
        Usage(format!("{} (without that file nothing is compared)", self.text))
    }
}

/// The figures beside a file of items, where both are there.
pub fn evaluation_record(output: &Path) -> Result<Option<Map<String, Value>>> {
    let path = summary_path(output);
    if !output.is_file() || !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))?;
    Ok(Some(dora_models::json::object(&bytes, &path)?))
}

/// Writes the items, then the figures.
pub fn write(output: &Path, lines: &[String], summary: &Map<String, Value>) -> Result<()> {
    write_file(output, lines.iter().flat_map(|line| [line, "\n"]).collect::<String>().as_bytes())?;
    let text = format!("{:#}\n", Value::Object(summary.clone()));
    Ok(write_file(&summary_path(output), text.as_bytes())?)
}

/// The fields of an object made by `json!`.
pub fn into_map(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(map) => map,
        _ => unreachable!("an object was written out"),
    }
}
