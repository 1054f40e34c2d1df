//! The header of a safetensors file, read strictly and written deterministically. A file is an 8-byte little-endian length n,
//! n bytes of JSON `{"__metadata__": {..}, name: {"dtype", "shape", "data_offsets": [start, end)}}` and the data, which the
//! tensors cover without holes or overlaps (offsets count from the start of the data).
//! Source: <https://github.com/huggingface/safetensors#format>.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use dora_tensor::DType;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::json;

/// Bytes of the length before the header.
const LENGTH: usize = 8;

/// Longest header that safetensors accepts.
const MAX_HEADER: u64 = 100_000_000;

/// Key of the metadata among the tensors.
const METADATA: &str = "__metadata__";

/// A file's header after every check: each `range` lies within the file and fits shape and type.
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) entries: BTreeMap<String, Entry>,
}

/// One tensor of a file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Its bytes within the whole file.
    pub(super) range: Range<usize>,
}

impl Header {
    /// Reads and checks the header of a whole file's bytes.
    pub(super) fn parse(file: &[u8], path: &Path) -> Result<Self> {
        let start = data_start(file, path)?;
        let mut map = json::object(&file[LENGTH..start], path).map_err(|e| match e {
            Error::Json { line, column, found, .. } => {
                damaged(path, format!("the header is damaged: {found} at line {line}, column {column}"))
            }
            e => e,
        })?;
        let metadata = match map.shift_remove(METADATA) {
            None => BTreeMap::new(),
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|_| damaged(path, format!("{METADATA} is {value}, expected an object of strings")))?,
        };
        let mut tensors = Vec::with_capacity(map.len());
        for (name, value) in map {
            tensors.push((info(&name, &value, path)?, name));
        }
        tensors.sort_by_key(|(info, _)| info.data_offsets);
        let end = check_cover(&tensors, path)?;
        match (start.saturating_add(end), file.len()) {
            (expected, found) if found < expected => {
                return Err(damaged(
                    path,
                    format!("truncated: found {found} bytes, expected {expected} by its header"),
                ));
            }
            (expected, found) if found > expected => {
                return Err(damaged(path, format!("found {found} bytes, expected {expected} by its header")));
            }
            _ => {}
        }
        let entry =
            |TensorInfo { dtype, shape, data_offsets: (a, b) }| Entry { dtype, shape, range: start + a..start + b };
        Ok(Self { metadata, entries: tensors.into_iter().map(|(info, name)| (name, entry(info))).collect() })
    }
}

/// The type that a tensor has in a file that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// One that is computed with.
    Element(DType),
    /// Bytes: packed codes.
    U8,
}

impl From<DType> for FileType {
    fn from(dtype: DType) -> Self {
        FileType::Element(dtype)
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileType::Element(dtype) => dtype.fmt(f),
            FileType::U8 => f.write_str("u8"),
        }
    }
}

/// A tensor that is to be written: name, type and shape.
pub(super) type Planned = (String, FileType, Vec<usize>);

/// Where everything goes in a file that is to be written.
pub(super) struct Layout {
    /// The length and the header, padded with spaces so that the data starts at a multiple of 8.
    pub(super) header: Vec<u8>,
    /// Position in the file of each tensor, in the plan's order.
    pub(super) offsets: Vec<u64>,
}

impl Layout {
    /// Lays tensors out as safetensors does: widest type first, so that each is aligned, then by name. `path` is for messages.
    pub(super) fn of(plan: &[Planned], metadata: &[(&str, &str)], path: &Path) -> Result<Self> {
        let mut seen = HashSet::from([METADATA]);
        if let Some((name, ..)) = plan.iter().find(|(name, ..)| !seen.insert(name)) {
            return Err(damaged(
                path,
                format!("found tensor {name} twice among those to write, expected distinct names"),
            ));
        }
        let mut order: Vec<usize> = (0..plan.len()).collect();
        let key = |i: &usize| (std::cmp::Reverse(stored_type(plan[*i].1)), &plan[*i].0);
        order.sort_by(|a, b| key(a).cmp(&key(b)));
        let mut map = Map::new();
        if !metadata.is_empty() {
            let pairs = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).into()));
            map.insert(METADATA.into(), Value::Object(pairs.collect()));
        }
        let mut offsets = vec![0; plan.len()];
        let mut position = 0;
        for i in order {
            let (name, dtype, shape) = &plan[i];
            let end = position + bytes_of(*dtype, shape) as u64;
            let entry = json!({"dtype": stored_type(*dtype), "shape": shape, "data_offsets": [position, end]});
            map.insert(name.clone(), entry);
            offsets[i] = position;
            position = end;
        }
        let mut text = Value::Object(map).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(LENGTH), b' ');
        if text.len() as u64 > MAX_HEADER {
            return Err(damaged(
                path,
                format!("the header would take {} bytes, expected at most {MAX_HEADER}", text.len()),
            ));
        }
        let header = [&(text.len() as u64).to_le_bytes(), &text[..]].concat();
        offsets.iter_mut().for_each(|offset| *offset += header.len() as u64);
        Ok(Self { header, offsets })
    }
}

