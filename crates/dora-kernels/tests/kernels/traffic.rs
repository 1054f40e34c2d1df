//! What the simple kernels move and compute for each element, against the least that their formulas need.

use std::sync::Arc;

use dora_kernels::Element::{BF16, F32, F64, U32};
use dora_kernels::launch::{
    Angles, RmsNorm, RmsNormBackward, RowsById, adamw, add, add_row, cast, column_parts, dropout, embedding,
    embedding_backward, parts_of_rows, parts_of_squares, rms_norm_backward, rms_norm_backward_weight, rms_norm_forward,
    rope, scale, scatter_rows, sum_of_squares, swiglu_backward, swiglu_forward,
};
use dora_kernels::{Driver, Element};

use crate::support::{Input, device, room, traffic};

const ROWS: usize = 64;
const COLUMNS: usize = 256;
const N: usize = ROWS * COLUMNS;

#[test]
fn of_rows_is_the_least() {
    let host = device(1);
    let device: Arc<dyn Driver> = host.clone();
    let d = device.as_ref();
    let [x, z, dy] = [1, 2, 3].map(|stream| Input::random(BF16, stream, N).on(&device));
    let (mut y, mut h) = (room(&device, BF16, N), room(&device, BF16, N));
    let (w, mut rstd) = (Input::random(F32, 4, COLUMNS).on(&device), room(&device, F32, ROWS));
    let residual = Some((z.view(), h.view_mut()));
    rms_norm_forward(
        d,
        RmsNorm { x: x.view(), residual, w: w.view(), y: y.view_mut(), rstd: rstd.view_mut(), eps: 1e-5 },
    )
    .unwrap();
    traffic(&host, "rms_norm_forward_bf16", N, 8.0, 1.1);
    let skip = Some(z.view());
    let (w_, rstd_) = (w.view(), rstd.view());
    rms_norm_backward(
        d,
        RmsNormBackward { h: x.view(), w: w_, rstd: rstd_, dy: Some(dy.view()), skip, dx: y.view_mut() },
    )
    .unwrap();
    traffic(&host, "rms_norm_backward_bf16", N, 8.0, 1.1);
    let mut parts = room(&device, F32, parts_of_rows(ROWS) * COLUMNS);
    rms_norm_backward_weight(d, x.view(), rstd.view(), dy.view(), parts.view_mut()).unwrap();
    traffic(&host, "rms_norm_backward_weight_bf16", N, 4.0, 1.1);
    column_parts(d, x.view(), ROWS, parts.view_mut()).unwrap();
    traffic(&host, "column_parts_bf16", N, 2.0, 1.1);
    add_row(d, Some(x.view()), w.view(), y.view_mut()).unwrap();
    traffic(&host, "add_row_bf16", N, 4.0, 1.1);

    let list = |ids: &[u32]| Input::new(U32, &ids.iter().map(|id| f64::from(*id)).collect::<Vec<_>>()).on(&device);
    let ids: Vec<u32> = (0..ROWS as u32).map(|t| t * 7 % ROWS as u32).collect();
    let ids_ = list(&ids);
    let table = Input::random(F32, 5, ROWS * 32).on(&device);
    let angles = Angles { cosines: table.view(), sines: table.view(), half: 32 };
    rope(d, Some(x.view()), ids_.view(), angles, 1.0, y.view_mut()).unwrap();
    traffic(&host, "rope_bf16", N, 4.0, 1.1);
    embedding(d, ids_.view(), x.view(), ROWS, y.view_mut()).unwrap();
    traffic(&host, "embedding_from_bf16_bf16", N, 4.0, 1.1);
    scatter_rows(d, ids_.view(), x.view(), ROWS, y.view_mut()).unwrap();
    traffic(&host, "scatter_rows_bf16", N, 4.0, 1.1);
    // Every row of the table once: its f32 are read and written.
    let rows = RowsById::new(&device, &ids).unwrap();
    let mut dtable = Input::random(F32, 6, N).on(&device);
    embedding_backward(d, &rows, dy.view(), ROWS, dtable.view_mut()).unwrap();
    traffic(&host, "embedding_backward_bf16", N, 10.0, 1.1);
}

#[test]
fn of_flat_arrays_is_the_least() {
    let host = device(1);
    let device: Arc<dyn Driver> = host.clone();
    let d = device.as_ref();
    let random = |element: Element, stream| Input::random(element, stream, N).on(&device);
    let (a, b, mut y, mut z) = (random(BF16, 1), random(BF16, 2), random(BF16, 3), random(BF16, 4));
    add(d, Some(a.view()), b.view(), y.view_mut()).unwrap();
    traffic(&host, "add_bf16", N, 6.0, 1.1);
    scale(d, Some(a.view()), 0.5, y.view_mut()).unwrap();
    traffic(&host, "scale_bf16", N, 4.0, 1.1);
    swiglu_forward(d, a.view(), b.view(), y.view_mut()).unwrap();
    traffic(&host, "swiglu_forward_bf16", N, 6.0, 1.1);
    swiglu_backward(d, a.view(), b.view(), z.view_mut(), y.view_mut()).unwrap();
    traffic(&host, "swiglu_backward_bf16", N, 10.0, 1.1);
    let address = Input::new(U32, &[1.0, 2.0, 3.0, 4.0]).on(&device);
    dropout(d, Some(a.view()), 0.1, address.view(), 5, y.view_mut()).unwrap();
    traffic(&host, "dropout_bf16", N, 4.0, 1.1);
    let [mut p, g, mut u, mut v] = [5, 6, 7, 8].map(|stream| random(F32, stream));
    cast(d, p.view(), y.view_mut()).unwrap();
    traffic(&host, "cast_from_f32_bf16", N, 6.0, 1.1);
    let mut parts = room(&device, F64, parts_of_squares(N));
    sum_of_squares(d, g.view(), parts.view_mut()).unwrap();
    traffic(&host, "sum_of_squares_f32", N, 4.0, 1.1);
    let (settings, clip) = (Input::random(F32, 9, 6).on(&device), Input::random(F32, 10, 2).on(&device));
    adamw(d, p.view_mut(), g.view(), [u.view_mut(), v.view_mut()], settings.view(), clip.view()).unwrap();
    traffic(&host, "adamw_f32", N, 28.0, 1.1);
}
