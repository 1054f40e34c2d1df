//! Vectors of floats, as far as products need them, for the instruction sets that have their own kernel: AVX2 and AVX-512. Code
//! is written once for any [`Vector`] and compiled for each set by [`Isa::run`].

use std::arch::x86_64::*;

/// Lanes of the widest vector.
pub const MOST_LANES: usize = 16;
/// Most vectors of a tile.
pub const MOST_VECTORS: usize = 4;

/// A vector of floats. All that takes one is inlined into code for its instruction set.
///
/// # Safety
/// Every function needs a processor with the instruction set, and what a pointer reaches must be there: all lanes of it, or the
/// first `count`.
pub trait Vector: Copy {
    /// Floats in it.
    const LANES: usize;
    /// Vectors side by side in a tile: their sums for 6 rows leave room for what is multiplied.
    const VECTORS: usize;
    /// Keys at a time that attention sums over: what they meet is then in the first- or second-level cache.
    const DEPTH: usize;

    unsafe fn zero() -> Self;
    unsafe fn spread(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// The rest is 0.
    unsafe fn load_first(count: usize, from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn store_first(self, count: usize, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// self · factor + sum.
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self;
    /// Transposes the first LANES of `rows`: elements are interleaved in pairs, pairs in fours, fours by quarters of a vector.
    unsafe fn turn(rows: &mut [Self; MOST_LANES]);
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "each is by the caller's word, as the trait says")]
impl Vector for __m256 {
    const LANES: usize = 8;
    const VECTORS: usize = 2;
    const DEPTH: usize = 384;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn spread(x: f32) -> Self {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_first(count: usize, from: *const f32) -> Self {
        unsafe { _mm256_maskload_ps(from, first_of_8(count)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn store_first(self, count: usize, to: *mut f32) {
        unsafe { _mm256_maskstore_ps(to, first_of_8(count), self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { _mm256_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, factor, sum) }
    }

    #[inline(always)]
    unsafe fn turn(x: &mut [Self; MOST_LANES]) {
        unsafe {
            let mut y = *x;
            for i in (0..8).step_by(2) {
                y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
                y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
            }
            let mut z = y;
            for i in (0..8).step_by(4) {
                for half in 0..2 {
                    let (a, b) = (_mm256_castps_pd(y[i + half]), _mm256_castps_pd(y[i + half + 2]));
                    z[i + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
                    z[i + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
                }
            }
            for i in 0..4 {
                x[i] = _mm256_permute2f128_ps::<0x20>(z[i], z[i + 4]);
                x[i + 4] = _mm256_permute2f128_ps::<0x31>(z[i], z[i + 4]);
            }
        }
    }
}

/// The first so many of 8 lanes, as masked moves take them.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn first_of_8(count: usize) -> __m256i {
    // SAFETY: by the caller's word.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "each is by the caller's word, as the trait says")]
impl Vector for __m512 {
    const LANES: usize = 16;
    const VECTORS: usize = 4;
    const DEPTH: usize = 256;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn spread(x: f32) -> Self {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_first(count: usize, from: *const f32) -> Self {
        unsafe { _mm512_maskz_loadu_ps(first_of_16(count), from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn store_first(self, count: usize, to: *mut f32) {
        unsafe { _mm512_mask_storeu_ps(to, first_of_16(count), self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { _mm512_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, factor, sum) }
    }

    #[inline(always)]
    unsafe fn turn(x: &mut [Self; MOST_LANES]) {
        unsafe {
            let mut y = *x;
            for i in (0..16).step_by(2) {
                y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
                y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
            }
            for i in (0..16).step_by(4) {
                for half in 0..2 {
                    let (a, b) = (_mm512_castps_pd(y[i + half]), _mm512_castps_pd(y[i + half + 2]));
                    x[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                    x[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                }
            }
            for i in 0..8 {
                let i = i / 4 * 8 + i % 4;
                y[i] = _mm512_shuffle_f32x4::<0x88>(x[i], x[i + 4]);
                y[i + 4] = _mm512_shuffle_f32x4::<0xdd>(x[i], x[i + 4]);
            }
            for i in 0..8 {
                x[i] = _mm512_shuffle_f32x4::<0x88>(y[i], y[i + 8]);
                x[i + 8] = _mm512_shuffle_f32x4::<0xdd>(y[i], y[i + 8]);
            }
        }
    }
}

/// The first so many of 16 lanes.
#[inline(always)]
fn first_of_16(count: usize) -> u16 {
    if count >= 16 { u16::MAX } else { (1 << count) - 1 }
}

/// Work that is written for any vector.
pub trait Run {
    /// Does it; to be inlined always.
    ///
    /// # Safety
    /// The processor must have the vector's instruction set.
    unsafe fn run<V: Vector>(self);
}

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Avx2,
    Avx512,
    #[cfg(test)]
    Plain,
}

impl Isa {
    /// Those of this processor, the best first.
    pub fn all() -> impl Iterator<Item = Isa> {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let found = [(is_x86_feature_detected!("avx512f"), Set::Avx512), (avx2, Set::Avx2)];
        found.into_iter().filter(|(there, _)| *there).map(|(_, set)| Isa(set))
    }

    /// Those, and AVX-512's sizes on any processor.
    #[cfg(test)]
    pub fn tested() -> impl Iterator<Item = Isa> {
        Self::all().chain([Isa(Set::Plain)])
    }

    /// Floats of a vector.
    pub fn lanes(self) -> usize {
        match self.0 {
            Set::Avx2 => __m256::LANES,
            Set::Avx512 => __m512::LANES,
            #[cfg(test)]
            Set::Plain => Plain::LANES,
        }
    }

    /// Columns of a full tile, and queries of a block.
    pub fn block(self) -> usize {
        match self.0 {
            Set::Avx2 => __m256::LANES * __m256::VECTORS,
            Set::Avx512 => __m512::LANES * __m512::VECTORS,
            #[cfg(test)]
            Set::Plain => Plain::LANES * Plain::VECTORS,
        }
    }

    /// Columns of a tile of so many: a tile's full width, or a vector less where that leaves no rest.
    pub fn tile(self, columns: usize) -> usize {
        let (full, less) = (self.block(), self.block() - self.lanes());
        let whole = |tile: usize| columns.is_multiple_of(tile);
        if less > self.lanes() && !whole(full) && whole(less) { less } else { full }
    }

    /// Does the work with these vectors.
    pub fn run(self, work: impl Run) {
        // SAFETY: an `Isa` is made by `all` alone, which has asked the processor.
        unsafe {
            match self.0 {
                Set::Avx2 => avx2(work),
                Set::Avx512 => avx512(work),
                #[cfg(test)]
                Set::Plain => work.run::<Plain>(),
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn avx2(work: impl Run) {
    // SAFETY: the processor has them, or this could not be called.
    unsafe { work.run::<__m256>() }
}

#[target_feature(enable = "avx512f")]
fn avx512(work: impl Run) {
    // SAFETY: the processor has it, or this could not be called.
    unsafe { work.run::<__m512>() }
}

/// AVX-512's sizes without its instructions, so that what depends on the sizes alone is tested on every processor.
#[cfg(test)]
#[derive(Clone, Copy)]
pub struct Plain([f32; 16]);

#[cfg(test)]
#[expect(clippy::undocumented_unsafe_blocks, reason = "each is by the caller's word, as the trait says")]
impl Vector for Plain {
    const LANES: usize = 16;
    const VECTORS: usize = 4;
    const DEPTH: usize = 256;

    unsafe fn zero() -> Self {
        Plain([0.0; 16])
    }

    unsafe fn spread(x: f32) -> Self {
        Plain([x; 16])
    }

    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self::load_first(16, from) }
    }

    unsafe fn load_first(count: usize, from: *const f32) -> Self {
        Plain(std::array::from_fn(|i| if i < count { unsafe { *from.add(i) } } else { 0.0 }))
    }

    unsafe fn store(self, to: *mut f32) {
        unsafe { self.store_first(16, to) }
    }

    unsafe fn store_first(self, count: usize, to: *mut f32) {
        self.0.iter().take(count).enumerate().for_each(|(i, &x)| unsafe { *to.add(i) = x });
    }

    unsafe fn add(self, other: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    unsafe fn mul(self, other: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }

    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], sum.0[i])))
    }

    unsafe fn turn(rows: &mut [Self; MOST_LANES]) {
        let from = *rows;
        *rows = std::array::from_fn(|i| Plain(std::array::from_fn(|j| from[j].0[i])));
    }
}
