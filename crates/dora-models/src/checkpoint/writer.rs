//! Saving a model tensor by tensor, in one file or in shards with an index, as Hugging Face names them. Names, types and
//! shapes are known before the first tensor, so that headers are written first and no tensor waits in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use dora_tensor::Tensor;

use super::header::{FileType, Layout, Planned, bytes_of, damaged};
use super::index::{self, INDEX};
use super::write::{Temporary, bytes, sync_parent, write_file};
use super::{SINGLE, is_checkpoint_file};
use crate::error::{Error, Result};

/// A checkpoint being written. Nothing in the folder changes before [`finish`](Self::finish); dropped without it, the files
/// that were begun are removed.
pub struct CheckpointWriter {
    dir: PathBuf,
    plan: Vec<Slot>,
    /// Tensors written so far: the first of the plan.
    written: usize,
    shards: Vec<Temporary>,
}

/// One tensor of the plan and its place.
struct Slot {
    tensor: Planned,
    shard: usize,
    offset: u64,
}

impl CheckpointWriter {
    /// Begins a checkpoint of these tensors (name, type, shape), cut into shards of at most `max_shard_bytes` of data, but at
    /// least one tensor each.
    pub fn create<T: Into<FileType>>(
        dir: &Path,
        plan: Vec<(String, T, Vec<usize>)>,
        max_shard_bytes: usize,
    ) -> Result<Self> {
        let plan: Vec<Planned> = plan.into_iter().map(|(name, dtype, shape)| (name, dtype.into(), shape)).collect();
        // Across shards as within one, a name comes once.
        let mut names = BTreeSet::new();
        if let Some((name, ..)) = plan.iter().find(|(name, ..)| !names.insert(name)) {
            return Err(damaged(
                dir,
                format!("found tensor {name} twice among those to write, expected distinct names"),
            ));
        }
        let groups = split(plan, max_shard_bytes);
        let count = groups.len();
        let mut writer = Self { dir: dir.to_owned(), plan: Vec::new(), written: 0, shards: Vec::with_capacity(count) };
        for (shard, group) in groups.into_iter().enumerate() {
            let name =
                if count == 1 { SINGLE.into() } else { format!("model-{:05}-of-{count:05}.safetensors", shard + 1) };
            let path = dir.join(name);
            let layout = Layout::of(&group, &[("format", "pt")], &path)?;
            let mut file = Temporary::create(&path)?;
            file.write_at(0, &layout.header)?;
            writer.shards.push(file);
            let slots = group.into_iter().zip(layout.offsets).map(|(tensor, offset)| Slot { tensor, shard, offset });
            writer.plan.extend(slots);
        }
        Ok(writer)
    }

    /// Writes the plan's next tensor, which must be this one.
    pub fn write(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.write_bytes(name, tensor.dtype().into(), tensor.shape(), bytes(tensor))
    }

    /// As [`write`](Self::write), for a tensor of any type given as its bytes, little-endian.
    pub fn write_bytes(&mut self, name: &str, dtype: FileType, shape: &[usize], content: &[u8]) -> Result<()> {
        let slot = self.plan.get(self.written);
        let planned = slot.map(|slot| &slot.tensor);
        let file = slot.map_or(&*self.dir, |slot| self.shards[slot.shard].target());
        let described = |dtype: FileType, shape: &[usize]| format!("{dtype} of shape {shape:?}");
        let error = |found: String, expected: String| {
            Err(Error::Tensor { path: file.to_owned(), tensor: name.into(), found, expected })
        };
        match planned {
            Some((next, planned, size)) if next == name && *planned == dtype && size == shape => {}
            Some((next, planned, size)) if next == name => {
                return error(described(dtype, shape), described(*planned, size));
            }
            Some((next, ..)) => return error("it as the next to write".into(), format!("{next} by the plan")),
            None => return error("it as the next to write".into(), "no more by the plan".into()),
        }
        let Slot { shard, offset, .. } = self.plan[self.written];
        self.shards[shard].write_at(offset, content)?;
        self.written += 1;
        if self.plan.get(self.written).is_none_or(|next| next.shard != shard) {
            self.shards[shard].sync()?;
        }
        Ok(())
    }

    /// Puts the files in place, with the index if there are several, and removes those of an earlier checkpoint in the folder.
    /// If it is cut off, the folder holds the old checkpoint, the new one, or one that [`open`](super::Checkpoint::open)
    /// refuses, but no mixture.
    pub fn finish(mut self) -> Result<()> {
        if let Some(slot) = self.plan.get(self.written) {
            let (written, planned, next) = (self.written, self.plan.len(), &slot.tensor.0);
            let problem = format!("found {written} tensors written, expected {planned}: the next is {next}");
            return Err(damaged(&self.dir, problem));
        }
        let index = self.index();
        let index_path = self.dir.join(INDEX);
        let file_name = |file: &Temporary| file.target().file_name().map(|name| name.to_string_lossy().into_owned());
        let mut kept: BTreeSet<String> = self.shards.iter().filter_map(file_name).collect();
        for shard in &mut self.shards {
            shard.sync()?;
        }
        if index.is_some() && self.shards.iter().any(|shard| shard.target().exists()) {
            // An old index would also fit a folder where only some shards of the same names are new.
            remove(&index_path)?;
            sync_parent(&index_path)?;
        }
        for shard in self.shards.drain(..) {
            shard.rename()?;
        }
        sync_parent(&index_path)?;
        if let Some(text) = index {
            write_file(&index_path, text.as_bytes())?;
            kept.insert(INDEX.into());
        }
        remove_stale(&self.dir, &kept)
    }

    /// The index's text, if there are several shards.
    fn index(&self) -> Option<String> {
        let names: Vec<_> = self.shards.iter().filter_map(|shard| shard.target().file_name()?.to_str()).collect();
        let weight_map: BTreeMap<_, _> = self.plan.iter().map(|s| (s.tensor.0.as_str(), names[s.shard])).collect();
        let total = self.plan.iter().map(|Slot { tensor: (_, dtype, shape), .. }| bytes_of(*dtype, shape) as u64).sum();
        (names.len() > 1).then(|| index::text(&weight_map, total))
    }
}

/// Cuts the plan where the next tensor would not fit any more; an empty plan is one empty shard.
fn split(plan: Vec<Planned>, max_shard_bytes: usize) -> Vec<Vec<Planned>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for tensor in plan {
        let size = bytes_of(tensor.1, &tensor.2);
        if filled + size > max_shard_bytes && !shards[shards.len() - 1].is_empty() {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += size;
        shards.last_mut().expect("there is at least one shard").push(tensor);
    }
    shards
}

/// Removes the files of an earlier checkpoint that are not part of this one. A stale index goes before the shards it names,
/// a stale single file before anything that it hides: the names sort that way.
fn remove_stale(dir: &Path, kept: &BTreeSet<String>) -> Result<()> {
    let mut stale = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let name = entry.map_err(Error::io("read", dir))?.file_name().to_string_lossy().into_owned();
        if is_checkpoint_file(&name) && !kept.contains(&name) {
            stale.insert(name);
        }
    }
    for name in stale.iter().rev() {
        remove(&dir.join(name))?;
    }
    sync_parent(&dir.join(SINGLE))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}
