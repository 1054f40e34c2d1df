//! One typed function per kernel: it checks shapes, types and alignment, chooses the grid, and queues the call. Rows are read
//! sixteen bytes at a time where all of them are aligned, and element by element where not, by the same rule as in the kernels.

mod adamw;
mod attention;
mod cast;
mod cross_entropy;
mod dora;
mod dora_norms;
mod dropout;
mod embedding;
mod low_rank;
mod nf4;
mod pointwise;
mod reduce;
mod rms_norm;
mod rope;
mod swiglu;

pub use adamw::{Gradients, Slot, Slots, adamw, sum_of_squares};
pub use attention::{AttentionDocument, AttentionGradients, AttentionHeads, AttentionInputs, AttentionTiles};
pub use attention::{attention_backward, attention_forward, attention_generate, attention_splits};
pub use cast::cast;
pub use cross_entropy::{cross_entropy, cross_entropy_losses};
pub use dora::{DoraBackward, DoraColumns, DoraComposeDropout, DoraMagnitude, DoraOutput, DoraProjection};
pub use dora::{dora_backward, dora_backward_projects, dora_compose_dropout, dora_magnitude, dora_strips};
pub use dora_norms::{DoraLayers, DoraNorms, dora_gram, dora_merge, dora_norms, dora_row_norms_squared};
pub use dropout::dropout;
pub use embedding::{RowsById, embedding, embedding_backward, scatter_rows};
pub use low_rank::{LowRankBase, LowRankCompose, LowRankFactor, LowRankProject};
pub use low_rank::{low_rank_compose, low_rank_project};
pub use nf4::{NF4_PRODUCT_ROWS, Nf4ScalesView, Nf4View};
pub use nf4::{nf4_dequantize, nf4_nest, nf4_offset, nf4_product, nf4_quantize};
pub use pointwise::{add, add_row, mul, scale, sub};
pub use reduce::{clip, column_parts, column_sum};
pub use rms_norm::{Backward as RmsNormBackward, Forward as RmsNorm};
pub use rms_norm::{RMS_NORM_COLUMNS, rms_norm_backward, rms_norm_backward_weight, rms_norm_forward};
pub use rope::{Angles, rope};
pub use swiglu::{swiglu_backward, swiglu_forward};

use crate::Shape;
use crate::kernel::Kernel;

/// Blocks that fill a card: two for each multiprocessor of a large one.
const CARD: usize = 256;

/// Every kernel.
pub const KERNELS: &[&Kernel] = &[
    &adamw::SUM_OF_SQUARES,
    &adamw::ADAMW,
    &attention::kernels::FORWARD[0],
    &attention::kernels::FORWARD[1],
    &attention::kernels::FORWARD[2],
    &attention::kernels::FORWARD[3],
    &attention::kernels::COMBINE,
    &attention::kernels::DELTA,
    &attention::kernels::DQ[0],
    &attention::kernels::DQ[1],
    &attention::kernels::DQ[2],
    &attention::kernels::DQ[3],
    &attention::kernels::DKV[0],
    &attention::kernels::DKV[1],
    &attention::kernels::DKV[2],
    &attention::kernels::DKV[3],
    &attention::kernels::FORWARD_F32,
    &attention::kernels::DQ_F32,
    &attention::kernels::DKV_F32,
    &cast::FROM_F32,
    &cast::FROM_BF16,
    &cast::FROM_F16,
    &cross_entropy::WITH_GRADIENT,
    &cross_entropy::LOSSES,
    &dora::COMPOSE_DROPOUT,
    &dora::BACKWARD,
    &dora::MAGNITUDE,
    &dora_norms::ROW_NORMS_SQUARED,
    &dora_norms::GRAM,
    &dora_norms::NORMS,
    &dora_norms::MERGE,
    &dropout::DROPOUT,
    &embedding::FROM_F32,
    &embedding::FROM_BF16,
    &embedding::FROM_F16,
    &embedding::BACKWARD,
    &embedding::SCATTER_ROWS,
    &low_rank::PROJECT,
    &low_rank::COMPOSE,
    &nf4::QUANTIZE,
    &nf4::OFFSET,
    &nf4::NEST,
    &nf4::DEQUANTIZE,
    &nf4::PRODUCT_8,
    &nf4::PRODUCT_16,
    &nf4::PRODUCT_F32,
    &pointwise::ADD,
    &pointwise::SUB,
    &pointwise::MUL,
    &pointwise::SCALE,
    &pointwise::ADD_ROW,
    &reduce::CLIP,
    &reduce::COLUMN_PARTS,
    &reduce::COLUMN_SUM,
    &rms_norm::FORWARD,
    &rms_norm::BACKWARD,
    &rms_norm::BACKWARD_WEIGHT,
    &rope::ROPE,
    &swiglu::FORWARD,
    &swiglu::BACKWARD,
];

/// How a row is read: `width` elements at a time.
struct Columns {
    columns: usize,
    width: usize,
}

impl Columns {
    /// Rows of `columns` elements of `element` bytes.
    fn new(columns: usize, element: usize) -> Self {
        let wide = 16 / element;
        Columns { columns, width: if columns.is_multiple_of(wide) { wide } else { 1 } }
    }

    /// Reads of a row.
    fn groups(&self) -> u32 {
        (self.columns / self.width) as u32
    }

    /// Threads for a block that works on one row: whole warps, at most 256.
    fn threads_of_row(&self) -> u32 {
        self.groups().next_multiple_of(32).clamp(32, 256)
    }
}

/// Into how many parts a sum over rows is cut; each part is added by one thread a column, and the parts afterwards. The number
/// depends on the rows alone, so results do not depend on the device.
pub fn parts_of_rows(rows: usize) -> usize {
    rows.div_ceil(32).min(64)
}

/// A thread for every sixteen bytes of n elements of `element` bytes; beyond 2^21 threads each takes several steps.
fn flat_shape(n: usize, element: usize) -> Shape {
    let threads = 256;
    let blocks = n.div_ceil(16 / element).div_ceil(threads).min(8192);
    Shape { grid: [blocks as u32, 1, 1], threads: threads as u32, shared: 0 }
}
