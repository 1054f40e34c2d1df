//! LoRA and DoRA over the frozen linear layers of any model, in PEFT's file format and by PEFT's rules.
//!
//! * [`config`]: the settings, and [`config_file`] their `adapter_config.json`; [`pattern`]: its regular expressions.
//! * [`targets`]: which layers a model's adapter is on; [`count`]: how many parameters that trains.
//! * [`memory`], [`flops`]: the peak memory of a training run, predicted, and the operations of a step, counted.
//! * [`factors`]: the adapter's tensors and their file.
//! * [`Adapter`]: the adapter on a model, ready to train.
//! * [`merge()`]: the adapter in the base model's weights.
//! * [`analysis`]: how far training moved each layer's magnitudes and directions.
//!
//! No architecture is named here, and nothing trains. A method is one file ([`lora`](Adapter), `dora`) beside the tensor
//! operation that it calls.

pub mod analysis;
pub mod config;
pub mod config_file;
pub mod count;
mod dora;
pub mod error;
pub mod factors;
pub mod flops;
mod inject;
mod lora;
pub mod memory;
mod merge;
pub mod pattern;
pub mod targets;

pub use error::{Error, Result};
pub use inject::Adapter;
pub use merge::{MergeBase, merge};
