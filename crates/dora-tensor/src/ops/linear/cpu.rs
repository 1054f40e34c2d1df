//! Pieces of linear layers on the CPU.

use crate::cpu::{buffer, column_sums, for_rows, matmul, simd};
use crate::{Result, Tensor};
use ndarray::ArrayViewMut2;

/// Every row of y plus b, where there is one.
pub(crate) fn add_bias(y: ArrayViewMut2<f32>, bias: Option<&[f32]>) {
    let Some(bias) = bias else { return };
    for_rows(y, |_, row| simd(|| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b)));
}

/// A tensor's elements as a matrix to write to; copied first where another tensor shares them.
pub(crate) fn matrix(x: &mut Tensor) -> ArrayViewMut2<'_, f32> {
    let shape = (x.shape()[0], x.shape()[1]);
    view(x.make_mut(), shape)
}

/// scale · dyᵀ·x: (out, in) from (n, out) and (n, in).
pub(crate) fn outer(dy: &Tensor, x: &Tensor, scale: f32) -> Result<Tensor> {
    product(dy.view2("linear", "dy")?.t(), x.view2("linear", "x")?, scale)
}

/// scale · a·b as a new tensor.
pub(crate) fn product(a: ndarray::ArrayView2<f32>, b: ndarray::ArrayView2<f32>, scale: f32) -> Result<Tensor> {
    let shape = (a.nrows(), b.ncols());
    let mut out = buffer(shape.0 * shape.1);
    matmul(a, b, view(&mut out, shape), scale, 0.0);
    Ok(Tensor::of(out, &[shape.0, shape.1]))
}

/// c += scale · a·b.
pub(crate) fn accumulate(
    a: ndarray::ArrayView2<f32>,
    b: ndarray::ArrayView2<f32>,
    c: &mut Tensor,
    scale: f32,
) -> Result<()> {
    let shape = (a.nrows(), b.ncols());
    c.expect_shape("linear", "c", &[shape.0, shape.1])?;
    matmul(a, b, view(c.make_mut(), shape), scale, 1.0);
    Ok(())
}

/// A slice as a matrix.
pub(crate) fn view(out: &mut [f32], shape: (usize, usize)) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape(shape, out).expect("sized by the caller")
}

pub(crate) fn row_sum(dy: &Tensor) -> Result<Tensor> {
    let (n, width) = dy.dims2("linear", "dy")?;
    let dy = dy.as_f32("linear")?;
    let sums = column_sums(n, width, |row, sums| {
        sums.iter_mut().zip(&dy[row * width..]).for_each(|(s, d)| *s += d);
    });
    Ok(Tensor::of(sums, &[width]))
}
