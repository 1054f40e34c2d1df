//! Runs the `dora` binary as a user would, and holds what the tests of it share: tiny models, rows, folders, and the two
//! things that every refusal must do, which are to leave stdout empty and to leave nothing behind that looks like a result.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod compare;
pub mod report;
pub mod sweep;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Files that stand for the result of a training or a merge.
const RESULTS: [&str; 4] =
    ["adapter_model.safetensors", "adapter_config.json", "model.safetensors", "model.safetensors.index.json"];

/// What a command left: exit code, stdout, stderr.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Of a command that must succeed.
    pub fn good(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// The one JSON object on stdout.
    pub fn object(&self) -> Value {
        assert_eq!(self.out.matches('\n').count(), 1, "one line: {:?}", self.out);
        let value: Value = serde_json::from_str(&self.out).unwrap();
        assert!(value.is_object());
        value
    }
}

/// Runs `dora` on one thread.
pub fn dora<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    Ran::of(Command::new(env!("CARGO_BIN_EXE_dora")).args(["--threads", "1"]).args(arguments).output().unwrap())
}

/// A model of tests/golden.
pub fn golden(case: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).canonicalize().unwrap().join(case)
}

/// The tiny model that most tests use: f32, 97 tokens, 2 blocks, a context of 512.
pub fn plain() -> PathBuf {
    golden("llama_plain/model")
}

/// The embedded model, which has a tokenizer.
pub fn embedded() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/model")).to_owned()
}

/// A folder of its own for a test.
pub struct Room(TempDir);

impl Room {
    pub fn new() -> Self {
        Room(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Rows as JSONL.
    pub fn rows(&self, name: &str, rows: &[Value]) -> PathBuf {
        self.write(name, rows.iter().map(|row| format!("{row}\n")).collect::<String>())
    }

    /// A folder with copies of another's files, which the test may then damage.
    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.path(name);
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to
    }
}

/// `n` pre-tokenised rows of different lengths, of which the first tokens carry no label.
pub fn token_rows(n: u32) -> Vec<Value> {
    token_rows_below(n, 93)
}

/// The same with token ids below `vocab`.
pub fn token_rows_below(n: u32, vocab: u32) -> Vec<Value> {
    let row = |i: u32| {
        let ids: Vec<u32> = (0..4 + 3 * i % 11).map(|t| 3 + (7 * i + 5 * t + t * t) % (vocab - 3)).collect();
        let label = |(t, &id): (usize, &u32)| if t <= (i % 3) as usize { -100 } else { i64::from(id) };
        json!({ "input_ids": ids, "labels": ids.iter().enumerate().map(label).collect::<Vec<_>>() })
    };
    (0..n).map(row).collect()
}

/// `dora train` on a model and a data file, with more arguments behind.
pub fn train(model: &Path, data: &Path, output: &Path, more: &[&str]) -> Ran {
    let mut line = ["train", "--model", shown(model), "--data", shown(data), "--output", shown(output)].to_vec();
    line.extend(more);
    dora(line)
}

/// The object of `dora eval`, on a model or with an adapter on it.
pub fn eval(model: &Path, adapter: Option<&Path>, data: &Path) -> Value {
    let mut line = ["eval", "--json", "--model", shown(model), "--data", shown(data)].to_vec();
    line.extend(adapter.iter().flat_map(|dir| ["--adapter", shown(dir)]));
    dora(line).good().object()
}

/// The loss of `dora eval`.
pub fn eval_loss(model: &Path, adapter: Option<&Path>, data: &Path) -> f64 {
    eval(model, adapter, data)["loss"].as_f64().unwrap()
}

pub fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A refusal: this exit code, this and only this error as the last line of stderr, an empty stdout.
#[track_caller]
pub fn refused(ran: &Ran, code: i32, message: &str) {
    let last = ran.err.lines().last().unwrap_or_default();
    assert_eq!(last, format!("error: {message}"), "stderr: {}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (code, ""));
    assert_eq!(ran.err.matches("error:").count(), 1);
}

/// Neither an adapter nor a model, nor part of one, in a folder.
#[track_caller]
pub fn no_result(output: &Path) {
    if !output.is_dir() {
        return;
    }
    for entry in fs::read_dir(output).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!RESULTS.contains(&name.as_str()) && !name.ends_with(".tmp"), "{name} in {}", output.display());
    }
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Lines of `metrics.jsonl` in an output folder.
pub fn metrics(output: &Path) -> Vec<Value> {
    let text = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Losses of the steps in an output folder, as they are written.
pub fn losses(output: &Path) -> Vec<f64> {
    metrics(output).iter().filter_map(|line| line["loss"].as_f64()).collect()
}

/// Tensors of a safetensors file in f32, by name: (name, shape, elements).
pub fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let file = dora_models::checkpoint::read_safetensors(path).unwrap();
    let read = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        (name.to_owned(), tensor.shape().to_vec(), tensor.to_vec())
    };
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    names.iter().map(|name| read(name)).collect()
}

/// Largest difference of two files' elements.
#[track_caller]
pub fn difference(a: &Path, b: &Path) -> f32 {
    let (a, b) = (tensors(a), tensors(b));
    assert_eq!(a.len(), b.len());
    let mut most = 0f32;
    for ((name, shape, left), (other_name, other_shape, right)) in a.iter().zip(&b) {
        assert_eq!((name, shape), (other_name, other_shape));
        assert!(left.iter().chain(right).all(|x| x.is_finite()), "{name}");
        most = left.iter().zip(right).fold(most, |m, (l, r)| m.max((l - r).abs()));
    }
    most
}

/// Keys of an object, sorted.
pub fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
