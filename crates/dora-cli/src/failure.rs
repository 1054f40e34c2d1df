//! Exit codes of errors: 2 where the user's words or files are wrong, 1 where the work failed.

use dora_adapters::Error as Adapters;
use dora_models::Error as Models;
use dora_train::Error as Train;

/// A mistake in the command line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// 2 for bad usage or bad input, else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let bad_input = error.chain().any(|cause| {
        cause.is::<Usage>()
            || cause.downcast_ref::<Models>().is_some_and(in_model)
            || cause.downcast_ref::<Adapters>().is_some_and(in_adapter)
            || cause.downcast_ref::<Train>().is_some_and(in_data)
    });
    if bad_input { 2 } else { 1 }
}

fn in_model(error: &Models) -> bool {
    match error {
        Models::Io { action, .. } => matches!(*action, "read" | "open" | "map"),
        Models::Compute(_) => false,
        _ => true,
    }
}

fn in_adapter(error: &Adapters) -> bool {
    match error {
        Adapters::Model(error) => in_model(error),
        Adapters::Compute(_) | Adapters::NotFinite { .. } => false,
        _ => true,
    }
}

fn in_data(error: &Train) -> bool {
    match error {
        Train::Io { action, .. } => matches!(*action, "read" | "open"),
        Train::Models(error) => in_model(error),
        Train::NotFinite { .. } | Train::Stopped { .. } | Train::Compute(_) => false,
        _ => true,
    }
}
