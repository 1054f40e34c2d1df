//! A run of a sweep, and what its folder already holds of it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::arm::Arm;
use crate::failure::Usage;
use crate::results::{PLACES, adapter_files, run_record};

/// A run: an arm at a rank, a learning rate and a seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    pub arm: Arm,
    pub rank: usize,
    pub lr: f64,
    pub seed: u64,
}

impl Cell {
    /// Names its folder.
    pub fn name(&self) -> String {
        let Cell { arm, rank, lr, seed } = self;
        format!("{}-r{rank}-lr{lr:e}-s{seed}", arm.name)
    }
}

/// What a folder holds of a run.
#[derive(Debug)]
pub enum State {
    /// Nothing, or a run that did not end or whose adapter is gone: it is to be made from the start.
    Open,
    /// A run that stopped before a step that is not finite: it would again.
    Failed,
    /// A finished run: its `run.json`.
    Finished(Value),
}

impl State {
    /// Of a folder; `expected` is what the run's record must say before it begins. Another run's folder is refused.
    pub fn of(dir: &Path, expected: &Value) -> Result<Self> {
        let Some(record) = run_record(dir)? else { return Ok(State::Open) };
        let path = dir.join("run.json");
        // Through the same text, so that equal numbers are equal.
        let expected = Value::Object(dora_models::json::object(expected.to_string().as_bytes(), &path)?);
        if let Some((name, found, expected)) = difference(&record, &expected) {
            let path = path.display();
            return Err(Usage(format!(
                "{path} is of a run with {name} {found}, expected {expected} (give the sweep another --output, or remove \
                 that folder)"
            ))
            .into());
        }
        Ok(match record["results"]["ending"].as_str() {
            Some("finished") if is_finished(&record, dir) => State::Finished(record),
            Some("failed") if record["results"]["not_finite"] == true => State::Failed,
            _ => State::Open,
        })
    }
}

/// Whether a run's record says that it finished, and its adapter is there.
pub fn is_finished(record: &Value, dir: &Path) -> bool {
    record["results"]["ending"] == "finished" && adapter_files(dir).iter().all(|file| file.is_file())
}

/// What of a run's record settles what is trained: two runs alike in it end in the same adapter.
pub fn effect(mut record: Value) -> Value {
    let settings = &mut record["settings"];
    // A new adapter's B is 0, so that these are the norm of the weight.
    if [json!("weight-norm"), json!("updated-weight-norm"), json!(1.0)].contains(&settings["init_magnitude"]) {
        settings["init_magnitude"] = Value::Null;
    }
    // The groups' learning rates are resolved.
    if settings["weight_decay"] == 0.0 {
        settings["parameter_groups"] = Value::Null;
    }
    let mut parts = ["settings", "adapter_config"].map(|part| record[part].take());
    for part in parts.iter_mut().filter_map(Value::as_object_mut) {
        part.retain(|name, _| !PLACES.contains(&name.as_str()));
    }
    json!(parts)
}

/// The first setting that differs: its name and both values.
fn difference(found: &Value, expected: &Value) -> Option<(String, Value, Value)> {
    for place in ["/dora_version", "/base_blake3", "/data/sha256", "/eval_data/sha256"] {
        let [left, right] = [found, expected].map(|record| record.pointer(place).unwrap_or(&Value::Null).clone());
        if left != right {
            return Some((place[1..].replace('/', "."), left, right));
        }
    }
    let none = Map::new();
    for part in ["settings", "adapter_config"] {
        let [left, right] = [found, expected].map(|record| record[part].as_object().unwrap_or(&none));
        let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        for name in names.into_iter().filter(|name| !PLACES.contains(&name.as_str())) {
            let [left, right] = [left, right].map(|part| part.get(name).unwrap_or(&Value::Null).clone());
            if left != right {
                return Some((name.clone(), left, right));
            }
        }
    }
    None
}
