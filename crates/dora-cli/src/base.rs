//! A model's folder: architecture, tokenizer, weights, and the hash that names them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Result;
use blake3::{Hash, Hasher};
use clap::ValueEnum;
use dora_models::checkpoint::Checkpoint;
use dora_models::error::Error;
use dora_models::model::{Architecture, LoadOptions, Model};
use dora_models::nf4;
use dora_models::tokenizer::Tokenizer;
use dora_tensor::{DType, Device, Nf4Options};
use rayon::prelude::*;

use crate::console::Console;

/// Precision of frozen weights in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32 bits
    F32,
    /// bfloat16
    Bf16,
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

/// A loaded model and where it came from.
pub struct Base {
    pub dir: PathBuf,
    pub architecture: &'static Architecture,
    pub model: Box<dyn Model>,
    pub tokenizer: Option<Tokenizer>,
    /// Type that weights which are not in 4 bits are held in.
    pub dtype: DType,
    /// Where it lies and computes.
    pub device: Device,
    /// How its linear layers are held in 4 bits, if they are: as the folder has them, else as was asked for.
    pub nf4: Option<Nf4Options>,
    blake3: OnceLock<String>,
}

impl Base {
    /// Loads the model in a folder; a folder without `tokenizer.json` gives none.
    pub fn load(dir: &Path, options: LoadOptions, console: &Console) -> Result<Self> {
        let architecture = Architecture::of(dir)?;
        let unknown = architecture.read(dir)?.unknown_fields;
        if !unknown.is_empty() {
            console.note(format!("note: config.json has fields that nobody here knows: {}", unknown.join(", ")));
        }
        let tokenizer = dir.join("tokenizer.json").exists().then(|| Tokenizer::open(dir)).transpose()?;
        let model = architecture.load(dir, options)?;
        let checkpoint = Checkpoint::open(dir)?;
        let nf4 = nf4::stored_options(&checkpoint, model.shape())?.or(options.weights.nf4);
        let dtype = options.dtype().or(checkpoint.dtype()).unwrap_or(DType::F32);
        let (dir, device) = (dir.to_owned(), options.device);
        Ok(Base { dir, architecture, model, tokenizer, dtype, device, nf4, blake3: OnceLock::new() })
    }

    /// The hash of its folder, read once.
    pub fn blake3(&self) -> Result<&str> {
        match self.blake3.get() {
            Some(hash) => Ok(hash),
            None => blake3(&self.dir).map(|hash| self.blake3.get_or_init(|| hash).as_str()),
        }
    }

    /// Tokens that end a text: the configuration's, else the tokenizer's.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        match self.model.eos_token_ids() {
            [] => self.tokenizer.iter().filter_map(Tokenizer::eos_id).collect(),
            ids => ids.to_vec(),
        }
    }

    /// The token put behind a training text: the tokenizer's, else the configuration's only one.
    pub fn training_eos(&self) -> Option<u32> {
        self.tokenizer.as_ref().and_then(Tokenizer::eos_id).or(match self.model.eos_token_ids() {
            &[id] => Some(id),
            _ => None,
        })
    }
}

/// BLAKE3 over the BLAKE3 of `config.json` and of every safetensors file of a model's folder, in the order of their names.
pub fn blake3(dir: &Path) -> Result<String> {
    files_blake3(&files(dir)?)
}

/// What a model's hash is of.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |source| Error::Io { action: "read", path: dir.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let named = path.file_name().is_some_and(|name| name == "config.json");
        if named || path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// BLAKE3 over the BLAKE3 of each file, in this order. The files are read, not mapped: mapped pages would count into the
/// process's peak memory.
pub fn files_blake3(files: &[PathBuf]) -> Result<String> {
    let mut all = Hasher::new();
    for hash in files.par_iter().map(|path| file_blake3(path)).collect::<Result<Vec<Hash>>>()? {
        all.update(hash.as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}

fn file_blake3(path: &Path) -> Result<Hash> {
    let unreadable = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let mut hasher = Hasher::new();
    hasher.update_reader(fs::File::open(path).map_err(unreadable)?).map_err(unreadable)?;
    Ok(hasher.finalize())
}
