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
                let mut rows = [v4.avx512f._mm512_setzero_ps(); BAND];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = pulp::cast::<[f32; BAND], _>(band[i * width + first..][..BAND].try_into().expect("16"));
                }
                for (i, column) in turn(v4, rows).into_iter().enumerate() {
                    to[(first + i) * stride..][..BAND].copy_from_slice(&pulp::cast::<_, [f32; BAND]>(column));
                }
            }
            plain(band, width, whole, to, stride);
        }
    }

    /// The transpose of 16 rows of 16: elements are interleaved in pairs, pairs in fours, fours by quarters of a vector, twice.
    #[inline(always)]
    fn turn(v4: V4, rows: [__m512; BAND]) -> [__m512; BAND] {
        let f = v4.avx512f;
        let (mut x, mut y) = (rows, rows);
        for i in (0..BAND).step_by(2) {
            y[i] = f._mm512_unpacklo_ps(x[i], x[i + 1]);
            y[i + 1] = f._mm512_unpackhi_ps(x[i], x[i + 1]);
        }
        let (double, single) = (|a| f._mm512_castps_pd(a), |a| f._mm512_castpd_ps(a));
        for i in (0..BAND).step_by(4) {
            for half in 0..2 {
                let (a, b) = (double(y[i + half]), double(y[i + half + 2]));
                x[i + 2 * half] = single(f._mm512_unpacklo_pd(a, b));
                x[i + 2 * half + 1] = single(f._mm512_unpackhi_pd(a, b));
            }
        }
        for i in 0..BAND / 2 {
            let i = i / 4 * 8 + i % 4;
            y[i] = f._mm512_shuffle_f32x4::<0x88>(x[i], x[i + 4]);
            y[i + 4] = f._mm512_shuffle_f32x4::<0xdd>(x[i], x[i + 4]);
        }
        for i in 0..BAND / 2 {
            x[i] = f._mm512_shuffle_f32x4::<0x88>(y[i], y[i + 8]);
            x[i + 8] = f._mm512_shuffle_f32x4::<0xdd>(y[i], y[i + 8]);
        }
        x
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
