//! What a device reaches: the bandwidth of its copies and its bf16 products, measured, and each kernel against them. Times are between
//! events on the device, the median of several batches of launches. A kernel's bytes are the least that its formula needs, from the
//! table of `kernels/README.md`, so that moving more shows as less.

mod kernels;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use dora_kernels::{Buffer, Driver, Element, gemm};
use dora_tensor::rng::Philox;
use half::{bf16, f16};
use serde::Serialize;

/// The table of bytes and FLOPs an element.
const TABLE: &str = include_str!("../../../../kernels/README.md");

/// Batches of launches that are timed one by one, and launches before them that are not.
const BATCHES: usize = 7;
const WARM_UP: usize = 3;

/// Sizes of what is measured.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Tokens of a batch.
    pub tokens: usize,
    /// Elements of a row of activations.
    pub hidden: usize,
    /// Elements of a row within the MLP.
    pub mlp: usize,
    /// Tokens of the vocabulary, and rows of logits at a time.
    pub vocab: (usize, usize),
    /// Query heads, key heads and their width.
    pub heads: (usize, usize, usize),
    /// Bytes of the copy, and rows of the square product, which are the ceilings.
    pub ceilings: (usize, usize),
    /// Launches of a batch.
    pub launches: usize,
}

impl Sizes {
    /// Llama 3 8B's. Every array is larger than the L2 cache of today's cards, but for the weights' vectors.
    pub const LARGE: Sizes = Sizes {
        tokens: 8192,
        hidden: 4096,
        mlp: 14_336,
        vocab: (128_256, 1024),
        heads: (32, 8, 128),
        ceilings: (1 << 30, 8192),
        launches: 10,
    };
    /// What the host driver gets through, to show that the code runs.
    pub const SMALL: Sizes = Sizes {
        tokens: 64,
        hidden: 128,
        mlp: 192,
        vocab: (256, 3),
        heads: (4, 2, 64),
        ceilings: (4096, 32),
        launches: 1,
    };
}

/// What the device can do.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceilings {
    /// Bytes read and written a second by a copy within the device, in GB (10^9).
    pub copy_gb_s: f64,
    /// FLOPs a second of a square bf16 product with f32 sums through cuBLASLt, in TFLOP (10^12).
    pub product_tflop_s: f64,
}

/// What a kernel reaches.
#[derive(Debug, Clone, Serialize)]
pub struct Speed {
    /// Its entry point.
    pub kernel: String,
    /// Time of a launch, in microseconds.
    pub us: f64,
    /// Least bytes over time, in GB/s; none where products decide.
    pub gb_s: Option<f64>,
    /// FLOPs over time, in TFLOP/s; none where memory decides.
    pub tflop_s: Option<f64>,
    /// Share of the ceiling that it is measured against.
    pub share: f64,
}

/// Measures the ceilings, and every kernel that a step uses.
pub fn all(driver: &Arc<dyn Driver>, sizes: &Sizes) -> Result<(Ceilings, Vec<Speed>)> {
    let clock = Clock { driver, launches: sizes.launches };
    let ceilings = Ceilings::measure(&clock, sizes)?;
    let mut bench = Bench { clock, ceilings, speeds: Vec::new() };
    kernels::measure(&mut bench, sizes)?;
    Ok((ceilings, bench.speeds))
}

struct Clock<'a> {
    driver: &'a Arc<dyn Driver>,
    launches: usize,
}

impl Clock<'_> {
    /// Time of one launch.
    fn time(&self, mut launch: impl FnMut(&dyn Driver) -> dora_kernels::Result<()>) -> Result<Duration> {
        let driver = self.driver.as_ref();
        for _ in 0..WARM_UP {
            launch(driver)?;
        }
        let mut times = Vec::new();
        for _ in 0..BATCHES {
            let start = driver.record()?;
            for _ in 0..self.launches {
                launch(driver)?;
            }
            let end = driver.record()?;
            times.push(driver.elapsed(&start, &end)? / self.launches as u32);
        }
        times.sort_unstable();
        Ok(times[BATCHES / 2].max(Duration::from_nanos(1)))
    }
}

