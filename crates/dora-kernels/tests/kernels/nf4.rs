//! nf4.cu and nf4_product.cu: bytes and values exactly those of a scalar codec written here, which follows bitsandbytes
//! (`dora-tensor`'s golden files hold its own bytes); products against f64, tolerance 2e-5 of f32 sums over up to 1,088 terms.

use std::sync::Arc;

use dora_kernels::launch::{Nf4ScalesView, Nf4View, nf4_dequantize, nf4_nest, nf4_offset, nf4_product, nf4_quantize};
use dora_kernels::{Buffer, Driver, Element};
use half::{bf16, f16};

use crate::support::{Input, close, device, devices, room, traffic, values};

const MAP: [f32; 16] = [
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
const SIZES: [usize; 10] = [0, 1, 2, 63, 64, 65, 1000, 1024, 4097, 33_333];
const FLOATS: [Element; 3] = [Element::F32, Element::BF16, Element::F16];

/// Codes and scales of x, as bitsandbytes gives them.
fn quantized(x: &[f32], block: usize) -> (Vec<u8>, Vec<f32>) {
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
fn nested_map() -> Vec<f32> {
    (0..256).map(|i| (i as f32 - 127.5) / 127.5).map(|x| x.signum() * x.abs().powi(3)).collect()
}

fn nested(scales: &[f32], offset: f32) -> (Vec<u8>, Vec<f32>) {
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

fn rounded(x: f32, element: Element) -> f64 {
    match element {
        Element::BF16 => bf16::from_f32(x).to_f64(),
        Element::F16 => f16::from_f32(x).to_f64(),
        _ => f64::from(x),
    }
}

fn bytes(device: &Arc<dyn Driver>, bytes: &[u8]) -> Buffer {
    Buffer::from_bytes(device, Element::U8, bytes).unwrap()
}

fn floats(device: &Arc<dyn Driver>, x: &[f32]) -> Buffer {
    Input::new(Element::F32, &x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()).on(device)
}

/// A quantised matrix on a device, and its elements.
struct Matrix {
    block: usize,
    codes: Buffer,
    /// codes, absmax, map, offset; or absmax alone.
    scales: Vec<Buffer>,
    elements: Vec<f32>,
}

impl Matrix {
    fn new(device: &Arc<dyn Driver>, n: usize, block: usize, nest: bool) -> Self {
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

    fn view(&self) -> Nf4View<'_> {
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

#[test]
fn quantising_gives_the_bytes_of_bitsandbytes() {
    for device in devices() {
        for element in FLOATS {
            for n in SIZES {
                for block in [64, 256, 1024, 4096] {
                    let mut x = Input::random(element, n as u64, n).values;
                    // A block of zeros, and values at and beside a midpoint.
                    x.iter_mut().skip(128).take(64).for_each(|x| *x = 0.0);
                    let tie = f64::from((MAP[9] + MAP[10]) / 2.0);
                    x.iter_mut().take(3).zip([1.0, tie, tie + 2e-8]).for_each(|(x, y)| *x = y);
                    let x = Input::new(element, &x);
                    let (mut codes, mut scales) =
                        (room(&device, Element::U8, n.div_ceil(2)), room(&device, Element::F32, n.div_ceil(block)));
                    nf4_quantize(device.as_ref(), x.on(&device).view(), block, codes.view_mut(), scales.view_mut())
                        .unwrap();
                    let x: Vec<f32> = x.values.iter().map(|x| *x as f32).collect();
                    let want = quantized(&x, block);
                    assert_eq!(values(&codes), want.0.iter().map(|b| f64::from(*b)).collect::<Vec<_>>());
                    assert_eq!(values(&scales), want.1.iter().map(|s| f64::from(*s)).collect::<Vec<_>>());
                }
            }
        }
    }
}

#[test]
fn a_block_that_is_not_finite_gets_such_a_scale() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let device: Arc<dyn Driver> = device(1);
        let mut x = Input::random(Element::BF16, 1, 200).values;
        x[70] = bad;
        let (mut codes, mut scales) = (room(&device, Element::U8, 100), room(&device, Element::F32, 4));
        let x = Input::new(Element::BF16, &x).on(&device);
        nf4_quantize(device.as_ref(), x.view(), 64, codes.view_mut(), scales.view_mut()).unwrap();
        assert_eq!(values(&scales).iter().map(|s| s.is_finite()).collect::<Vec<_>>(), [true, false, true, true]);
    }
}

#[test]
fn nesting_gives_the_bytes_of_the_scalar_codec() {
    for device in devices() {
        for blocks in [0, 1, 7, 255, 256, 257, 1500] {
            let scales: Vec<f32> =
                Input::random(Element::F32, 5, blocks).values.iter().map(|x| 1.0 + 0.2 * *x as f32).collect();
            let on_device = floats(&device, &scales);
            let mut offset = room(&device, Element::F32, 1);
            nf4_offset(device.as_ref(), on_device.view(), offset.view_mut()).unwrap();
            let mean = scales.iter().map(|s| f64::from(*s)).sum::<f64>() / blocks.max(1) as f64;
            assert_eq!(values(&offset), [f64::from(mean as f32)]);
            let map = floats(&device, &nested_map());
            let (mut codes, mut absmax) =
                (room(&device, Element::U8, blocks), room(&device, Element::F32, blocks.div_ceil(256)));
            nf4_nest(device.as_ref(), on_device.view(), map.view(), offset.view(), codes.view_mut(), absmax.view_mut())
                .unwrap();
            let want = nested(&scales, mean as f32);
            assert_eq!(values(&codes), want.0.iter().map(|b| f64::from(*b)).collect::<Vec<_>>());
            assert_eq!(values(&absmax), want.1.iter().map(|s| f64::from(*s)).collect::<Vec<_>>());
        }
    }
}

#[test]
fn dequantising_is_exact() {
    for device in devices() {
        for element in FLOATS {
            for n in SIZES {
                for (block, nest) in [(64, true), (64, false), (512, true), (4096, false)] {
                    let matrix = Matrix::new(&device, n, block, nest);
                    let mut out = room(&device, element, n);
                    nf4_dequantize(device.as_ref(), &matrix.view(), out.view_mut()).unwrap();
                    let want: Vec<f64> = matrix.elements.iter().map(|x| rounded(*x, element)).collect();
                    assert_eq!(values(&out), want, "{element}, {n} elements in blocks of {block}");
                }
            }
        }
    }
}

#[test]
fn products_agree_with_f64() {
    for device in devices() {
        for element in [Element::F32, Element::BF16] {
            for (rows, out, inner) in [
                (1, 1, 1),
                (1, 16, 64),
                (3, 5, 7),
                (8, 33, 192),
                (9, 17, 1000),
                (16, 40, 1088),
                (16, 3, 65),
                (0, 4, 64),
            ] {
                for (block, nest) in [(64, true), (256, false)] {
                    let matrix = Matrix::new(&device, out * inner, block, nest);
                    let x = Input::random(element, 3, rows * inner);
                    let mut y = room(&device, element, rows * out);
                    let x_ = x.on(&device);
                    nf4_product(device.as_ref(), x_.view(), &matrix.view(), (out, inner), y.view_mut()).unwrap();
                    let want = (0..rows * out).map(|i| {
                        let x = &x.values[i / out * inner..][..inner];
                        let w = &matrix.elements[i % out * inner..][..inner];
                        x.iter().zip(w).map(|(x, w)| x * rounded(*w, element)).sum::<f64>()
                    });
                    close("y", &y, &want.collect::<Vec<_>>(), 2e-5);
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device: Arc<dyn Driver> = device(1);
    let matrix = Matrix::new(&device, 17 * 64, 64, true);
    let x = Input::random(Element::BF16, 1, 17 * 64).on(&device);
    let mut y = room(&device, Element::BF16, 17 * 17);
    let error = nf4_product(device.as_ref(), x.view(), &matrix.view(), (17, 64), y.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "nf4_product_16: 17 rows, expected at most 16");
    let mut out = room(&device, Element::BF16, 17 * 64 + 2);
    let error = nf4_dequantize(device.as_ref(), &matrix.view(), out.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "nf4_dequantize: codes has 544 elements, expected 545");
    let odd = Nf4View { block_size: 96, ..matrix.view() };
    let error = nf4_dequantize(device.as_ref(), &odd, y.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "nf4_dequantize: block size 96, expected 64, 128, 256 … 4096");
}

/// Dequantising moves 2 + 0.5 B and a scale's byte for each 64 elements; the product 0.5 B and that byte, x coming from cache.
#[test]
fn traffic_is_the_least() {
    let (out, inner) = (128, 1024);
    let host = device(1);
    let device: Arc<dyn Driver> = host.clone();
    let n = out * inner;
    let matrix = Matrix::new(&device, n, 64, true);
    let mut wide = room(&device, Element::BF16, n);
    nf4_dequantize(device.as_ref(), &matrix.view(), wide.view_mut()).unwrap();
    traffic(&host, "nf4_dequantize_bf16", n, 2.5 + 1.0 / 64.0, 1.1);
    let (mut codes, mut scales) = (room(&device, Element::U8, n / 2), room(&device, Element::F32, n / 64));
    nf4_quantize(device.as_ref(), wide.view(), 64, codes.view_mut(), scales.view_mut()).unwrap();
    traffic(&host, "nf4_quantize_bf16", n, 2.5 + 4.0 / 64.0, 1.1);
    let x = Input::random(Element::BF16, 3, inner).on(&device);
    let mut y = room(&device, Element::BF16, out);
    nf4_product(device.as_ref(), x.view(), &matrix.view(), (out, inner), y.view_mut()).unwrap();
    traffic(&host, "nf4_product_8_bf16", n, 0.5 + 1.0 / 64.0, 1.1);
}
