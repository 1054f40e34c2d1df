//! A JSON object read field by field. What is read leaves the object, so that what remains is what nobody knows. `null` means
//! absent, as Hugging Face writes it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::json;

/// Largest accepted size: what an `i32` holds.
const MAX_SIZE: u64 = i32::MAX as u64;

/// The fields that are left of a JSON object.
pub(crate) struct Fields {
    path: PathBuf,
    /// Path of this object within the file, with a trailing dot: "" or "rope_scaling.".
    prefix: String,
    left: Map<String, Value>,
}

impl Fields {
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), prefix: String::new(), left: json::object(bytes, path)? })
    }

    /// Takes a field; `None` when it is absent or null.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Takes an integer from 1 to 2³¹ − 1.
    pub(crate) fn size(&mut self, name: &str) -> Result<Option<usize>> {
        self.convert(name, "a positive integer below 2147483648", |value| {
            value.as_u64().filter(|n| (1..=MAX_SIZE).contains(n)).map(|n| n as usize)
        })
    }

    /// Takes a size that must be there.
    pub(crate) fn required_size(&mut self, name: &str) -> Result<usize> {
        self.size(name)?.ok_or_else(|| self.error(name, "missing", "a positive integer"))
    }

    /// Takes a finite number above zero.
    pub(crate) fn positive(&mut self, name: &str) -> Result<Option<f64>> {
        self.convert(name, "a number above 0", |value| value.as_f64().filter(|x| *x > 0.0 && x.is_finite()))
    }

    /// Takes a number above zero that must be there.
    pub(crate) fn required_positive(&mut self, name: &str) -> Result<f64> {
        self.positive(name)?.ok_or_else(|| self.error(name, "missing", "a number above 0"))
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        self.convert(name, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>> {
        self.convert(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// Takes a token id or a list of them, each below `vocab_size`.
    pub(crate) fn token_ids(&mut self, name: &str, vocab_size: usize) -> Result<Option<Vec<u32>>> {
        let id = |value: &Value| value.as_u64().filter(|&id| id < vocab_size as u64).map(|id| id as u32);
        self.convert(name, &format!("token ids below vocab_size {vocab_size}"), |value| match value {
            Value::Array(list) => list.iter().map(id).collect(),
            single => id(single).map(|id| vec![id]),
        })
    }

    /// Takes an object; an empty one counts as absent.
    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Self>> {
        let object = self.convert(name, "an object", |value| value.as_object().cloned())?;
        let nested = |left| Self { path: self.path.clone(), prefix: format!("{}{name}.", self.prefix), left };
        Ok(object.filter(|map| !map.is_empty()).map(nested))
    }

    /// Takes a field that must be absent or equal `only`, because any other value changes the result unsupportedly.
    pub(crate) fn only(&mut self, name: &str, only: &Value) -> Result<()> {
        let same = |value: &Value| match (value.as_f64(), only.as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => value == only,
        };
        match self.take(name) {
            Some(value) if !same(&value) => Err(self.error(name, &value.to_string(), &only.to_string())),
            _ => Ok(()),
        }
    }

    /// Refuses every field that is left and not null.
    pub(crate) fn finish(self, expected: &str) -> Result<()> {
        match self.left.iter().find(|(_, value)| !value.is_null()) {
            Some((name, value)) => Err(self.error(name, &value.to_string(), expected)),
            None => Ok(()),
        }
    }

    /// Names of the fields that are left and not null.
    pub(crate) fn unknown(self) -> Vec<String> {
        let left = self.left.into_iter().filter(|(_, value)| !value.is_null());
        left.map(|(name, _)| self.prefix.clone() + &name).collect()
    }

    /// The error about field `name`: `found` is its value as JSON.
    pub(crate) fn error(&self, name: &str, found: &str, expected: &str) -> Error {
        let field = self.prefix.clone() + name;
        Error::Config { path: self.path.clone(), field, found: found.into(), expected: expected.into() }
    }

    fn convert<T>(&mut self, name: &str, expected: &str, f: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        f(&value).map(Some).ok_or_else(|| self.error(name, &value.to_string(), expected))
    }
}
