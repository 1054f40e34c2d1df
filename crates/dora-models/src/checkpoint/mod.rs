//! Hugging Face checkpoints in safetensors: read through mapped files without a copy, written whole or not at all.
//!
//! * [`Checkpoint`]: the tensors of a model folder, from one file or from shards with an index.
//! * [`read_safetensors`]: one file with the same checks.
//! * [`CheckpointWriter`], [`write_safetensors`], [`write_file`]: everything is written beside, synced and renamed.
//!
//! What a reader would have to guess is an error: a tensor named twice, offsets that leave holes, an index that disagrees
//! with its shards.

mod header;
mod index;
mod safetensors_file;
#[cfg(test)]
mod tests;
mod write;
mod writer;

pub use header::FileType;
pub use safetensors_file::{RawTensor, SafetensorsFile, read_safetensors};
pub use write::{copy_side_files, ensure_writable_dir, write_file, write_safetensors};
pub use writer::CheckpointWriter;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use dora_tensor::{DType, Device, SharedBytes, Tensor};

use crate::error::{Error, Result};
use header::damaged;
use index::INDEX;

/// File name of a checkpoint that is not sharded.
const SINGLE: &str = "model.safetensors";

/// Shards of 5 GB, as Hugging Face cut them for years.
pub const MAX_SHARD_BYTES: usize = 5_000_000_000;

/// The tensors of a model folder.
#[derive(Debug)]
pub struct Checkpoint {
    /// The only file, or the index.
    path: PathBuf,
    files: Vec<SafetensorsFile>,
    /// For each tensor its file.
    places: BTreeMap<String, usize>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, else the shards of `model.safetensors.index.json`; as transformers, the single file wins.
    pub fn open(dir: &Path) -> Result<Self> {
        let is_there = |name: &str| dir.join(name).symlink_metadata().is_ok();
        if is_there(SINGLE) {
            let path = dir.join(SINGLE);
            let file = read_safetensors(&path)?;
            let places = file.names().map(|name| (name.to_owned(), 0)).collect();
            return Ok(Self { path, files: vec![file], places });
        }
        if is_there(INDEX) {
            return Self::open_shards(dir);
        }
        let found = match () {
            () if !dir.is_dir() => "no such folder",
            () if is_there("pytorch_model.bin") || is_there("pytorch_model.bin.index.json") => {
                "only pytorch_model.bin, which is not read"
            }
            () => "neither",
        };
        Err(damaged(dir, format!("found {found}, expected {SINGLE} or {INDEX}")))
    }

    /// The file that says what there is: `model.safetensors` or the index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds a tensor.
    pub fn path_of(&self, name: &str) -> Option<&Path> {
        self.places.get(name).map(|&file| self.files[file].path())
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Type of the largest tensor that is not in 4 bits.
    pub fn dtype(&self) -> Option<DType> {
        let tensors = self.names().filter_map(|name| self.tensor(name).ok());
        tensors.max_by_key(Tensor::numel).map(|tensor| tensor.dtype())
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// A tensor of type F32, BF16 or F16, sharing the mapped bytes.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.file(name, "a tensor of this name")?.tensor(name)
    }

    /// As [`tensor`](Self::tensor), of exactly that shape.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.file(name, &format!("shape {shape:?}"))?.expect(name, shape)
    }

    /// As [`expect`](Self::expect), in another type if need be: copied then, and the mapped bytes given back.
    pub fn expect_as(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<Tensor> {
        let stored = self.expect(name, shape)?;
        match dtype.filter(|&dtype| dtype != stored.dtype()) {
            None => Ok(stored),
            Some(dtype) => {
                let copy = stored.to_dtype(dtype);
                self.release(name)?;
                Ok(copy)
            }
        }
    }

    /// As [`expect_as`](Self::expect_as), on a device: the mapped bytes are given back once they are there.
    pub fn expect_on(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: Device) -> Result<Tensor> {
        let tensor = self.expect_as(name, shape, dtype)?;
        if device == Device::Cpu {
            return Ok(tensor);
        }
        let copy = tensor.to_device(device)?;
        self.release(name)?;
        Ok(copy)
    }

    /// A tensor of any type, as its bytes.
    pub fn raw(&self, name: &str) -> Result<RawTensor<'_>> {
        self.file(name, "a tensor of this name")?.raw(name)
    }

