//! What the golden tests share: reading a case of `golden/`, running a model over its documents, and comparing.

mod case;
mod compare;
mod edit;
mod run;

pub use case::{Batch, Case, PEFT_PREFIX};
pub use compare::{assert_close, assert_same, relative_error};
pub use edit::edited_adapter;
pub use run::{Run, gradients, load, load_frozen, logits, run};
