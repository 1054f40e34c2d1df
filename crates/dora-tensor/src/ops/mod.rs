//! Operations, one folder each: `mod.rs` holds the mathematics, the checks and both passes; `cpu.rs` the body for the
//! processor, `cuda.rs` that for a device. Matrices are row-major: `n` tokens of a batch of documents, one after another, without padding.

mod adamw;
mod attention;
mod cross_entropy;
mod dora;
mod dropout;
mod embedding;
mod index_select;
mod linear;
mod lora;
mod pointwise;
mod residual;
mod rms_norm;
mod rope;
mod swiglu;

pub use adamw::{AdamW, Clip, Figures, Moments, Update, adamw};
pub use attention::{AttentionShape, Documents, QUERY_BLOCK, attention, attention_cached, keeps_attention};
#[cfg(test)]
pub(crate) use cross_entropy::cross_entropy_in_chunks;
pub use cross_entropy::{IGNORE, chunk_rows, cross_entropy, losses_at, token_losses};
pub use dora::{NormGradient, Norms, NormsOf, dora_linear, dora_linear_with, dora_norms, dora_norms_together, merged};
pub use dropout::{Dropout, dropout};
pub use embedding::embedding;
pub use index_select::{RowIds, index_select};
pub use linear::{Matrix, linear};
pub use lora::{LowRank, lora_linear};
pub use pointwise::{Pointwise, pointwise};
pub use residual::residual;
pub(crate) use residual::{add_in_place, difference};
pub use rms_norm::{rms_norm, widest_norm};
pub use rope::{Positions, RopeTable, rope};
pub use swiglu::swiglu;