impl Ceilings {
    fn measure(clock: &Clock<'_>, sizes: &Sizes) -> Result<Self> {
        let (bytes, n) = sizes.ceilings;
        let from = random(clock.driver, Element::F32, bytes / 4)?;
        let mut to = Buffer::new(clock.driver, Element::F32, bytes / 4)?;
        let copy = clock.time(|_| to.write(0, &from, 0..bytes / 4))?;
        let [a, b] = [random(clock.driver, Element::BF16, n * n)?, random(clock.driver, Element::BF16, n * n)?];
        let mut d = Buffer::new(clock.driver, Element::BF16, n * n)?;
        let product = clock.time(|driver| {
            gemm(driver, [n, n, n], 1.0, a.view().plain(), b.view().transposed(), false, &mut d.view_mut())
        })?;
        Ok(Ceilings {
            copy_gb_s: 2.0 * bytes as f64 / copy.as_secs_f64() / 1e9,
            product_tflop_s: 2.0 * (n as f64).powi(3) / product.as_secs_f64() / 1e12,
        })
    }
}

/// Speeds so far.
struct Bench<'a> {
    clock: Clock<'a>,
    ceilings: Ceilings,
    speeds: Vec<Speed>,
}

impl Bench<'_> {
    fn random(&self, element: Element, len: usize) -> Result<Buffer> {
        random(self.clock.driver, element, len)
    }

    fn room(&self, element: Element, len: usize) -> Result<Buffer> {
        Ok(Buffer::new(self.clock.driver, element, len)?)
    }

    /// A kernel that memory decides, for a number of the elements that its row of the table counts.
    fn memory(
        &mut self,
        kernel: &str,
        elements: usize,
        launch: impl FnMut(&dyn Driver) -> dora_kernels::Result<()>,
    ) -> Result<()> {
        let least = least_bytes(kernel).with_context(|| format!("kernels/README.md has no row for {kernel}"))?;
        let time = self.clock.time(launch)?.as_secs_f64();
        let gb_s = least * elements as f64 / time / 1e9;
        let share = gb_s / self.ceilings.copy_gb_s;
        self.speeds.push(Speed { kernel: kernel.to_owned(), us: time * 1e6, gb_s: Some(gb_s), tflop_s: None, share });
        Ok(())
    }

    /// Kernels that products decide, which need so many FLOPs.
    fn products(
        &mut self,
        kernel: &str,
        flops: f64,
        launch: impl FnMut(&dyn Driver) -> dora_kernels::Result<()>,
    ) -> Result<()> {
        let time = self.clock.time(launch)?.as_secs_f64();
        let tflop_s = flops / time / 1e12;
        let share = tflop_s / self.ceilings.product_tflop_s;
        let kernel = kernel.to_owned();
        self.speeds.push(Speed { kernel, us: time * 1e6, gb_s: None, tflop_s: Some(tflop_s), share });
        Ok(())
    }
}

/// Least bytes an element of a kernel's first row.
fn least_bytes(kernel: &str) -> Option<f64> {
    let name = format!("| `{kernel}` |");
    let row = TABLE.lines().find(|line| line.starts_with(&name))?;
    row.split('|').nth(3)?.trim().parse().ok()
}

/// Normal draws, of which a block is repeated: products of zeros would be faster than others.
fn random(driver: &Arc<dyn Driver>, element: Element, len: usize) -> Result<Buffer> {
    let (mut rng, block) = (Philox::new(1, len as u64), len.min(1 << 20));
    let bytes: Vec<u8> = (0..block).flat_map(|_| bytes(element, rng.normal())).collect();
    let block = Buffer::from_bytes(driver, element, &bytes)?;
    let mut all = Buffer::new(driver, element, len)?;
    for start in (0..len).step_by(block.len().max(1)) {
        all.write(start, &block, 0..block.len().min(len - start))?;
    }
    Ok(all)
}

fn bytes(element: Element, x: f32) -> Vec<u8> {
    match element {
        Element::F32 => x.to_le_bytes().to_vec(),
        Element::F64 => f64::from(x).to_le_bytes().to_vec(),
        Element::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
        Element::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        Element::U32 => x.to_bits().to_le_bytes().to_vec(),
        Element::U8 => vec![(x.to_bits() >> 8) as u8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_table() {
        assert_eq!(least_bytes("dora_backward_bf16"), Some(6.0));
        assert_eq!(least_bytes("nf4_dequantize_bf16"), Some(2.52));
        assert_eq!(least_bytes("dora_backward"), None);
    }
}