/// Bytes that a tensor takes.
pub(super) fn bytes_of(dtype: FileType, shape: &[usize]) -> usize {
    let size = match dtype {
        FileType::Element(dtype) => dtype.size(),
        FileType::U8 => 1,
    };
    shape.iter().product::<usize>() * size
}

/// The element type that a file's type is held as; `None` where this library does not compute with it.
pub(super) fn loaded_type(dtype: Dtype) -> Option<DType> {
    [DType::F32, DType::BF16, DType::F16].into_iter().find(|&ours| stored_type(ours.into()) == dtype)
}

/// An error about the whole file.
pub(super) fn damaged(path: &Path, problem: String) -> Error {
    Error::Checkpoint { path: path.to_owned(), problem }
}

fn stored_type(dtype: FileType) -> Dtype {
    match dtype {
        FileType::Element(DType::F32) => Dtype::F32,
        FileType::Element(DType::BF16) => Dtype::BF16,
        FileType::Element(DType::F16) => Dtype::F16,
        FileType::U8 => Dtype::U8,
    }
}

/// Where the data starts: after the header, which lies within the file.
fn data_start(file: &[u8], path: &Path) -> Result<usize> {
    if file.starts_with(b"version https://git-lfs") {
        return Err(damaged(path, "found a Git LFS pointer, expected the file it stands for (git lfs pull)".into()));
    }
    let found = file.len();
    let Some(length) = file.first_chunk::<LENGTH>() else {
        return Err(damaged(path, format!("truncated: found {found} bytes, expected at least {LENGTH}")));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let problem =
            format!("found a header of {length} bytes, expected at most {MAX_HEADER}: not a safetensors file");
        return Err(damaged(path, problem));
    }
    let start = LENGTH + length as usize;
    if found < start {
        return Err(damaged(path, format!("truncated: found {found} bytes, expected at least {start} for its header")));
    }
    Ok(start)
}

/// A tensor's entry, whose offsets fit its shape and type.
fn info(name: &str, value: &Value, path: &Path) -> Result<TensorInfo> {
    let error =
        |found: String, expected: String| Error::Tensor { path: path.into(), tensor: name.into(), found, expected };
    let info: TensorInfo = serde_json::from_value(value.clone())
        .map_err(|e| error(value.to_string(), format!("its dtype, shape and data_offsets ({e})")))?;
    let (start, end) = info.data_offsets;
    let elements = info.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize()));
    match bits {
        Some(bits) if bits.is_multiple_of(8) && end.checked_sub(start) == Some(bits / 8) => Ok(info),
        Some(bits) => Err(error(
            format!("data_offsets [{start}, {end}]"),
            format!("{} bytes for {} of shape {:?}", bits.div_ceil(8), info.dtype, info.shape),
        )),
        None => Err(error(format!("shape {:?}", info.shape), "a number of elements that can be addressed".into())),
    }
}

/// Checks that tensors sorted by offset follow one another without a gap; returns where the last one ends.
fn check_cover(tensors: &[(TensorInfo, String)], path: &Path) -> Result<usize> {
    let mut position = 0;
    for (info, name) in tensors {
        let (start, end) = info.data_offsets;
        if start != position {
            let kind = if start < position { "an overlap" } else { "a hole" };
            return Err(Error::Tensor {
                path: path.into(),
                tensor: name.clone(),
                found: format!("data_offsets [{start}, {end}]"),
                expected: format!("a start at {position}, where the data before it ends ({kind})"),
            });
        }
        position = end;
    }
    Ok(position)
}
