//! One safetensors file mapped into memory. Tensors share the mapping: nothing is copied until somebody writes, except where
//! a file's data is not aligned for its type.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dora_tensor::{SharedBytes, Tensor};
use memmap2::Mmap;

use super::header::{Entry, Header, damaged, loaded_type};
use crate::error::{Error, Result};

/// A safetensors file whose header is checked: offsets fit shapes, cover the data exactly, and no name comes twice.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    map: Arc<Mmap>,
    metadata: BTreeMap<String, String>,
    entries: BTreeMap<String, Entry>,
}

/// A tensor as the file holds it, of any type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTensor<'a> {
    /// Type as safetensors spells it: `U8`, `BF16`, …
    pub dtype: String,
    /// Dimensions.
    pub shape: &'a [usize],
    /// Its bytes, little-endian.
    pub bytes: &'a [u8],
}

/// Maps and checks a safetensors file.
pub fn read_safetensors(path: &Path) -> Result<SafetensorsFile> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let info = file.metadata().map_err(Error::io("read", path))?;
    if !info.is_file() {
        return Err(damaged(path, "found a folder or a device, expected a safetensors file".into()));
    }
    if info.len() == 0 {
        return Err(damaged(path, "truncated: found 0 bytes, expected at least 8".into()));
    }
    // SAFETY: checked: a regular file that is not empty, mapped read-only. Its bytes must not change while it is mapped: this
    // library replaces files by renaming, which leaves the mapped one alone; a file that another program cuts short or
    // rewrites in place while we run is outside what can be checked.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
    let Header { metadata, entries } = Header::parse(&map, path)?;
    Ok(SafetensorsFile { path: path.to_owned(), map: Arc::new(map), metadata, entries })
}

impl SafetensorsFile {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The header's `__metadata__`; empty where there is none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether the file holds that tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A tensor of type F32, BF16 or F16, sharing the mapped bytes.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self.entry(name, "a tensor of this name")?;
        let Some(dtype) = loaded_type(entry.dtype) else {
            return Err(self.error(name, format!("dtype {}", entry.dtype), "F32, BF16 or F16"));
        };
        let bytes = Arc::new(MappedRange { map: self.map.clone(), range: entry.range.clone() });
        Tensor::from_shared(bytes, dtype, &entry.shape)
            .map_err(|e| self.error(name, e.to_string(), "the header to agree"))
    }

    /// As [`tensor`](Self::tensor), of exactly that shape.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let entry = self.entry(name, &format!("shape {shape:?}"))?;
        if entry.shape != shape {
            return Err(self.error(name, format!("shape {:?}", entry.shape), &format!("{shape:?}")));
        }
        self.tensor(name)
    }

    /// A tensor of any type, as its bytes.
    pub fn raw(&self, name: &str) -> Result<RawTensor<'_>> {
        let entry = self.entry(name, "a tensor of this name")?;
        let bytes = &self.map[entry.range.clone()];
        Ok(RawTensor { dtype: entry.dtype.to_string(), shape: &entry.shape, bytes })
    }

    /// The bytes of a tensor of any type, sharing the mapped file.
    pub fn shared(&self, name: &str) -> Result<SharedBytes> {
        let range = self.entry(name, "a tensor of this name")?.range.clone();
        Ok(Arc::new(MappedRange { map: self.map.clone(), range }))
    }

    /// Gives the memory of a tensor's mapped bytes back; they are read from the file again when somebody looks.
    pub fn release(&self, name: &str) -> Result<()> {
        let range = self.entry(name, "a tensor of this name")?.range.clone();
        #[cfg(unix)]
        if !range.is_empty() {
            // SAFETY: the mapping is read-only and of a file, so what is dropped comes back from the file unchanged.
            unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) }
                .map_err(Error::io("release", &self.path))?;
        }
        Ok(())
    }

    fn entry(&self, name: &str, expected: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| self.error(name, "nothing".into(), expected))
    }

    fn error(&self, name: &str, found: String, expected: &str) -> Error {
        Error::Tensor { path: self.path.clone(), tensor: name.into(), found, expected: expected.into() }
    }
}

/// Part of a mapped file, which it keeps mapped.
struct MappedRange {
    map: Arc<Mmap>,
    /// Within the map (checked by `Header::parse`).
    range: Range<usize>,
}

impl AsRef<[u8]> for MappedRange {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}
