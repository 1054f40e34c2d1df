//! Adapter folders that differ from a good one in one thing.

use std::fs;
use std::path::Path;

use dora_models::checkpoint::{read_safetensors, write_safetensors};
use dora_tensor::Tensor;
use serde_json::Value;
use tempfile::TempDir;

/// A copy of the adapter in folder `from` with its settings and tensors (by name, sorted) changed.
pub fn edited_adapter(from: &Path, edit: impl FnOnce(&mut Value, &mut Vec<(String, Tensor)>)) -> TempDir {
    let (config, tensors) = ("adapter_config.json", "adapter_model.safetensors");
    let mut settings = serde_json::from_slice(&fs::read(from.join(config)).unwrap()).unwrap();
    let file = read_safetensors(&from.join(tensors)).unwrap();
    let mut contents = file.names().map(|name| (name.to_owned(), file.tensor(name).unwrap())).collect();
    edit(&mut settings, &mut contents);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(config), settings.to_string()).unwrap();
    write_safetensors(&dir.path().join(tensors), &contents, &[("format", "pt")]).unwrap();
    dir
}
