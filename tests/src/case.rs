//! A case of `golden/`: `case.json`, `expected.safetensors`, and the folders of its model and adapter (`golden/README.md`).

use std::fs;
use std::path::{Path, PathBuf};

use dora_models::checkpoint::{SafetensorsFile, read_safetensors};
use dora_models::linear::Pass;
use dora_tensor::Tensor;
use dora_tensor::ops::IGNORE;
use serde_json::Value;

/// What stands before a module's path in the tensor names of PEFT's files.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// A case.
pub struct Case {
    dir: PathBuf,
    /// `case.json`.
    pub json: Value,
    expected: SafetensorsFile,
}

/// Documents, one after another without padding.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Tokens of all documents.
    pub input_ids: Vec<u32>,
    /// For each position the token to predict: the next one's label, [`IGNORE`] at a document's end.
    pub targets: Vec<i32>,
    /// Tokens of each document.
    pub lengths: Vec<usize>,
    /// What the loss averages over, as the case says.
    pub labelled_tokens: f32,
}

impl Case {
    /// Opens `golden/<name>`.
    pub fn open(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
        let json = serde_json::from_slice(&fs::read(dir.join("case.json")).unwrap()).unwrap();
        let expected = read_safetensors(&dir.join("expected.safetensors")).unwrap();
        Case { dir, json, expected }
    }

    /// A file or folder of the case.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The base model's folder.
    pub fn model_dir(&self) -> PathBuf {
        self.dir.join(self.json["model"].as_str().unwrap())
    }

    /// The adapter's folder.
    pub fn adapter_dir(&self) -> PathBuf {
        self.dir.join(self.json["adapter"].as_str().unwrap())
    }

    /// An expected tensor.
    pub fn expected(&self, name: &str) -> Tensor {
        self.expected.tensor(name).unwrap()
    }

    /// What stands behind `prefix` in the names of expected tensors, sorted; there is at least one.
    pub fn names(&self, prefix: &str) -> Vec<&str> {
        let names: Vec<&str> = self.expected.names().filter_map(|name| name.strip_prefix(prefix)).collect();
        assert!(!names.is_empty(), "{} expects no {prefix}", self.dir.display());
        names
    }

    /// All documents as one batch.
    pub fn batch(&self) -> Batch {
        let batches = self.single_documents();
        let labelled_tokens = batches[0].labelled_tokens;
        let input_ids = batches.iter().flat_map(|b| b.input_ids.clone()).collect();
        let targets: Vec<i32> = batches.iter().flat_map(|b| b.targets.clone()).collect();
        assert_eq!(targets.iter().filter(|&&t| t != IGNORE).count() as f32, labelled_tokens);
        Batch { input_ids, targets, lengths: batches.iter().flat_map(|b| b.lengths.clone()).collect(), labelled_tokens }
    }

    /// A batch for each document.
    pub fn single_documents(&self) -> Vec<Batch> {
        let documents = self.json["documents"].as_array().unwrap().iter();
        let integers = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect::<Vec<_>>();
        documents
            .map(|document| {
                let input_ids: Vec<u32> = integers(&document["input_ids"]).iter().map(|&x| x as u32).collect();
                let labels = integers(&document["labels"]).into_iter().map(|x| x as i32);
                Batch {
                    lengths: vec![input_ids.len()],
                    input_ids,
                    targets: labels.skip(1).chain([IGNORE]).collect(),
                    labelled_tokens: self.json["labelled_tokens"].as_f64().unwrap() as f32,
                }
            })
            .collect()
    }
}

impl Batch {
    /// A pass over these documents without dropout.
    pub fn pass(&self) -> Pass {
        Pass::new(&self.lengths)
    }
}
