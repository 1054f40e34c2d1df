//! Transposition of a few rows, in squares of 16 where AVX-512 is at hand: a square is read, turned in registers and written
//! by whole vectors. (Written as plain loops, compilers make it a store for every element: half as fast.)

/// Rows that are turned at a time.
pub const BAND: usize = 16;

/// `to[c · stride + r] = band[r · width + c]` for the rows of `band`, at most [`BAND`], each of `width`.
pub fn transpose_band(band: &[f32], width: usize, to: &mut [f32], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if band.len() == BAND * width
        && let Some(v4) = pulp::x86::V4::try_new()
    {
        return v4.vectorize(avx512::Band { v4, band, width, to, stride });
    }
    plain(band, width, 0, to, stride);
}

/// Columns from `first` on, an element at a time.
#[inline(always)]
fn plain(band: &[f32], width: usize, first: usize, to: &mut [f32], stride: usize) {
    let rows = band.len().checked_div(width).unwrap_or(0);
    for column in first..if rows == 0 { 0 } else { width } {
        let to = &mut to[column * stride..][..rows];
        to.iter_mut().zip(band[column..].iter().step_by(width)).for_each(|(to, x)| *to = *x);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{BAND, plain};
    use pulp::x86::V4;
    use std::arch::x86_64::__m512;

    pub struct Band<'a> {
        pub v4: V4,
        pub band: &'a [f32],
        pub width: usize,
        pub to: &'a mut [f32],
        pub stride: usize,
    }

    impl pulp::NullaryFnOnce for Band<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Band { v4, band, width, to, stride } = self;
            let whole = width / BAND * BAND;
            for first in (0..whole).step_by(BAND) {
                let mut rows = [[0.0f32; BAND]; BAND];
                for (i, row) in rows.iter_mut().enumerate() {
                    row.copy_from_slice(&band[i * width + first..][..BAND]);
                }
                let turned = turn(v4, rows.map(pulp::cast));
                for (i, column) in turned.into_iter().enumerate() {
                    let column: [f32; BAND] = pulp::cast(column);
                    to[(first + i) * stride..][..BAND].copy_from_slice(&column);
                }
            }
            plain(band, width, whole, to, stride);
        }
    }

    /// The transpose of 16 rows of 16: elements are interleaved in pairs, pairs in fours, fours by quarters of a vector, twice.
    #[inline(always)]
    fn turn(v4: V4, rows: [__m512; BAND]) -> [__m512; BAND] {
        let f = v4.avx512f;
        let pairs: [__m512; BAND] = std::array::from_fn(|i| match i % 2 {
            0 => f._mm512_unpacklo_ps(rows[i], rows[i + 1]),
            _ => f._mm512_unpackhi_ps(rows[i - 1], rows[i]),
        });
        let fours: [__m512; BAND] = std::array::from_fn(|i| {
            let first = i / 4 * 4 + i % 4 / 2;
            let (a, b) = (f._mm512_castps_pd(pairs[first]), f._mm512_castps_pd(pairs[first + 2]));
            f._mm512_castpd_ps(match i % 2 {
                0 => f._mm512_unpacklo_pd(a, b),
                _ => f._mm512_unpackhi_pd(a, b),
            })
        });
        let quarters = |x: &[__m512; BAND], i: usize, distance: usize| match i / distance % 2 {
            0 => f._mm512_shuffle_f32x4::<0x88>(x[i], x[i + distance]),
            _ => f._mm512_shuffle_f32x4::<0xdd>(x[i - distance], x[i]),
        };
        let eights: [__m512; BAND] = std::array::from_fn(|i| quarters(&fours, i, 4));
        std::array::from_fn(|i| quarters(&eights, i, 8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_finds_its_place_at_awkward_sizes() {
        for rows in [0, 1, 7, 15, 16] {
            for width in [0, 1, 5, 16, 33, 48, 257] {
                for stride in [rows, rows + 1, 48] {
                    let band: Vec<f32> = (1..=rows * width).map(|x| x as f32).collect();
                    let mut to = vec![0.0; width * stride];
                    transpose_band(&band, width, &mut to, stride);
                    for (i, &x) in to.iter().enumerate() {
                        let (column, row) = (i / stride, i % stride);
                        let want = if row < rows { band[row * width + column] } else { 0.0 };
                        assert_eq!(x, want, "{rows} rows of {width}, stride {stride}: element {i}");
                    }
                }
            }
        }
    }
}
