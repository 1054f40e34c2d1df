//! What has to be the same to the bit: codes and scales of NF4, the values that they stand for, dropout's mask, casts.

use anyhow::{Result, ensure};
use dora_kernels::launch::{Nf4ScalesView, Nf4View, cast, nf4_dequantize, nf4_nest, nf4_offset, nf4_quantize};
use dora_kernels::{Buffer, Element};
use dora_tensor::ops::{Dropout, dropout};
use dora_tensor::rng::Stream;
use dora_tensor::{DType, Device, Nf4Options, Nf4Scales, Nf4Weight, Tensor, Weight, nested_quant_map};

use super::Suite;

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];
const BLOCK: usize = 64;

pub(super) fn run(suite: &mut Suite) -> Result<()> {
    masks(suite)?;
    if suite.gpu.activations() == DType::BF16 {
        return Ok(()); // the rest knows no activations
    }
    for from in DTYPES {
        quantizing(suite, from)?;
        for to in DTYPES.into_iter().filter(|to| *to != from) {
            casting(suite, from, to)?;
        }
    }
    Ok(())
}

/// Share of bytes that differ.
fn differing(found: &[u8], expected: &[u8]) -> f64 {
    if found.len() != expected.len() {
        return 1.0;
    }
    found.iter().zip(expected).filter(|(a, b)| a != b).count() as f64 / expected.len().max(1) as f64
}

fn bytes(buffer: &Buffer) -> Result<Vec<u8>> {
    let mut bytes = vec![0; buffer.len() * buffer.element().size()];
    buffer.download(&mut bytes)?;
    Ok(bytes)
}

fn raw(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|x| x.to_ne_bytes()).collect()
}

/// Odd numbers of elements, so that the last block is a part of one.
fn matrix(suite: &Suite, dtype: DType) -> Tensor {
    suite.normal(7, &[suite.size.rows, suite.size.width + 3]).to_dtype(dtype)
}

/// Codes and nested scales of the kernels are those of the processor's codec; so is what both read back.
fn quantizing(suite: &mut Suite, dtype: DType) -> Result<()> {
    let (matrix, driver) = (matrix(suite, dtype), suite.driver.clone());
    let (n, blocks) = (matrix.numel(), matrix.numel().div_ceil(BLOCK));
    let weight = Nf4Weight::quantize(&matrix, Nf4Options { block_size: BLOCK, double_quant: true })?;
    let parts = weight.parts();
    let Nf4Scales::Nested { codes: scale_codes, absmax, offset, .. } = &parts.scales else {
        anyhow::bail!("scales that were to be nested are not");
    };
    let room = |element, len| Buffer::new(&driver, element, len);
    let x = Buffer::from_bytes(&driver, dtype.into(), &matrix.to_bytes())?;
    let (mut codes, mut scales) = (room(Element::U8, n.div_ceil(2))?, room(Element::F32, blocks)?);
    nf4_quantize(&*driver, x.view(), BLOCK, codes.view_mut(), scales.view_mut())?;
    let map = Buffer::from_bytes(&driver, Element::F32, &raw(nested_quant_map()))?;
    let (mut nested, mut largest) = (room(Element::U8, blocks)?, room(Element::F32, blocks.div_ceil(256))?);
    let mut mean = room(Element::F32, 1)?;
    nf4_offset(&*driver, scales.view(), mean.view_mut())?;
    nf4_nest(&*driver, scales.view(), map.view(), mean.view(), nested.view_mut(), largest.view_mut())?;
    let found = [&codes, &mean, &nested, &largest].map(bytes);
    let expected = [(*parts.codes).as_ref().to_vec(), raw(&[*offset]), scale_codes.clone(), raw(absmax)];
    let names = ["codes", "offset of scales", "codes of scales", "largest scales"];
    for ((name, found), expected) in names.iter().zip(found).zip(&expected) {
        suite.push(&format!("nf4 {name} from {dtype}, bits"), differing(&found?, expected), 0.0);
    }
    let expected = weight.dense()?.to_dtype(dtype).to_bytes();
    let mut values = room(dtype.into(), n)?;
    let scales =
        Nf4ScalesView::Nested { codes: nested.view(), absmax: largest.view(), map: map.view(), offset: mean.view() };
    let view = Nf4View { block_size: BLOCK, codes: codes.view(), scales };
    nf4_dequantize(&*driver, &view, values.view_mut())?;
    suite.push(&format!("nf4 values as {dtype}, bits"), differing(&bytes(&values)?, &expected), 0.0);
    Ok(())
}

/// The mask depends on its address alone; what stays is scaled and rounded once.
fn masks(suite: &mut Suite) -> Result<()> {
    let dtype = suite.gpu.activations();
    let x = suite.normal(3, &[suite.size.rows, suite.size.width + 5]).to_dtype(dtype);
    for (seed, step, op, p) in [(0, 0, 0, 0.5), (u64::MAX, 1 << 33 | 7, 11, 0.1)] {
        let mask = Dropout::new(p, Stream { seed, step, op })?;
        let found = dropout(&x.to_device(Device::Cuda(suite.gpu))?, mask)?.to_device(Device::Cpu)?;
        let expected = dropout(&x.to_dtype(DType::F32), mask)?.to_dtype(dtype);
        let error = differing(&found.to_bytes(), &expected.to_bytes());
        suite.push(&format!("dropout of {p}, bits"), error, 0.0);
    }
    Ok(())
}

fn casting(suite: &mut Suite, from: DType, to: DType) -> Result<()> {
    let x = matrix(suite, from);
    let on_device = Buffer::from_bytes(&suite.driver, from.into(), &x.to_bytes())?;
    let mut y = Buffer::new(&suite.driver, to.into(), x.numel())?;
    cast(&*suite.driver, on_device.view(), y.view_mut())?;
    // f16 has the fewer exponents and bf16 the fewer digits: either rounds what comes from the other through f32.
    let expected = x.to_dtype(DType::F32).to_dtype(to).to_bytes();
    let found = bytes(&y)?;
    ensure!(!expected.is_empty(), "nothing was cast");
    suite.push(&format!("cast from {from} to {to}, bits"), differing(&found, &expected), 0.0);
    Ok(())
}
