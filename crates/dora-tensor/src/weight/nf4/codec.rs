//! Elements to 4-bit codes and back. A full block is multiplied by 1/absmax, a trailing part of one is divided by it, as
//! bitsandbytes does; the code is the number of midpoints between code values that lie below, so ties go to the lower code.

use crate::cpu::{Widen, simd};
use crate::{Elements, Error, Result};
use rayon::prelude::*;

/// The 16 code values: bitsandbytes' `nf4` map, quantiles of the normal distribution scaled to [−1, 1].
pub const QUANT_MAP: [f32; 16] = [
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

/// Midpoints of neighbouring code values, in `f32`.
const MIDPOINTS: [f32; 15] = {
    let mut midpoints = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        midpoints[i] = (QUANT_MAP[i] + QUANT_MAP[i + 1]) / 2.0;
        i += 1;
    }
    midpoints
};

/// A scale below this is taken for it.
const SMALLEST: f32 = 1e-38;

/// Packed codes of all elements, and the scale of each block.
pub(super) fn quantize(elements: Elements, block: usize) -> Result<(Vec<u8>, Vec<f32>)> {
    match elements {
        Elements::F32(v) => blocks(v, block, |x| x),
        Elements::BF16(v) => blocks(v, block, Widen::widen),
        Elements::F16(v) => blocks(v, block, Widen::widen),
    }
}

fn blocks<T: Copy + Sync>(v: &[T], block: usize, widen: impl Fn(T) -> f32 + Sync) -> Result<(Vec<u8>, Vec<f32>)> {
    let mut codes = vec![0; v.len().div_ceil(2)];
    let mut scales = vec![0.0; v.len().div_ceil(block)];
    let tasks = v.par_chunks(block).zip(codes.par_chunks_mut(block / 2)).zip(&mut scales);
    tasks.with_min_len(64).for_each_init(
        || (vec![0.0; block], vec![0; block]),
        |(wide, nibbles), ((v, packed), scale)| {
            let (wide, nibbles) = (&mut wide[..v.len()], &mut nibbles[..v.len().next_multiple_of(2)]);
            simd(|| {
                wide.iter_mut().zip(v).for_each(|(w, &x)| *w = widen(x));
                *scale = one_block(wide, nibbles, v.len() == block);
                packed.iter_mut().zip(nibbles.chunks_exact(2)).for_each(|(p, n)| *p = n[0] << 4 | n[1]);
            });
        },
    );
    match scales.iter().position(|scale| !scale.is_finite()) {
        None => Ok((codes, scales)),
        Some(at) => {
            let found = format!("an element between {} and {} is not finite", at * block, (at + 1) * block);
            Err(Error::argument("nf4", found))
        }
    }
}

/// Codes of one block, and its scale (NaN or infinite where an element is).
#[inline(always)]
fn one_block(x: &mut [f32], nibbles: &mut [u8], full: bool) -> f32 {
    let absmax = x.iter().fold(0.0f32, |m, x| if x.abs() > m || x.is_nan() { x.abs() } else { m });
    let scale = if full { absmax } else { absmax.max(SMALLEST) };
    match full {
        true => {
            let inverse = 1.0 / absmax.max(SMALLEST);
            x.iter_mut().for_each(|x| *x = (*x * inverse).clamp(-1.0, 1.0));
        }
        false => x.iter_mut().for_each(|x| *x = (*x / scale).clamp(-1.0, 1.0)),
    }
    // An odd rest is filled up with 0.0, whose code is 7.
    if let Some(last) = nibbles.last_mut() {
        *last = 7;
    }
    for (nibble, &x) in nibbles.iter_mut().zip(x.iter()) {
        *nibble = MIDPOINTS.iter().map(|&m| u8::from(x > m)).sum();
    }
    if absmax.is_nan() { absmax } else { scale }
}

