//! What the user named, told apart by what is there: a run's folder holds `run.json`, a sweep's `sweep.json`; a file is an SVG
//! plot, a result of `dora eval --output` (its summary lies beside it), or the JSON of `dora compare`. A run's folder may also
//! hold such plots and results, and `samples.jsonl`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::name;
use super::run::Run;
use super::sweep::Sweep;
use crate::commands::compare::{Sheet, Side};
use crate::failure::Usage;
use crate::results::summary_path;

/// Ending of the summary that lies beside a result of `dora eval --output`.
const SUMMARY: &str = ".summary.json";

/// Everything that was read.
#[derive(Default)]
pub struct Inputs {
    pub runs: Vec<Run>,
    pub sweeps: Vec<Sweep>,
    pub evaluations: Vec<Evaluation>,
    /// Of `dora compare`.
    pub verdicts: Vec<Sheet>,
    pub pictures: Vec<Picture>,
    /// All files that were read.
    pub files: Vec<PathBuf>,
}

/// A result of `dora eval --output`.
pub struct Evaluation {
    pub side: Side,
    pub summary: Map<String, Value>,
}

/// A plot in a file.
pub struct Picture {
    pub path: PathBuf,
    pub svg: Vec<u8>,
}

impl Inputs {
    /// Reads all that is named, each once.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut inputs = Inputs::default();
        let mut seen = Vec::new();
        for path in paths {
            let shown = path.display();
            let whole = path.canonicalize().map_err(|e| Usage(format!("cannot read {shown}: {e}")))?;
            if seen.contains(&whole) {
                return Err(Usage(format!("{shown} is named twice, expected each input once")).into());
            }
            seen.push(whole);
            if path.is_dir() { inputs.folder(path)? } else { inputs.file(path)? }
        }
        Ok(inputs)
    }

    fn folder(&mut self, path: &Path) -> Result<()> {
        let names = names(path)?;
        let has = |name: &str| names.iter().any(|found| found.file_name().is_some_and(|found| found == name));
        if has("run.json") {
            let pictures = self.pictures_of(&names)?;
            let mut run = Run::read(path, has("samples.jsonl"), pictures)?;
            self.files.extend(run.files());
            for result in names.iter().filter_map(|name| result_of(name)) {
                let beside = summary_path(&result);
                let summary = dora_models::json::object(&self.bytes(&beside)?, &beside)?;
                if run.is_of(&summary) {
                    self.evaluation(&result)?;
                } else {
                    run.stale.push(name(&result));
                }
            }
            self.runs.push(run);
            Ok(())
        } else if has("sweep.json") {
            let file = path.join("sweep.json");
            let record = dora_models::json::object(&self.bytes(&file)?, &file)?;
            let pictures = self.pictures_of(&names)?;
            self.sweeps.push(Sweep::of(path, Value::Object(record), pictures)?);
            Ok(())
        } else {
            let shown = path.display();
            let text = format!(
                "{shown} has neither run.json nor sweep.json, expected a folder of `dora train` or `dora sweep`"
            );
            Err(Usage(text).into())
        }
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        if !path.is_file() {
            return Err(
                Usage(format!("{} is a device or the like, expected a file or a folder", path.display())).into()
            );
        }
        if is_svg(path) {
            let picture = self.picture(path)?;
            self.pictures.push(picture);
            return Ok(());
        }
        if summary_path(path).exists() {
            return self.evaluation(path);
        }
        let object = dora_models::json::object(&self.bytes(path)?, path);
        let tasks = object.ok().and_then(|mut object| Vec::<Sheet>::deserialize(object.remove("tasks")?).ok());
        let Some(tasks) = tasks else {
            let text = format!(
                "{} is no SVG plot, no result of `dora eval --output` (no {SUMMARY} beside it) and no output of `dora compare \
                 --json`, expected one of these",
                path.display()
            );
            return Err(Usage(text).into());
        };
        self.verdicts.extend(tasks);
        Ok(())
    }

    /// Reads a result, unless it was already found in a folder.
    fn evaluation(&mut self, path: &Path) -> Result<()> {
        let same = |file: &PathBuf| file.canonicalize().ok() == path.canonicalize().ok();
        if self.files.iter().any(same) {
            return Ok(());
        }
        let beside = summary_path(path);
        let summary = dora_models::json::object(&self.bytes(&beside)?, &beside)?;
        let side = Side::read(path)?;
        self.files.push(path.to_owned());
        self.evaluations.push(Evaluation { side, summary });
        Ok(())
    }

    fn pictures_of(&mut self, names: &[PathBuf]) -> Result<Vec<Picture>> {
        names.iter().filter(|name| is_svg(name)).map(|name| self.picture(name)).collect()
    }

    fn picture(&mut self, path: &Path) -> Result<Picture> {
        let svg = self.bytes(path)?;
        let text = String::from_utf8_lossy(&svg);
        let text = text.trim();
        if !(text.starts_with('<') && text.contains("<svg") && text.ends_with("</svg>")) {
            return Err(Usage(format!("{} is no SVG, expected <svg> to </svg>", path.display())).into());
        }
        Ok(Picture { path: path.to_owned(), svg })
    }

    fn bytes(&mut self, path: &Path) -> Result<Vec<u8>> {
        self.files.push(path.to_owned());
        Ok(bytes(path)?)
    }
}

/// A file's bytes.
pub fn bytes(path: &Path) -> Result<Vec<u8>, Usage> {
    fs::read(path).map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))
}

/// What is in a folder, in the order of names.
fn names(folder: &Path) -> Result<Vec<PathBuf>, Usage> {
    let refuse = |e: std::io::Error| Usage(format!("cannot read {}: {e}", folder.display()));
    let entries = fs::read_dir(folder).map_err(refuse)?;
    let mut names = entries.map(|entry| Ok(entry.map_err(refuse)?.path())).collect::<Result<Vec<_>, _>>()?;
    names.sort();
    Ok(names)
}

fn is_svg(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "svg")
}

/// The result that a summary belongs to.
fn result_of(summary: &Path) -> Option<PathBuf> {
    let name = summary.file_name()?.to_str()?.strip_suffix(SUMMARY)?;
    Some(summary.with_file_name(name))
}