    /// The bytes of a tensor of any type, sharing the mapped file.
    pub fn shared(&self, name: &str) -> Result<SharedBytes> {
        self.file(name, "a tensor of this name")?.shared(name)
    }

    /// Gives the memory of a tensor's mapped bytes back; they are read from the file again when somebody looks.
    pub fn release(&self, name: &str) -> Result<()> {
        self.file(name, "a tensor of this name")?.release(name)
    }

    /// Fails if there is a tensor that is neither `used` nor `ignored`: the model would not be what the files say.
    pub fn check_all_used<S: AsRef<str>>(&self, used: &[S], ignored: impl Fn(&str) -> bool) -> Result<()> {
        let used: HashSet<&str> = used.iter().map(AsRef::as_ref).collect();
        let left: Vec<&str> = self.names().filter(|name| !used.contains(name) && !ignored(name)).collect();
        match left.len() {
            0 => Ok(()),
            n => {
                let (named, dots) = (left[..n.min(3)].join(", "), if n > 3 { ", …" } else { "" });
                let problem = format!("found {n} unexpected tensors ({named}{dots}), expected only those of the model");
                Err(damaged(&self.path, problem))
            }
        }
    }

    fn open_shards(dir: &Path) -> Result<Self> {
        let path = dir.join(INDEX);
        let weight_map = index::read(&path)?;
        let shards: BTreeMap<&str, usize> = weight_map.values().map(|shard| (shard.as_str(), 0)).collect();
        let mut files = Vec::with_capacity(shards.len());
        for name in shards.keys() {
            let shard = dir.join(name);
            if shard.symlink_metadata().is_err() {
                return Err(damaged(&shard, format!("found no such file, expected the shard that {INDEX} names")));
            }
            files.push(read_safetensors(&shard)?);
        }
        check_agreement(&weight_map, &files)?;
        let number: BTreeMap<&str, usize> = shards.into_keys().zip(0..).collect();
        let places = weight_map.iter().map(|(tensor, shard)| (tensor.clone(), number[shard.as_str()])).collect();
        Ok(Self { path, files, places })
    }

    fn file(&self, name: &str, expected: &str) -> Result<&SafetensorsFile> {
        self.places.get(name).map(|&file| &self.files[file]).ok_or_else(|| Error::Tensor {
            path: self.path.clone(),
            tensor: name.into(),
            found: "nothing".into(),
            expected: expected.into(),
        })
    }
}

/// Whether a checkpoint would be made of files of that name: the single file, the index, or `model-00001-of-00002.safetensors`.
fn is_checkpoint_file(name: &str) -> bool {
    let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
    let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    let is_shard = numbers.and_then(|n| n.split_once("-of-")).is_some_and(|(i, n)| is_number(i) && is_number(n));
    name == SINGLE || name == INDEX || is_shard
}

/// Checks that every shard holds exactly the tensors that the index places there; `files` are all its shards.
fn check_agreement(weight_map: &BTreeMap<String, String>, files: &[SafetensorsFile]) -> Result<()> {
    let by_name: BTreeMap<_, _> = files.iter().filter_map(|file| Some((file.path().file_name()?, file))).collect();
    let error = |file: &SafetensorsFile, tensor: &str, found: &str, expected: String| {
        Err(Error::Tensor { path: file.path().into(), tensor: tensor.into(), found: found.into(), expected })
    };
    for file in files {
        for tensor in file.names() {
            match weight_map.get(tensor) {
                None => return error(file, tensor, "it here", format!("no tensor that {INDEX} does not name")),
                Some(shard) if file.path().file_name() != Some(shard.as_ref()) => {
                    return error(file, tensor, "it here", format!("it in {shard} by {INDEX}"));
                }
                Some(_) => {}
            }
        }
    }
    for (tensor, shard) in weight_map {
        let file = by_name[std::ffi::OsStr::new(shard)];
        if !file.contains(tensor) {
            return error(file, tensor, "nothing", format!("it here by {INDEX}"));
        }
    }
    Ok(())
}
