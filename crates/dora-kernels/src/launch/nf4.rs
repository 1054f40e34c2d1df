//! Launchers of `kernels/nf4.cu` and `kernels/nf4_product.cu`. A quantised matrix has its codes, two a byte, and a scale for
//! each block of elements of the row-major matrix, in `f32` or nested.

use crate::kernel::{Call, Kernel, Kind, Parameter, f32s, int, long, own};
use crate::{Driver, Element, Error, Result, Shape, View, ViewMut};

const FLOATS: &[Element] = &[Element::F32, Element::BF16, Element::F16];
const F32: &[Element] = &[Element::F32];
const BF16: &[Element] = &[Element::BF16];

const fn bytes(name: &'static str) -> Parameter {
    (name, Kind::Of(Element::U8))
}

pub(super) const QUANTIZE: Kernel = Kernel {
    module: "nf4",
    name: "nf4_quantize",
    elements: FLOATS,
    parameters: &[bytes("codes"), f32s("scales"), own("x"), int("log_block"), long("n")],
};
pub(super) const OFFSET: Kernel = Kernel {
    module: "nf4",
    name: "nf4_offset",
    elements: F32,
    parameters: &[f32s("offset"), f32s("scales"), int("blocks")],
};
pub(super) const NEST: Kernel = Kernel {
    module: "nf4",
    name: "nf4_nest",
    elements: F32,
    parameters: &[bytes("codes"), f32s("absmax"), f32s("scales"), f32s("map"), f32s("offset"), int("blocks")],
};
pub(super) const DEQUANTIZE: Kernel = Kernel {
    module: "nf4",
    name: "nf4_dequantize",
    elements: FLOATS,
    parameters: &[
        own("out"),
        bytes("codes"),
        bytes("scale_codes"),
        f32s("absmax"),
        f32s("map"),
        f32s("offset"),
        int("log_block"),
        long("n"),
    ],
};

const PRODUCT: &[Parameter] = &[
    own("y"),
    own("x"),
    bytes("codes"),
    bytes("scale_codes"),
    f32s("absmax"),
    f32s("map"),
    f32s("offset"),
    int("log_block"),
    int("rows"),
    int("out"),
    int("inner"),
];
pub(super) const PRODUCT_8: Kernel =
    Kernel { module: "nf4_product", name: "nf4_product_8", elements: BF16, parameters: PRODUCT };
pub(super) const PRODUCT_16: Kernel =
    Kernel { module: "nf4_product", name: "nf4_product_16", elements: BF16, parameters: PRODUCT };
pub(super) const PRODUCT_F32: Kernel =
    Kernel { module: "nf4_product", name: "nf4_product", elements: F32, parameters: PRODUCT };

/// Rows of x that [`nf4_product`] takes at most.
pub const NF4_PRODUCT_ROWS: usize = 16;
/// Outputs of a block of the product.
const OUTPUTS: usize = 16;
const THREADS: u32 = 256;
/// Scales that share an absmax when nested.
const NESTED_BLOCK: usize = 256;

/// Scales of blocks on the device.
#[derive(Debug, Clone, Copy)]
pub enum Nf4ScalesView<'a> {
    /// In `f32` (blocks).
    Plain(View<'a>),
    /// scale = map\[code\] · absmax + offset.
    Nested {
        /// Indices into the map (blocks).
        codes: View<'a>,
        /// For each 256 codes.
        absmax: View<'a>,
        /// 256 values in rising order.
        map: View<'a>,
        /// One value.
        offset: View<'a>,
    },
}

/// A quantised matrix on the device.
#[derive(Debug, Clone, Copy)]
pub struct Nf4View<'a> {
    /// Elements of a block: 64, 128 … 4096.
    pub block_size: usize,
    /// Codes (⌈n/2⌉).
    pub codes: View<'a>,
    /// Scales (⌈n/block_size⌉).
    pub scales: Nf4ScalesView<'a>,
}

impl Nf4View<'_> {
    /// Adds codes and scales of n elements to a call.
    fn add(&self, call: Call, n: usize) -> Call {
        let blocks = n.div_ceil(self.block_size);
        let call = call.read("codes", self.codes, n.div_ceil(2));
        match self.scales {
            Nf4ScalesView::Plain(absmax) => call
                .read_if("scale_codes", None, 0)
                .read("absmax", absmax, blocks)
                .read_if("map", None, 0)
                .read_if("offset", None, 0),
            Nf4ScalesView::Nested { codes, absmax, map, offset } => call
                .read("scale_codes", codes, blocks)
                .read("absmax", absmax, blocks.div_ceil(NESTED_BLOCK))
                .read("map", map, 256)
                .read("offset", offset, 1),
        }
    }
}

