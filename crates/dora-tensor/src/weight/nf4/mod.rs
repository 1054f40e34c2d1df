//! A frozen matrix in 4 bits (NF4; Dettmers et al., 2023), in bitsandbytes' format to the byte. The row-major elements are cut
//! into blocks of 64 (or another size); each is one of 16 code values times its block's scale, the largest |element| of the
//! block. With double quantisation the scales, less their mean, are in 8 bits themselves ([`Nf4Scales`]).
//!
//! Products widen a panel that fits a core's cache at a time, and multiply there: no dense matrix ever exists.

mod codec;
mod scales;
#[cfg(test)]
mod tests;

pub use codec::QUANT_MAP;
pub use scales::{Nf4Scales, nested_quant_map};

use super::cuda_nf4::CudaNf4;
use super::{Weight, elsewhere};
use crate::cpu::{self, Stored, map_blocks};
use crate::profile;
use crate::{Device, Error, Result, SharedBytes, Tensor};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// How a matrix is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nf4Options {
    /// Elements that share a scale: 64, 128, 256, 512, 1024, 2048 or 4096.
    pub block_size: usize,
    /// Whether the scales are in 8 bits.
    pub double_quant: bool,
}

impl Default for Nf4Options {
    /// As bitsandbytes and QLoRA have it.
    fn default() -> Self {
        Nf4Options { block_size: 64, double_quant: true }
    }
}

/// What a quantised matrix (out, in) consists of, as bitsandbytes stores it.
#[derive(Clone)]
pub struct Nf4Parts {
    /// (out, in).
    pub shape: (usize, usize),
    /// Elements of a block.
    pub block_size: usize,
    /// Two elements a byte, the first in the high half: ⌈out·in/2⌉ bytes.
    pub codes: SharedBytes,
    /// A scale for each block.
    pub scales: Nf4Scales,
}

/// A frozen matrix in 4 bits.
pub struct Nf4Weight(Nf4Parts);

impl Nf4Weight {
    /// Quantises a matrix (out, in), which must be finite.
    pub fn quantize(matrix: &Tensor, options: Nf4Options) -> Result<Self> {
        let shape = matrix.dims2("nf4", "matrix")?;
        check_block_size(options.block_size)?;
        let (codes, absmax) = codec::quantize(matrix.elements(), options.block_size)?;
        let scales = if options.double_quant { Nf4Scales::nested(&absmax) } else { Nf4Scales::Plain(absmax) };
        Ok(Nf4Weight(Nf4Parts { shape, block_size: options.block_size, codes: Arc::new(codes), scales }))
    }

    /// A matrix quantised before.
    pub fn from_parts(parts: Nf4Parts) -> Result<Self> {
        check_block_size(parts.block_size)?;
        let n = parts.shape.0 * parts.shape.1;
        let (bytes, blocks) = ((*parts.codes).as_ref().len(), parts.scales.len());
        if bytes != n.div_ceil(2) || blocks != n.div_ceil(parts.block_size) {
            let (out, inner) = parts.shape;
            let (codes, scales) = (n.div_ceil(2), n.div_ceil(parts.block_size));
            let found =
                format!("{bytes} bytes and {blocks} scales for ({out}, {inner}), expected {codes} and {scales}");
            return Err(Error::argument("nf4", found));
        }
        Ok(Nf4Weight(parts))
    }

    /// The weight on a device, with the same bytes.
    pub fn on(self, device: Device) -> Result<Arc<dyn Weight>> {
        match device {
            Device::Cpu => Ok(Arc::new(self)),
            Device::Cuda(gpu) => Ok(Arc::new(CudaNf4::new(gpu, &self.0)?)),
        }
    }

    /// What it consists of.
    pub fn parts(&self) -> &Nf4Parts {
        &self.0
    }

    /// Elements `start..start + out.len()` of the row-major matrix.
    fn decode(&self, start: usize, out: &mut [f32]) {
        let Nf4Parts { block_size, codes, scales, .. } = &self.0;
        let codes = (**codes).as_ref();
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let block = at / block_size;
            let (part, tail) = rest.split_at_mut(((block + 1) * block_size - at).min(rest.len()));
            codec::decode(codes, at, scales.get(block), part);
            at += part.len();
            rest = tail;
        }
    }
}

impl Stored for Nf4Weight {
    fn dim(&self) -> (usize, usize) {
        self.0.shape
    }

    fn widen_into(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        let inner = self.0.shape.1;
        profile::bytes(rows.len() * columns.len() / 2);
        if columns.len() == inner {
            return self.decode(rows.start * inner, &mut out[..rows.len() * inner]);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(columns.len().max(1))) {
            self.decode(row * inner + columns.start, out);
        }
    }

    fn in_place(&self) -> Option<&[f32]> {
        None
    }
}

impl Weight for Nf4Weight {
    fn shape(&self) -> (usize, usize) {
        self.0.shape
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn stored(&self) -> Result<&dyn Stored> {
        Ok(self)
    }

    fn materialized(&self) -> Result<Tensor> {
        Err(elsewhere(Device::Cpu, "a device"))
    }

    fn row_norms_squared(&self) -> Result<Tensor> {
        let (out, inner) = self.0.shape;
        let norms = map_blocks(out, inner, |rows| {
            cpu::scratch(inner, |row| {
                let mut norm = |r: usize| {
                    self.decode(r * inner, row);
                    row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() as f32
                };
                rows.map(&mut norm).collect::<Vec<_>>()
            })
        });
        Ok(Tensor::of(norms.concat(), &[out]))
    }

    fn dense(&self) -> Result<Tensor> {
        let (out, inner) = self.0.shape;
        let mut w = vec![0.0; out * inner];
        cpu::for_row_blocks(&mut w, inner, |first, rows| self.decode(first * inner, rows));
        Ok(Tensor::of(w, &[out, inner]))
    }
}

impl fmt::Debug for Nf4Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Nf4Parts { shape, block_size, .. } = &self.0;
        write!(f, "Nf4Weight({} x {}, blocks of {block_size})", shape.0, shape.1)
    }
}

fn check_block_size(size: usize) -> Result<()> {
    match size {
        64 | 128 | 256 | 512 | 1024 | 2048 | 4096 => Ok(()),
        _ => Err(Error::argument("nf4", format!("block size {size}, expected 64, 128, 256, 512, 1024, 2048 or 4096"))),
    }
}
