//! A matrix in 4 bits on a device, with the very bytes of [`Nf4Weight`](super::Nf4Weight). A product of few rows reads the codes;
//! one of many reads the matrix from memory that all weights widen into in turn.

use super::{Nf4Parts, Nf4Scales, Weight, elsewhere, row_norms_squared_on_device};
use crate::cpu::Stored;
use crate::{Cuda, DType, Device, Result, Tensor};
use dora_kernels::launch::{NF4_PRODUCT_ROWS, Nf4ScalesView, Nf4View, nf4_dequantize, nf4_product};
use dora_kernels::{Buffer, Element};
use std::fmt;

/// A frozen matrix in 4 bits.
pub(super) struct CudaNf4 {
    gpu: Cuda,
    shape: (usize, usize),
    block_size: usize,
    codes: Buffer,
    scales: Scales,
}

enum Scales {
    Plain(Buffer),
    Nested { codes: Buffer, absmax: Buffer, map: Buffer, offset: Buffer },
}

impl CudaNf4 {
    /// A copy on a device.
    pub(super) fn new(gpu: Cuda, parts: &Nf4Parts) -> Result<Self> {
        let bytes = |element, bytes: &[u8]| Buffer::from_bytes(gpu.driver(), element, bytes);
        let floats = |v: &[f32]| bytes(Element::F32, bytemuck::cast_slice(v));
        let scales = match &parts.scales {
            Nf4Scales::Plain(scales) => Scales::Plain(floats(scales)?),
            Nf4Scales::Nested { codes, absmax, offset, map } => Scales::Nested {
                codes: bytes(Element::U8, codes)?,
                absmax: floats(absmax)?,
                map: floats(map)?,
                offset: floats(&[*offset])?,
            },
        };
        let codes = bytes(Element::U8, (*parts.codes).as_ref())?;
        Ok(CudaNf4 { gpu, shape: parts.shape, block_size: parts.block_size, codes, scales })
    }

    fn view(&self) -> Nf4View<'_> {
        let scales = match &self.scales {
            Scales::Plain(scales) => Nf4ScalesView::Plain(scales.view()),
            Scales::Nested { codes, absmax, map, offset } => Nf4ScalesView::Nested {
                codes: codes.view(),
                absmax: absmax.view(),
                map: map.view(),
                offset: offset.view(),
            },
        };
        Nf4View { block_size: self.block_size, codes: self.codes.view(), scales }
    }

    fn widened(&self, dtype: DType) -> Result<Tensor> {
        let mut w = self.gpu.room(dtype, &[self.shape.0, self.shape.1])?;
        nf4_dequantize(&**self.gpu.driver(), &self.view(), w.write(self.gpu, "nf4")?)?;
        Ok(w)
    }
}

impl Weight for CudaNf4 {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn device(&self) -> Device {
        Device::Cuda(self.gpu)
    }

    fn stored(&self) -> Result<&dyn Stored> {
        Err(elsewhere(self.device(), "cpu"))
    }

    fn materialized(&self) -> Result<Tensor> {
        self.widened(self.gpu.activations())
    }

    fn row_norms_squared(&self) -> Result<Tensor> {
        row_norms_squared_on_device(&self.materialized()?)
    }

    fn dense(&self) -> Result<Tensor> {
        self.widened(DType::F32)
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (out, inner) = self.shape;
        let rows = x.rows_of("x", "in", inner)?;
        if rows > NF4_PRODUCT_ROWS {
            return crate::cuda::product(self.gpu, x.plain(), self.materialized()?.transposed(), 1.0, x.dtype());
        }
        let mut y = self.gpu.room(x.dtype(), &[rows, out])?;
        let (x, to) = (x.on(self.gpu, "nf4")?, y.write(self.gpu, "nf4")?);
        nf4_product(&**self.gpu.driver(), x, &self.view(), self.shape, to)?;
        Ok(y)
    }
}

impl fmt::Debug for CudaNf4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (out, inner) = self.shape;
        write!(f, "CudaNf4({out} x {inner}, blocks of {}, {})", self.block_size, self.device())
    }
}
