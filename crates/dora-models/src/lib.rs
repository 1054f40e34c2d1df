//! Decoder language models.
//!
//! * [`config`], [`shape`]: what a model consists of, from `config.json`.
//! * [`checkpoint`]: its tensors, mapped from safetensors files, and files that appear whole or not at all.
//! * [`tokenizer`]: text to token ids and back.
//! * [`linear`]: a linear layer, and the seam where something else takes its place.
//! * [`model`]: what every model can do, and which architectures there are; [`llama`] is one.
//! * [`nf4`]: 4-bit weights in a checkpoint, as bitsandbytes stores them.
//! * [`published`]: shapes of published models, for plans and measurements.
//! * [`generate`]: text from a model.
//! * [`json`]: JSON objects read strictly.
//!
//! There are no adapters here, and nothing trains.

pub mod checkpoint;
pub mod config;
pub mod error;
pub mod generate;
pub mod json;
pub mod linear;
pub mod llama;
pub mod model;
pub mod nf4;
pub mod published;
pub mod shape;
pub mod tokenizer;

pub use error::{Error, Result};
