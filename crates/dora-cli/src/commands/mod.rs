//! One file per command.

pub mod analyze;
pub mod compare;
pub mod eval;
pub mod generate;
pub mod merge;
pub mod params;
pub mod plan;
pub mod quantize;
pub mod quickstart;
pub mod report;
pub mod sweep;
pub mod train;