/// Codes (⌈n/2⌉) and scales (⌈n/block_size⌉) of the n elements of x. A block that is not finite gets a scale that is not.
pub fn nf4_quantize(
    driver: &dyn Driver,
    x: View<'_>,
    block_size: usize,
    mut codes: ViewMut<'_>,
    mut scales: ViewMut<'_>,
) -> Result<()> {
    let log_block = log_block(QUANTIZE.name, block_size)?;
    let n = x.len;
    let call = Call::new(&QUANTIZE, x.element)
        .write("codes", &mut codes, n.div_ceil(2))
        .write("scales", &mut scales, n.div_ceil(block_size))
        .read("x", x, n)
        .int("log_block", log_block)
        .long("n", n);
    let of_block = 8 * block_size.max(256);
    // SAFETY: a warp takes whole blocks, and what lies beyond n is neither read nor written.
    unsafe { call.launch(driver, Shape { grid: [n.div_ceil(of_block) as u32, 1, 1], threads: THREADS, shared: 0 }) }
}

/// The mean of all scales, into `offset` (1).
pub fn nf4_offset(driver: &dyn Driver, scales: View<'_>, mut offset: ViewMut<'_>) -> Result<()> {
    let blocks = scales.len;
    let call = Call::new(&OFFSET, Element::F32)
        .write("offset", &mut offset, 1)
        .read("scales", scales, blocks)
        .int("blocks", blocks);
    let threads = (blocks as u32).next_multiple_of(32).clamp(32, 1024);
    // SAFETY: one block walks all scales.
    unsafe { call.launch(driver, Shape { grid: [1, 1, 1], threads, shared: 0 }) }
}

/// Nests scales: codes (blocks) of `scales` − offset in `map` (256), and absmax (⌈blocks/256⌉).
pub fn nf4_nest(
    driver: &dyn Driver,
    scales: View<'_>,
    map: View<'_>,
    offset: View<'_>,
    mut codes: ViewMut<'_>,
    mut absmax: ViewMut<'_>,
) -> Result<()> {
    let blocks = scales.len;
    let call = Call::new(&NEST, Element::F32)
        .write("codes", &mut codes, blocks)
        .write("absmax", &mut absmax, blocks.div_ceil(NESTED_BLOCK))
        .read("scales", scales, blocks)
        .read("map", map, 256)
        .read("offset", offset, 1)
        .int("blocks", blocks);
    // SAFETY: a thread a scale, and those beyond the last write nothing.
    unsafe {
        call.launch(driver, Shape { grid: [blocks.div_ceil(NESTED_BLOCK) as u32, 1, 1], threads: THREADS, shared: 0 })
    }
}

/// All elements of a matrix into `out`.
pub fn nf4_dequantize(driver: &dyn Driver, weight: &Nf4View<'_>, mut out: ViewMut<'_>) -> Result<()> {
    let log_block = log_block(DEQUANTIZE.name, weight.block_size)?;
    let n = out.len;
    let call = weight.add(Call::new(&DEQUANTIZE, out.element).write("out", &mut out, n), n);
    let call = call.int("log_block", log_block).long("n", n);
    // A block of threads: 8 warps, 4 tiles of 1024 elements each.
    let shape = Shape { grid: [n.div_ceil(8 * 4 * 1024) as u32, 1, 1], threads: THREADS, shared: 0 };
    // SAFETY: what lies beyond n is neither read nor written.
    unsafe { call.launch(driver, shape) }
}

/// y (rows, out) = x (rows, in) · Wᵀ for at most [`NF4_PRODUCT_ROWS`] rows.
pub fn nf4_product(
    driver: &dyn Driver,
    x: View<'_>,
    weight: &Nf4View<'_>,
    (out, inner): (usize, usize),
    mut y: ViewMut<'_>,
) -> Result<()> {
    let rows = y.len.checked_div(out).unwrap_or(0);
    let kernel = match (y.element, rows) {
        (Element::F32, _) => &PRODUCT_F32,
        (_, ..=8) => &PRODUCT_8,
        _ => &PRODUCT_16,
    };
    if rows > NF4_PRODUCT_ROWS {
        return Err(Error::argument(kernel.name, format!("{rows} rows, expected at most {NF4_PRODUCT_ROWS}")));
    }
    let log_block = log_block(kernel.name, weight.block_size)?;
    let call = Call::new(kernel, y.element).write("y", &mut y, rows * out).read("x", x, rows * inner);
    let call = weight.add(call, out * inner).int("log_block", log_block);
    let call = call.int("rows", rows).int("out", out).int("inner", inner);
    let blocks = if rows == 0 { 0 } else { out.div_ceil(OUTPUTS) };
    // SAFETY: a block takes 16 outputs; rows, outputs and elements beyond the last are neither read nor written.
    unsafe { call.launch(driver, Shape { grid: [blocks as u32, 1, 1], threads: THREADS, shared: 0 }) }
}

fn log_block(kernel: &'static str, block_size: usize) -> Result<usize> {
    match block_size {
        64..=4096 if block_size.is_power_of_two() => Ok(block_size.ilog2() as usize),
        _ => Err(Error::argument(kernel, format!("block size {block_size}, expected 64, 128, 256 … 4096"))),
    }
}
