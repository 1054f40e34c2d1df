//! Element types of device memory.

use std::fmt;

/// Type of the elements of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision: sums only.
    F64,
    /// bfloat16.
    BF16,
    /// IEEE 754 half precision.
    F16,
    /// 32-bit integers: token ids, positions, offsets.
    U32,
    /// Bytes: packed 4-bit weights and their scales.
    U8,
}

impl Element {
    /// Bytes an element takes.
    pub fn size(self) -> usize {
        match self {
            Element::F64 => 8,
            Element::F32 | Element::U32 => 4,
            Element::BF16 | Element::F16 => 2,
            Element::U8 => 1,
        }
    }

    /// Its name, which ends the names of the kernels that work on it.
    pub fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F64 => "f64",
            Element::BF16 => "bf16",
            Element::F16 => "f16",
            Element::U32 => "u32",
            Element::U8 => "u8",
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
