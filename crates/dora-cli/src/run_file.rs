//! `--config FILE`: the options of `dora train` as a JSON object, `{"rank": 16, "packing": true, "data": ["a.jsonl"]}`. It is
//! turned into arguments in front of those given, so that every option is checked in one place; an option that is also on
//! the command line is taken from there.

use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::failure::Usage;

/// Arguments with the file's in front of those behind `train`.
pub fn expand(mut arguments: Vec<OsString>, known: &[String]) -> Result<Vec<OsString>> {
    let Some(command) = arguments.iter().skip(1).position(|a| a == "train").map(|i| i + 1) else {
        return Ok(arguments);
    };
    let Some(path) = value_of(&arguments, "config") else { return Ok(arguments) };
    let text = fs::read(&path).map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))?;
    let settings = dora_models::json::object(&text, path.as_ref()).context("--config")?;
    let given = |key: &str| is_given(&arguments, key);
    let added = options(&settings, known, given).map_err(|e| Usage(format!("{}: {e}", path.display())))?;
    arguments.splice(command + 1..command + 1, added);
    Ok(arguments)
}

/// Options of the settings that are not given otherwise.
fn options(
    settings: &Map<String, Value>,
    known: &[String],
    given: impl Fn(&str) -> bool,
) -> Result<Vec<OsString>, String> {
    let mut arguments: Vec<OsString> = Vec::new();
    for (name, value) in settings {
        let key = name.replace('_', "-");
        if key == "config" {
            return Err("found `config` in a run file, expected options of `dora train` only".into());
        }
        if !known.contains(&key) {
            return Err(format!("`{name}` is no option of `dora train`"));
        }
        // One of the two is enough to say how long to train.
        let rival = match key.as_str() {
            "epochs" => "max-steps",
            "max-steps" => "epochs",
            other => other,
        };
        if given(&key) || given(rival) {
            continue;
        }
        let items = match value {
            Value::Array(items) if REPEATED.contains(&key.as_str()) => items.clone(),
            Value::Array(items) => vec![Value::String(joined(name, items)?)],
            item => vec![item.clone()],
        };
        for item in &items {
            match item {
                Value::Null | Value::Bool(false) => {}
                Value::Bool(true) => arguments.push(format!("--{key}").into()),
                Value::Number(number) => arguments.push(format!("--{key}={number}").into()),
                Value::String(text) => arguments.push(format!("--{key}={text}").into()),
                other => {
                    return Err(format!("`{name}` is {other}, expected a number, a string, true or a list of them"));
                }
            }
        }
    }
    Ok(arguments)
}

/// Options that are given once for each value; other lists are one value with commas.
const REPEATED: [&str; 4] = ["data", "eval-data", "rank-pattern", "alpha-pattern"];

fn joined(name: &str, items: &[Value]) -> Result<String, String> {
    let text = |item: &Value| match item {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("`{name}` holds {other}, expected numbers or strings")),
    };
    Ok(items.iter().map(text).collect::<Result<Vec<_>, _>>()?.join(","))
}

fn is_given(arguments: &[OsString], key: &str) -> bool {
    let flag = format!("--{key}");
    arguments.iter().filter_map(|a| a.to_str()).any(|a| a.split('=').next() == Some(&flag))
}

fn value_of(arguments: &[OsString], key: &str) -> Option<std::path::PathBuf> {
    let (flag, joined) = (format!("--{key}"), format!("--{key}="));
    let at = arguments.iter().position(|a| a.to_str().is_some_and(|a| a == flag || a.starts_with(&joined)))?;
    match arguments[at].to_str().and_then(|a| a.strip_prefix(&joined)) {
        Some(value) => Some(value.into()),
        None => arguments.get(at + 1).map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(settings: &str, line: &str) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        fs::write(&path, settings).unwrap();
        let line = line.replace("FILE", path.to_str().unwrap());
        let known = ["rank", "packing", "no-shuffle", "data", "lr", "epochs", "max-steps", "config", "target-modules"];
        let known = known.map(String::from);
        let arguments = expand(line.split(' ').map(OsString::from).collect(), &known).map_err(|e| format!("{e:#}"))?;
        let shown = |a: OsString| a.into_string().unwrap().replace(path.to_str().unwrap(), "FILE");
        Ok(arguments.into_iter().map(shown).collect())
    }

    #[test]
    fn settings_become_arguments_in_front_of_those_given() {
        let settings = r#"{"rank": 4, "packing": true, "no_shuffle": false, "data": ["a", "b"], "lr": 1e-3}"#;
        let got = expanded(settings, "dora --json train --config FILE --lr 2").unwrap();
        let want = ["dora", "--json", "train", "--rank=4", "--packing", "--data=a", "--data=b", "--config", "FILE"];
        assert_eq!(got[..9], want);
        assert_eq!(got[9..], ["--lr", "2"]);
        assert_eq!(expanded(settings, "dora train --config=FILE --data=c").unwrap().len(), 7);
        assert_eq!(expanded(r#"{"epochs": 2}"#, "dora train --config=FILE --max-steps 3").unwrap().len(), 5);
        let names = expanded(r#"{"target_modules": ["q_proj", "v_proj"]}"#, "dora train --config=FILE").unwrap();
        assert_eq!(names[2], "--target-modules=q_proj,v_proj");
        assert_eq!(expanded("{}", "dora eval --config=FILE").unwrap().len(), 3);
    }

    #[test]
    fn what_is_no_option_is_named() {
        let message = |settings| expanded(settings, "dora train --config FILE").unwrap_err().replace('"', "");
        assert!(message(r#"{"rank": {}}"#).contains("run.json: `rank` is {}, expected a number"));
        assert!(message(r#"{"config": 1}"#).contains("found `config`"));
        assert!(message(r#"{"nonsense": null}"#).contains("run.json: `nonsense` is no option of `dora train`"));
        assert!(message("[]").contains("run.json:1:1: expected a JSON object"));
    }
}
