//! dropout.cu: the very bits of Philox4x32-10 by (seed, step, op, index), with Random123's known answers; what stays is scaled exactly.

use dora_kernels::Element::{BF16, F32, U32};
use dora_kernels::{Buffer, launch::dropout};

use crate::support::{Input, close, devices, room};

fn philox(mut key: [u32; 2], mut c: [u32; 4]) -> [u32; 4] {
    for _ in 0..10 {
        let [p, q] = [u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57];
        c = [(q >> 32) as u32 ^ c[1] ^ key[0], q as u32, (p >> 32) as u32 ^ c[3] ^ key[1], p as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

#[test]
fn the_reference_has_the_known_answers() {
    assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(philox([u32::MAX; 2], [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
}

#[test]
fn masks_have_the_bits_of_their_address() {
    for device in devices() {
        for element in [F32, BF16] {
            for (n, p) in [(0, 0.5), (1, 0.5), (6, 0.3), (1027, 0.1), (1027, 0.0)] {
                let (seed, step, op) = (0x0123_4567_89AB_CDEFu64, 0x1_0000_0007u64, 5);
                let address = [seed as u32, (seed >> 32) as u32, step as u32, (step >> 32) as u32];
                let bytes: Vec<u8> = address.iter().flat_map(|word| word.to_le_bytes()).collect();
                let address_ = Buffer::from_bytes(&device, U32, &bytes).unwrap();
                let x = Input::random(element, 1, n);
                let threshold = (f64::from(p) * 4_294_967_296.0) as u32;
                let scaled = |(i, x): (usize, &f64)| {
                    let words = philox([address[0], address[1]], [i as u32 / 4, op, address[2], address[3]]);
                    if words[i % 4] >= threshold { x * f64::from(1.0 / (1.0 - p)) } else { 0.0 }
                };
                let want: Vec<f64> = x.values.iter().enumerate().map(scaled).collect();
                let (mut x_, mut y) = (x.on(&device), room(&device, element, n));
                let refused = dropout(device.as_ref(), Some(x_.view()), 1.5, address_.view(), op, y.view_mut());
                assert_eq!(refused.unwrap_err().to_string(), "dropout: p is 1.5, expected at least 0 and below 1");
                dropout(device.as_ref(), Some(x_.view()), p, address_.view(), op, y.view_mut()).unwrap();
                close("dropout", &y, &want, 1e-7);
                dropout(device.as_ref(), None, p, address_.view(), op, x_.view_mut()).unwrap();
                close("dropout in place", &x_, &want, 1e-7);
            }
        }
    }
}
