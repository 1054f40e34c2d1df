//! Training: data, packing, optimizers, schedules, the step loop. Sees trainable parameters and a loss; knows neither
//! adapters nor architectures.

pub mod answers;
pub mod data;
pub mod error;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod row_losses;
pub mod run;
pub mod schedule;

pub use error::{Error, Result};
