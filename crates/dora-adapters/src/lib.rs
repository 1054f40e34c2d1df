//! dora-adapters: to be described.

pub mod config;
pub mod config_file;
pub mod count;
pub mod error;
pub mod pattern;
pub mod targets;
