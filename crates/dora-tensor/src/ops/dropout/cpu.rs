//! Dropout on the CPU, in place.

use crate::cpu::for_row_blocks;
use crate::rng::Stream;
use crate::{Result, Tensor};

pub(super) fn apply(mut x: Tensor, p: f32, stream: Stream) -> Result<Tensor> {
    x.as_f32("dropout")?;
    // An element stays when its word is at least p · 2^32.
    let threshold = (f64::from(p) * 4_294_967_296.0) as u32;
    let scale = 1.0 / (1.0 - p);
    for_row_blocks(x.make_mut(), 4, |first, x| {
        for (i, four) in x.chunks_mut(4).enumerate() {
            let words = stream.block((first + i) as u32);
            for (x, word) in four.iter_mut().zip(words) {
                *x = if word >= threshold { *x * scale } else { 0.0 };
            }
        }
    });
    Ok(x)
}
