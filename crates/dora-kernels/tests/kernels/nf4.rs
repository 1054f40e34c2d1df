//! nf4.cu and nf4_product.cu: bytes and values exactly those of the scalar codec in `nf4_codec.rs`, which follows bitsandbytes
//! (`dora-tensor`'s golden files hold its own bytes); products against f64, tolerance 2e-5 of f32 sums over up to 1,088 terms.

use std::sync::Arc;

use dora_kernels::launch::{Nf4View, nf4_dequantize, nf4_nest, nf4_offset, nf4_product, nf4_quantize};
use dora_kernels::{Driver, Element};

use crate::nf4_codec::{MAP, Matrix, floats, nested, nested_map, quantized, rounded};
use crate::support::{Input, close, device, devices, room, values};

const SIZES: [usize; 10] = [0, 1, 2, 63, 64, 65, 1000, 1024, 4097, 33_333];
const FLOATS: [Element; 3] = [Element::F32, Element::BF16, Element::F16];

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

/// Elements at the thresholds of their block, where multiplying by 1/absmax and dividing by absmax may round apart: a full block
/// and a part of one.
#[test]
fn thresholds_are_those_of_bitsandbytes() {
    let device: Arc<dyn Driver> = device(1);
    for step in 1..40 {
        let absmax = 0.37 * step as f32;
        let at = |i: usize| (MAP[i % 15] + MAP[i % 15 + 1]) / 2.0 * absmax;
        let x: Vec<f32> = (0..100).map(|i| if i % 64 == 0 { absmax } else { at(i) }).collect();
        let (mut codes, mut scales) = (room(&device, Element::U8, 50), room(&device, Element::F32, 2));
        let (view, codes_view) = (floats(&device, &x), codes.view_mut());
        nf4_quantize(device.as_ref(), view.view(), 64, codes_view, scales.view_mut()).unwrap();
        let want = quantized(&x, 64);
        assert_eq!(values(&codes), want.0.iter().map(|b| f64::from(*b)).collect::<Vec<_>>(), "absmax {absmax}");
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
