//! `model.safetensors.index.json`: `{"metadata": {"total_size": bytes}, "weight_map": {tensor: shard}}`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use serde_json::{Value, json};

use super::header::damaged;
use crate::error::{Error, Result};
use crate::json;

/// File name of the index.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Reads the weight map: for each tensor the file name of its shard, which lies in the index's own folder.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let mut object = json::object(&fs::read(path).map_err(Error::io("read", path))?, path)?;
    let map = match object.remove("weight_map") {
        Some(Value::Object(map)) if !map.is_empty() => map,
        found => {
            let found = found.map_or("missing".to_owned(), |value| value.to_string());
            return Err(damaged(path, format!("weight_map is {found}, expected an object of tensor: shard")));
        }
    };
    let shard = |(tensor, value): (String, Value)| match value {
        Value::String(shard) if is_plain(&shard) => Ok((tensor, shard)),
        other => {
            Err(damaged(path, format!("weight_map.{tensor} is {other}, expected the name of a file in this folder")))
        }
    };
    map.into_iter().map(shard).collect()
}

/// The text of an index.
pub(super) fn text(weight_map: &BTreeMap<&str, &str>, total_size: u64) -> String {
    format!("{:#}\n", json!({"metadata": {"total_size": total_size}, "weight_map": weight_map}))
}

/// Whether a shard's name is a bare file name on every system, so that it cannot leave the folder.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains(['/', '\\', ':', '\0'])
}
