//! What can go wrong with data and training. Every message is one sentence that names the file, line and column, what was
//! found and what was expected.

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
    /// A data file is not JSON of a known layout, or not UTF-8.
    #[error("{path}:{line}:{column}: {found}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
        /// What was found there and what was expected.
        found: String,
    },
    /// A record is well-formed JSON but no row to train on.
    #[error("{path}:{line}: {problem}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Line on which the record starts, from 1.
        line: usize,
        /// What was found and what was expected.
        problem: String,
    },
    /// The data files as a whole give nothing to train on.
    #[error("{}: {problem}", join(paths))]
    Data {
        /// The files.
        paths: Vec<PathBuf>,
        /// What was found and what was expected.
        problem: String,
    },
    /// A figure that training cannot go on with.
    #[error("{what} is {value}, expected a finite number")]
    NotFinite {
        /// Which.
        what: &'static str,
        /// NaN or an infinity.
        value: f64,
    },
    /// Training stopped before a step.
    #[error("training stopped before step {step}, which changed nothing: {error} (a lower learning rate may help)")]
    Stopped {
        /// The step, from 1.
        step: usize,
        /// Why.
        error: Box<Error>,
    },
    /// The tokenizer failed.
    #[error(transparent)]
    Models(#[from] dora_models::Error),
    /// An operation refused its operands.
    #[error(transparent)]
    Compute(#[from] dora_tensor::Error),
}

impl Error {
    /// Wraps an error of the operating system; for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Whether a loss or gradient that is not finite is the cause: the same run would stop there again.
    pub fn is_not_finite(&self) -> bool {
        match self {
            Self::NotFinite { .. } => true,
            Self::Stopped { error, .. } => error.is_not_finite(),
            _ => false,
        }
    }

    /// Says before which step training stopped.
    pub(crate) fn at(self, step: usize) -> Self {
        Self::Stopped { step, error: Box::new(self) }
    }
}

fn join(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
