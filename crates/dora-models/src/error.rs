//! What can go wrong with models, checkpoints and tokenizers. Every message is one sentence that names the file, tensor or
//! field, what was found and what was expected.

use std::path::{Path, PathBuf};

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// The verb: "read", "write", "create", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that should hold JSON of a known form does not.
    #[error("{path}:{line}:{column}: {found}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 where the position is unknown.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser found.
        found: String,
    },
    /// A field of `config.json` or `generation_config.json` is missing, wrong, or asks for what is not supported.
    #[error("{path}: {field} is {found}, expected {expected}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field, with its parents: `rope_parameters.factor`.
        field: String,
        /// Its value, as JSON, or "missing".
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A checkpoint's file or index is damaged, incomplete, or in the way.
    #[error("{path}: {problem}", path = path.display())]
    Checkpoint {
        /// The safetensors file, the index or the folder.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// One tensor of a checkpoint is missing or not what it must be.
    #[error("{path}: tensor {tensor}: found {found}, expected {expected}", path = path.display())]
    Tensor {
        /// The file that holds it, or should.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// `tokenizer.json` cannot be used, or the tokenizer failed on an input.
    #[error("{path}: {problem}", path = path.display())]
    Tokenizer {
        /// The file the tokenizer came from.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// An operation refused its operands.
    #[error(transparent)]
    Compute(#[from] dora_tensor::Error),
}

impl Error {
    /// Wraps an error of the operating system; for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Wraps an error of the JSON parser; for `map_err`.
    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        move |e| {
            let text = e.to_string();
            let found = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
            Self::Json { path: path.to_owned(), line: e.line(), column: e.column(), found }
        }
    }
}