/// Elements `start..start + out.len()`, all of one block of that scale.
#[inline]
pub(super) fn decode(codes: &[u8], start: usize, scale: f32, out: &mut [f32]) {
    let (mut at, mut out) = (start, out);
    if at % 2 == 1 && !out.is_empty() {
        out[0] = QUANT_MAP[usize::from(codes[at / 2] & 15)] * scale;
        (at, out) = (at + 1, &mut out[1..]);
    }
    let bytes = &codes[at / 2..(at + out.len()).div_ceil(2)];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512F (just asked); lengths are checked inside.
        return unsafe { decode_avx512(bytes, scale, out) };
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2 (just asked); lengths are checked inside.
        return unsafe { decode_avx2(bytes, scale, out) };
    }
    decode_pairs(bytes, scale, out);
}

/// `out.len()` elements from the first byte's high half on.
fn decode_pairs(bytes: &[u8], scale: f32, out: &mut [f32]) {
    let mut pairs = out.chunks_exact_mut(2);
    for (pair, &byte) in (&mut pairs).zip(bytes) {
        pair[0] = QUANT_MAP[usize::from(byte >> 4)] * scale;
        pair[1] = QUANT_MAP[usize::from(byte & 15)] * scale;
    }
    if let ([last], Some(&byte)) = (pairs.into_remainder(), bytes.last()) {
        *last = QUANT_MAP[usize::from(byte >> 4)] * scale;
    }
}

/// The same, 16 elements at a time: the map is one register, a code picks its lane.
///
/// # Safety
/// The processor must have AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn decode_avx512(bytes: &[u8], scale: f32, out: &mut [f32]) {
    use std::arch::x86_64::*;
    let whole = out.len() / 16;
    let (body, rest) = out.split_at_mut(whole * 16);
    // SAFETY: the map has 16 floats.
    let map = unsafe { _mm512_loadu_ps(QUANT_MAP.as_ptr()) };
    let scaled = _mm512_mul_ps(map, _mm512_set1_ps(scale));
    let low = _mm_set1_epi8(15);
    for (out, bytes) in body.chunks_exact_mut(16).zip(bytes.chunks_exact(8)) {
        let eight = i64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
        let packed = _mm_cvtsi64_si128(eight);
        let high = _mm_and_si128(_mm_srli_epi16(packed, 4), low);
        let nibbles = _mm_unpacklo_epi8(high, _mm_and_si128(packed, low));
        let values = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(nibbles), scaled);
        // SAFETY: `out` has 16 floats.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
    }
    decode_pairs(&bytes[whole * 8..], scale, rest);
}

/// The same, 8 elements at a time: the map is two registers, a code's low bits pick its lane in both, its highest bit one of them.
///
/// # Safety
/// The processor must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn decode_avx2(bytes: &[u8], scale: f32, out: &mut [f32]) {
    use std::arch::x86_64::*;
    let whole = out.len() / 8;
    let (body, rest) = out.split_at_mut(whole * 8);
    // SAFETY: the map has 16 floats.
    let map = unsafe { [_mm256_loadu_ps(QUANT_MAP.as_ptr()), _mm256_loadu_ps(QUANT_MAP[8..].as_ptr())] };
    let [low_half, high_half] = map.map(|half| _mm256_mul_ps(half, _mm256_set1_ps(scale)));
    let low = _mm_set1_epi8(15);
    for (out, bytes) in body.chunks_exact_mut(8).zip(bytes.chunks_exact(4)) {
        let four = i32::from_le_bytes(bytes.try_into().expect("chunks of 4"));
        let packed = _mm_cvtsi32_si128(four);
        let high = _mm_and_si128(_mm_srli_epi16(packed, 4), low);
        let codes = _mm256_cvtepu8_epi32(_mm_unpacklo_epi8(high, _mm_and_si128(packed, low)));
        let (a, b) = (_mm256_permutevar8x32_ps(low_half, codes), _mm256_permutevar8x32_ps(high_half, codes));
        // The highest bit of a code becomes the sign that chooses.
        let values = _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
        // SAFETY: `out` has 8 floats.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) };
    }
    decode_pairs(&bytes[whole * 4..], scale, rest);
}
