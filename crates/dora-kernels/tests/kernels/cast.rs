//! cast.cu: every 16-bit pattern widens exactly; narrowing rounds to nearest even, as the `half` crate does. No tolerance.

use dora_kernels::launch::cast;
use dora_kernels::{Buffer, Element};
use half::{bf16, f16};

use crate::support::{Input, devices, room, values};

/// Equal, or both not a number.
fn assert_same(what: &str, found: &Buffer, want: impl ExactSizeIterator<Item = f64>) {
    let found = values(found);
    assert_eq!(found.len(), want.len());
    for (i, (found, want)) in found.into_iter().zip(want).enumerate() {
        assert!(found == want || (found.is_nan() && want.is_nan()), "{what}: element {i} is {found}, expected {want}");
    }
}

#[test]
fn all_16_bit_patterns_widen_and_come_back() {
    for device in devices() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for half in [Element::BF16, Element::F16] {
            let narrow = Buffer::from_bytes(&device, half, &bytes).unwrap();
            let (mut wide, mut back) = (room(&device, Element::F32, 65_536), room(&device, half, 65_536));
            cast(device.as_ref(), narrow.view(), wide.view_mut()).unwrap();
            assert_same("widened", &wide, values(&narrow).into_iter());
            cast(device.as_ref(), wide.view(), back.view_mut()).unwrap();
            assert_same("narrowed again", &back, values(&narrow).into_iter());
        }
    }
}

#[test]
fn narrowing_rounds_to_nearest_even() {
    // Every exponent, with mantissas at, beside and between the ties of both types; an odd number of them.
    let mantissas = [0u32, 0xFFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001, 0x1_8000, 0x7F_EFFF, 0x7F_FFFF];
    let bits = (0..512u32).flat_map(|head| mantissas.map(|m| head << 23 | m)).chain([0x3F80_0000]);
    let f32s: Vec<f32> = bits.map(f32::from_bits).collect();
    let bytes: Vec<u8> = f32s.iter().flat_map(|x| x.to_le_bytes()).collect();
    for device in devices() {
        let x = Buffer::from_bytes(&device, Element::F32, &bytes).unwrap();
        let (mut b, mut h) = (room(&device, Element::BF16, f32s.len()), room(&device, Element::F16, f32s.len()));
        cast(device.as_ref(), x.view(), b.view_mut()).unwrap();
        assert_same("bf16", &b, f32s.iter().map(|x| bf16::from_f32(*x).to_f64()));
        cast(device.as_ref(), x.view(), h.view_mut()).unwrap();
        assert_same("f16", &h, f32s.iter().map(|x| f16::from_f32(*x).to_f64()));
        let want: Vec<f64> = values(&b).iter().map(|x| f16::from_f32(*x as f32).to_f64()).collect();
        cast(device.as_ref(), b.view(), h.view_mut()).unwrap();
        assert_same("bf16 to f16", &h, want.into_iter());
        let want: Vec<f64> = values(&h).iter().map(|x| bf16::from_f32(*x as f32).to_f64()).collect();
        cast(device.as_ref(), h.view(), b.view_mut()).unwrap();
        assert_same("f16 to bf16", &b, want.into_iter());
    }
}

#[test]
fn a_cast_to_the_same_type_is_refused() {
    let device = &devices()[0];
    let (x, mut y) = (Input::random(Element::F32, 1, 3).on(device), room(device, Element::F32, 3));
    let error = cast(device.as_ref(), x.view(), y.view_mut()).unwrap_err().to_string();
    assert_eq!(error, "cast_from_f32: the kernel exists for bf16 or f16, found f32");
}
