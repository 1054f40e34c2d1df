//! Decoder language models: configuration, checkpoints, tokenizers, forward passes. Knows no adapters.

pub mod config;
pub mod error;
mod json;
pub mod shape;
pub mod tokenizer;

pub use error::{Error, Result};
