//! Shared pieces of the CPU bodies: matrix products, loops over rows, vector mathematics.

mod floats;
mod lanes;
mod math;
mod matmul;
mod panels;
mod parallel;
mod pool;

pub use floats::Floats;
pub use lanes::{Dots, Finish, Scale, Term, gather, sum_of_products, through};
#[cfg(target_arch = "x86_64")]
pub use lanes::{KeyHead, Queries};
pub(crate) use math::dot;
pub use math::{exp, simd, softmax_in_place};
pub use matmul::{matmul, product};
pub use panels::{
    Panel, Stored, Widen, for_column_panels, for_row_panels, for_rows, matmul_stored_nn, matmul_stored_nt, panel_room,
    scale_each_row, widen_rectangle,
};
pub use parallel::{add_assign, column_sums, for_row_blocks, map_blocks, scratch};
pub use pool::{buffer, recycle, release_buffers, zeros};
