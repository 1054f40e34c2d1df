//! NF4 and nested scales as scalar code, which follows bitsandbytes: its bytes, and the values that they stand for.

use std::sync::Arc;

use dora_kernels::launch::{Nf4ScalesView, Nf4View};
use dora_kernels::{Buffer, Driver, Element};
use half::{bf16, f16};

use crate::support::Input;

pub const MAP: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];
/// Codes and scales of x, as bitsandbytes gives them.
pub fn quantized(x: &[f32], block: usize) -> (Vec<u8>, Vec<f32>) {
    let mut nibbles = Vec::new();
    let mut scales = Vec::new();
    for part in x.chunks(block) {
        let absmax = part.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let (full, divisor) = (part.len() == block, absmax.max(1e-38));
        scales.push(if full { absmax } else { divisor });
        nibbles.extend(part.iter().map(|x| {
            let x = if full { x * (1.0 / divisor) } else { x / divisor };
            MAP.windows(2).filter(|pair| x.clamp(-1.0, 1.0) > (pair[0] + pair[1]) / 2.0).count() as u8
        }));
    }
    if nibbles.len() % 2 == 1 {
        nibbles.push(7);
    }
    (nibbles.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect(), scales)
}

/// A map of 256 rising values like bitsandbytes' dynamic one: steps that grow with the value, and the ends −1 and 1.
pub fn nested_map() -> Vec<f32> {
    (0..256).map(|i| (i as f32 - 127.5) / 127.5).map(|x| x.signum() * x.abs().powi(3)).collect()
}

pub fn nested(scales: &[f32], offset: f32) -> (Vec<u8>, Vec<f32>) {
    let map = nested_map();
    let (mut codes, mut absmax) = (Vec::new(), Vec::new());
    for part in scales.chunks(256) {
        let largest = part.iter().fold(0.0f32, |m, s| m.max((s - offset).abs()));
        let divisor = largest.max(1e-38);
        absmax.push(largest);
        codes.extend(part.iter().map(|s| {
            let x = if part.len() == 256 { (s - offset) * (1.0 / divisor) } else { (s - offset) / divisor };
            let above = map.partition_point(|m| *m < x.clamp(-1.0, 1.0));
            match above {
                0 => 0,
                256 => 255,
                i if x <= (map[i - 1] + map[i]) / 2.0 => (i - 1) as u8,
                i => i as u8,
            }
        }));
    }
    (codes, absmax)
}

fn dequantized(codes: &[u8], scale: impl Fn(usize) -> f32, block: usize, n: usize) -> Vec<f32> {
    let code = |i: usize| if i.is_multiple_of(2) { codes[i / 2] >> 4 } else { codes[i / 2] & 15 };
    (0..n).map(|i| MAP[usize::from(code(i))] * scale(i / block)).collect()
}

pub fn rounded(x: f32, element: Element) -> f64 {
    match element {
        Element::BF16 => bf16::from_f32(x).to_f64(),
        Element::F16 => f16::from_f32(x).to_f64(),
        _ => f64::from(x),
    }
}

pub fn bytes(device: &Arc<dyn Driver>, bytes: &[u8]) -> Buffer {
    Buffer::from_bytes(device, Element::U8, bytes).unwrap()
}

pub fn floats(device: &Arc<dyn Driver>, x: &[f32]) -> Buffer {
    Input::new(Element::F32, &x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()).on(device)
}

/// A quantised matrix on a device, and its elements.
pub struct Matrix {
    block: usize,
    codes: Buffer,
    /// codes, absmax, map, offset; or absmax alone.
    scales: Vec<Buffer>,
    pub elements: Vec<f32>,
}

impl Matrix {
    pub fn new(device: &Arc<dyn Driver>, n: usize, block: usize, nest: bool) -> Self {
        let x: Vec<f32> = Input::random(Element::F32, n as u64, n).values.iter().map(|x| *x as f32).collect();
        let (codes, scales) = quantized(&x, block);
        if !nest {
            let elements = dequantized(&codes, |b| scales[b], block, n);
            return Matrix { block, codes: bytes(device, &codes), scales: vec![floats(device, &scales)], elements };
        }
        let offset = scales.iter().sum::<f32>() / scales.len().max(1) as f32;
        let (scale_codes, absmax) = nested(&scales, offset);
        let map = nested_map();
        let scale = |b: usize| map[usize::from(scale_codes[b])] * absmax[b / 256] + offset;
        let elements = dequantized(&codes, scale, block, n);
        let scales =
            vec![bytes(device, &scale_codes), floats(device, &absmax), floats(device, &map), floats(device, &[offset])];
        Matrix { block, codes: bytes(device, &codes), scales, elements }
    }

    pub fn view(&self) -> Nf4View<'_> {
        let scales = match &self.scales[..] {
            [absmax] => Nf4ScalesView::Plain(absmax.view()),
            [codes, absmax, map, offset] => Nf4ScalesView::Nested {
                codes: codes.view(),
                absmax: absmax.view(),
                map: map.view(),
                offset: offset.view(),
            },
            _ => unreachable!("one or four buffers"),
        };
        Nf4View { block_size: self.block, codes: self.codes.view(), scales }
    }
}
