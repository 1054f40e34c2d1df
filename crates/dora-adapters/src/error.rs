//! What can go wrong with an adapter. Every message is one sentence that names the file, setting or module, what was found
//! and what was expected.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An adapter's settings, targets or files that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that can't be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },

    /// Any of the other errors, found in a file.
    #[error("{}: {error}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong there.
        error: Box<Error>,
    },

    /// A setting outside of what is supported.
    #[error("`{setting}` is {found}, expected {expected}")]
    Setting {
        /// The setting, under PEFT's name.
        setting: String,
        /// Its value as JSON, or `missing`.
        found: String,
        /// What would be right.
        expected: String,
    },

    /// A pattern that is no regular expression here.
    #[error("`{setting}` holds the pattern {pattern:?}, which is not a regular expression here: {reason}")]
    Pattern {
        /// The setting that holds it.
        setting: &'static str,
        /// The pattern.
        pattern: String,
        /// What the parser says.
        reason: String,
    },

    /// An entry of `target_modules` that names nothing.
    #[error("target module `{entry}` matches no linear layer; nearest: {}", nearest.join(", "))]
    NoSuchTarget {
        /// The entry.
        entry: String,
        /// Names in the model that are spelled most alike.
        nearest: Vec<String>,
    },

    /// An entry of `target_modules` all of whose layers other settings take away.
    #[error("target module `{entry}` matches only layers that `exclude_modules` or `layers_to_transform` leave out")]
    LeftOut {
        /// The entry.
        entry: String,
    },

    /// Settings that leave nothing to adapt.
    #[error("`target_modules` {targets}{filters} matches no linear layer; the model has {}", names.join(", "))]
    NothingTargeted {
        /// The targets as JSON.
        targets: String,
        /// The other settings that took part, or nothing.
        filters: &'static str,
        /// Last components of the model's linear layers.
        names: Vec<String>,
    },

    /// A module that takes no adapter here.
    #[error("`target_modules` matches `{path}`, {what}; expected linear layers of the decoder's blocks only")]
    Unadaptable {
        /// The module.
        path: String,
        /// Why not, as a clause.
        what: &'static str,
    },

    /// An entry of another setting that has no effect on this model.
    #[error("`{setting}` holds {entry}, which matches no {of}")]
    NoEffect {
        /// The setting.
        setting: &'static str,
        /// The entry as JSON.
        entry: String,
        /// What it should have matched.
        of: &'static str,
    },

    /// A tensor of an adapter's file that is missing, unexpected, or not what the settings and the base model ask for.
    #[error("{}: tensor {tensor}: found {found}, expected {expected}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },

    /// A layer whose weight is itself trained.
    #[error("`{path}` is trained itself, expected a frozen layer to adapt")]
    NotFrozen {
        /// The layer.
        path: String,
    },

    /// A base that is in 4 bits, where its stored weights were asked for.
    #[error("{}: {tensor} is in 4 bits, expected 16-bit or 32-bit weights to merge into", path.display())]
    Quantized {
        /// The checkpoint.
        path: PathBuf,
        /// A tensor of it.
        tensor: String,
    },

    /// A fine-tuned model in 4 bits, where trained weights were asked for.
    #[error("{}: {tensor} is in 4 bits, expected 16-bit or 32-bit weights that were trained", path.display())]
    TunedQuantized {
        /// The checkpoint.
        path: PathBuf,
        /// A tensor of it.
        tensor: String,
    },

    /// A merged weight that its type cannot hold.
    #[error("merged weight `{path}` has elements that are not finite in {dtype}, the base model's type")]
    NotFinite {
        /// The layer.
        path: String,
        /// The type.
        dtype: dora_tensor::DType,
    },

    /// A model's file.
    #[error(transparent)]
    Model(#[from] dora_models::Error),

    /// An operation refused its operands.
    #[error(transparent)]
    Compute(#[from] dora_tensor::Error),
}
