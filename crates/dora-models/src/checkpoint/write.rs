//! Files that appear whole or not at all: written beside their place, synced, renamed over it, and the folder synced. A file
//! that is mapped while it is replaced stays as it was for whoever mapped it.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use dora_tensor::{Elements, Tensor};

use super::header::{Layout, damaged};
use crate::error::{Error, Result};

/// Files beside the weights that make a model folder complete; what a tokenizer of any kind needs is among them.
const SIDE_FILES: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

/// Writes a file.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = Temporary::create(path)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    file.rename()?;
    sync_parent(path)
}

/// Writes tensors to one safetensors file, which is the same to the byte for the same tensors in any order.
pub fn write_safetensors(path: &Path, tensors: &[(String, Tensor)], metadata: &[(&str, &str)]) -> Result<()> {
    let planned = |(name, tensor): &(String, Tensor)| (name.clone(), tensor.dtype().into(), tensor.shape().to_vec());
    let layout = Layout::of(&tensors.iter().map(planned).collect::<Vec<_>>(), metadata, path)?;
    let mut file = Temporary::create(path)?;
    file.write_at(0, &layout.header)?;
    for ((_, tensor), offset) in tensors.iter().zip(layout.offsets) {
        file.write_at(offset, bytes(tensor))?;
    }
    file.sync()?;
    file.rename()?;
    sync_parent(path)
}

/// Copies configuration, tokenizer and chat template from one model folder to another, where they exist.
pub fn copy_side_files(from: &Path, to: &Path) -> Result<()> {
    for name in SIDE_FILES {
        let path = from.join(name);
        match fs::read(&path) {
            Ok(bytes) => write_file(&to.join(name), &bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", &path)(e)),
        }
    }
    Ok(())
}

/// Creates a folder if need be, and proves that files can be written to it: to be called before hours of work.
pub fn ensure_writable_dir(dir: &Path) -> Result<()> {
    if dir.exists() && !dir.is_dir() {
        return Err(damaged(dir, "found a file, expected a folder to write to".into()));
    }
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let prove = || {
        let mut probe = Temporary::create(&dir.join("probe"))?;
        probe.write_at(0, b"probe")?;
        probe.sync()?;
        probe.remove()
    };
    prove().map_err(|e| match e {
        Error::Io { source, .. } => Error::io("write to", dir)(source),
        e => e,
    })
}

/// A file under a temporary name; removed when dropped before it was renamed.
pub(super) struct Temporary {
    target: PathBuf,
    path: PathBuf,
    /// Closed after `sync`.
    file: Option<File>,
}

impl Temporary {
    /// Creates it in the target's folder, under a name that no other process or thread uses.
    pub(super) fn create(target: &Path) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = target.with_file_name(format!(".{name}.{}.{number}.tmp", process::id()));
        let file = File::create(&path).map_err(Error::io("create", target))?;
        Ok(Self { target: target.to_owned(), path, file: Some(file) })
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    pub(super) fn write_at(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        let file = self.file.as_mut().expect("nothing is written after sync");
        let result = file.seek(SeekFrom::Start(position)).and_then(|_| file.write_all(bytes));
        result.map_err(Error::io("write", &self.target))
    }

    /// Waits until the bytes are on the disk, and closes the file.
    pub(super) fn sync(&mut self) -> Result<()> {
        match self.file.take() {
            Some(file) => file.sync_all().map_err(Error::io("sync", &self.target)),
            None => Ok(()),
        }
    }

    /// Moves it to its place.
    pub(super) fn rename(mut self) -> Result<()> {
        fs::rename(&self.path, &self.target).map_err(Error::io("write", &self.target))?;
        self.path = PathBuf::new();
        Ok(())
    }

    /// Removes it, and says so where that fails.
    fn remove(mut self) -> Result<()> {
        let path = std::mem::take(&mut self.path);
        fs::remove_file(path).map_err(Error::io("remove", &self.target))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.path != Path::new("") {
            // Nobody can be told of a failure here, and nobody reads a file of that name.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Waits until the renames in a file's folder are on the disk, where the system has such a thing.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    let dir = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir)) } else { Ok(()) }
}

/// A tensor's elements as bytes, without a copy.
pub(super) fn bytes(tensor: &Tensor) -> &[u8] {
    match tensor.elements() {
        Elements::F32(v) => bytemuck::cast_slice(v),
        Elements::BF16(v) => bytemuck::cast_slice(v),
        Elements::F16(v) => bytemuck::cast_slice(v),
    }
}
