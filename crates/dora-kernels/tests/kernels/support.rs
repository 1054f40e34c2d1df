//! Devices, inputs and comparisons for the kernel tests.

use std::sync::Arc;

use dora_kernels::host::HostDriver;
use dora_kernels::{Buffer, Driver, Element};
use half::{bf16, f16};

/// A device for each scheduling seed; a test runs on all of them.
pub fn devices() -> Vec<Arc<dyn Driver>> {
    [1, 2, 3].map(|seed| device(seed) as Arc<dyn Driver>).into()
}

/// A device that schedules by a seed.
pub fn device(seed: u64) -> Arc<HostDriver> {
    Arc::new(HostDriver::new(seed).expect("a C++ compiler is on this machine"))
}

/// Elements of a type, and the f64 values that they hold once rounded to it.
pub struct Input {
    /// Their type.
    pub element: Element,
    bytes: Vec<u8>,
    /// What the kernel sees.
    pub values: Vec<f64>,
}

impl Input {
    /// Numbers of about unit size, never 0, different for each stream.
    pub fn random(element: Element, stream: u64, len: usize) -> Self {
        let mut state = stream.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678_9ABC_DEF1;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let values = (0..len).map(|_| (uniform() + uniform() + uniform() - 1.5) * 2.0 + 1e-3).collect::<Vec<_>>();
        Input::new(element, &values)
    }

    /// Given numbers, rounded to the type.
    pub fn new(element: Element, values: &[f64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|x| encode(element, *x)).collect();
        let values = decode(element, &bytes);
        Input { element, bytes, values }
    }

    /// A copy on a device.
    pub fn on(&self, device: &Arc<dyn Driver>) -> Buffer {
        Buffer::from_bytes(device, self.element, &self.bytes).unwrap()
    }
}

/// Room for a result; the host driver fills it with NaN.
pub fn room(device: &Arc<dyn Driver>, element: Element, len: usize) -> Buffer {
    Buffer::new(device, element, len).unwrap()
}

/// The elements of a buffer.
pub fn values(buffer: &Buffer) -> Vec<f64> {
    let mut bytes = vec![0; buffer.len() * buffer.element().size()];
    buffer.download(&mut bytes).unwrap();
    decode(buffer.element(), &bytes)
}

/// Holds every element to |found − expected| ≤ tolerance · (1 + |expected|), widened by half a unit in the last place of the
/// element type, which rounding the result takes.
#[track_caller]
pub fn close(what: &str, found: &Buffer, expected: &[f64], tolerance: f64) {
    let rounding = match found.element() {
        Element::BF16 => 1.0 / 256.0,
        Element::F16 => 1.0 / 2048.0,
        _ => 0.0,
    };
    let element = found.element();
    let found = values(found);
    assert_eq!(found.len(), expected.len(), "{what}: elements");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let allowed = tolerance * (1.0 + expected.abs()) + rounding * expected.abs();
        assert!((found - expected).abs() <= allowed, "{what} {element}: element {i} is {found}, expected {expected}");
    }
}

fn encode(element: Element, x: f64) -> Vec<u8> {
    match element {
        Element::F32 => (x as f32).to_le_bytes().to_vec(),
        Element::F64 => x.to_le_bytes().to_vec(),
        Element::BF16 => bf16::from_f32(x as f32).to_le_bytes().to_vec(),
        Element::F16 => f16::from_f32(x as f32).to_le_bytes().to_vec(),
        Element::U32 => (x as u32).to_le_bytes().to_vec(),
        Element::U8 => vec![x as u8],
    }
}

fn decode(element: Element, bytes: &[u8]) -> Vec<f64> {
    let four = |b: &[u8]| [b[0], b[1], b[2], b[3]];
    let two = |b: &[u8]| [b[0], b[1]];
    let one = |b: &[u8]| match element {
        Element::F32 => f64::from(f32::from_le_bytes(four(b))),
        Element::F64 => f64::from_le_bytes(b.try_into().unwrap()),
        Element::BF16 => bf16::from_le_bytes(two(b)).to_f64(),
        Element::F16 => f16::from_le_bytes(two(b)).to_f64(),
        Element::U32 => f64::from(u32::from_le_bytes(four(b))),
        Element::U8 => f64::from(b[0]),
    };
    bytes.chunks_exact(element.size()).map(one).collect()
}
