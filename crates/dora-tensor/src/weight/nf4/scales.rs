//! The scales of blocks. Nested (double quantisation): scale = map[code]·absmax + offset, offset the mean of all scales, the
//! rest in blocks of 256 with a signed 8-bit map whose steps grow with the value (Dettmers et al., "8-bit optimizers", 2022).

use std::sync::LazyLock;

/// Scales that share an absmax when nested.
const NESTED_BLOCK: usize = 256;

/// A scale for each block of elements.
#[derive(Debug, Clone)]
pub enum Nf4Scales {
    /// In `f32`.
    Plain(Vec<f32>),
    /// In 8 bits.
    Nested {
        /// Indices into `map`.
        codes: Vec<u8>,
        /// What the map's values are multiplied by, for each 256 codes.
        absmax: Vec<f32>,
        /// What is added.
        offset: f32,
        /// 256 values in rising order.
        map: Vec<f32>,
    },
}

impl Nf4Scales {
    /// Quantises scales.
    pub(super) fn nested(scales: &[f32]) -> Self {
        let map = nested_quant_map();
        let offset = (scales.iter().map(|&s| f64::from(s)).sum::<f64>() / scales.len().max(1) as f64) as f32;
        let (mut codes, mut absmax) = (Vec::with_capacity(scales.len()), Vec::new());
        for block in scales.chunks(NESTED_BLOCK) {
            let largest = block.iter().fold(0.0f32, |m, s| m.max((s - offset).abs()));
            let full = block.len() == NESTED_BLOCK;
            let divisor = largest.max(1e-38);
            let inverse = 1.0 / divisor;
            let scaled = |s: f32| if full { (s - offset) * inverse } else { (s - offset) / divisor };
            codes.extend(block.iter().map(|&s| nearest(map, scaled(s).clamp(-1.0, 1.0))));
            absmax.push(largest);
        }
        Nf4Scales::Nested { codes, absmax, offset, map: map.to_vec() }
    }

    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        match self {
            Nf4Scales::Plain(scales) => scales.len(),
            Nf4Scales::Nested { codes, .. } => codes.len(),
        }
    }

    /// The scale of a block, in `f32` with one rounding an operation.
    #[inline]
    pub fn get(&self, block: usize) -> f32 {
        match self {
            Nf4Scales::Plain(scales) => scales[block],
            Nf4Scales::Nested { codes, absmax, offset, map } => {
                map[usize::from(codes[block])] * absmax[block / NESTED_BLOCK] + offset
            }
        }
    }
}

/// Index of the value nearest to x; of two equally near the lower.
fn nearest(map: &[f32], x: f32) -> u8 {
    let above = map.partition_point(|&m| m < x);
    let midpoint = |i: usize| (map[i - 1] + map[i]) / 2.0;
    match above {
        0 => 0,
        256 => 255,
        i if x <= midpoint(i) => (i - 1) as u8,
        i => i as u8,
    }
}

/// bitsandbytes' signed dynamic map of 256 values: for i in 0..7 the 2^i midpoints of equal steps over [0.1, 1] times
/// 10^(i − 6), both signs, with 0 and 1.
pub fn nested_quant_map() -> &'static [f32] {
    static MAP: LazyLock<Vec<f32>> = LazyLock::new(|| {
        let mut map = vec![0.0f32, 1.0];
        for i in 0..7 {
            let steps = 1usize << i;
            let power = 10f64.powi(i - 6) as f32;
            let step = (1.0f32 - 0.1) / steps as f32;
            // As torch.linspace: from the nearer end, with one rounding.
            let boundary = |k: usize| match k < steps.div_ceil(2) {
                true => step.mul_add(k as f32, 0.1),
                false => step.mul_add(-((steps - k) as f32), 1.0),
            };
            for k in 0..steps {
                let mean = power * ((boundary(k) + boundary(k + 1)) / 2.0);
                map.extend([mean, -mean]);
            }
        }
        map.sort_by(f32::total_cmp);
        map
    });
    &MAP
}
