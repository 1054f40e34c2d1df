//! Decoder language models: configuration, checkpoints, tokenizers, forward passes. Knows no adapters.

pub mod shape;
