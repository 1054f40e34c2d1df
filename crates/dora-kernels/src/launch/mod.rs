//! One typed function per kernel: it checks shapes, types and alignment, chooses the grid, and queues the call. Rows are read
//! sixteen bytes at a time where all of them are aligned, and element by element where not, by the same rule as in the kernels.

mod cross_entropy;
mod dora;
mod dora_norms;
mod nf4;
mod rms_norm;

pub use cross_entropy::{cross_entropy, cross_entropy_losses};
pub use dora::{DoraBackward, DoraColumns, DoraCompose, DoraComposeDropout, DoraVanished};
pub use dora::{dora_backward, dora_compose, dora_compose_dropout, dora_magnitude, dora_strips, dora_vanished};
pub use dora_norms::{DoraNorms, dora_merge, dora_norms, dora_row_norms_squared};
pub use nf4::{NF4_PRODUCT_ROWS, Nf4ScalesView, Nf4View};
pub use nf4::{nf4_dequantize, nf4_nest, nf4_offset, nf4_product, nf4_quantize};
pub use rms_norm::{Backward as RmsNormBackward, Forward as RmsNorm};
pub use rms_norm::{rms_norm_backward, rms_norm_backward_weight, rms_norm_forward};

use crate::kernel::Kernel;

/// Every kernel.
pub const KERNELS: &[&Kernel] = &[
    &cross_entropy::WITH_GRADIENT,
    &cross_entropy::LOSSES,
    &dora::COMPOSE,
    &dora::COMPOSE_DROPOUT,
    &dora::BACKWARD,
    &dora::MAGNITUDE,
    &dora::VANISHED,
    &dora_norms::ROW_NORMS_SQUARED,
    &dora_norms::NORMS,
    &dora_norms::MERGE,
    &nf4::QUANTIZE,
    &nf4::OFFSET,
    &nf4::NEST,
    &nf4::DEQUANTIZE,
    &nf4::PRODUCT_8,
    &nf4::PRODUCT_16,
    &nf4::PRODUCT_F32,
    &rms_norm::FORWARD,
    &rms_norm::BACKWARD,
    &rms_norm::BACKWARD_WEIGHT,
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
