//! Codec and products at sizes that are odd, empty, smaller and larger than a block; bitsandbytes' own bytes are golden files
//! of the `tests` package.

use super::{Nf4Options, Nf4Weight, QUANT_MAP, codec, nested_quant_map};
use crate::gradcheck::{Input, compare};
use crate::{DType, DenseWeight, Tensor, Weight};

const SHAPES: [(usize, usize); 8] = [(1, 1), (3, 7), (5, 64), (7, 131), (67, 129), (1, 4097), (0, 5), (257, 576)];

fn weight(seed: u64, (out, inner): (usize, usize), block_size: usize, double_quant: bool) -> (Tensor, Nf4Weight) {
    let matrix = Input::normal(seed, 0, &[out, inner]).tensor();
    let weight = Nf4Weight::quantize(&matrix, Nf4Options { block_size, double_quant }).unwrap();
    (matrix, weight)
}

/// Every element is the code value nearest to it at its block's scale.
#[test]
fn codes_are_nearest() {
    for shape in SHAPES {
        for block in [64, 256, 4096] {
            let (matrix, weight) = weight(1, shape, block, false);
            let (matrix, dense) = (matrix.to_vec(), weight.dense().unwrap().to_vec());
            for (m, d) in matrix.chunks(block).zip(dense.chunks(block)) {
                let absmax = m.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                for (&m, &d) in m.iter().zip(d) {
                    let best = QUANT_MAP.iter().map(|q| (q * absmax - m).abs()).fold(f32::INFINITY, f32::min);
                    assert!((d - m).abs() <= best + 1e-6 * absmax, "{m} became {d} at scale {absmax}");
                }
            }
        }
    }
}

/// bitsandbytes' own thresholds on N(0, 1): mean absolute error 0.0728.
#[test]
fn the_error_is_what_bitsandbytes_measures() {
    for (double_quant, most) in [(false, 0.0729), (true, 0.0731)] {
        let (matrix, weight) = weight(2, (512, 512), 64, double_quant);
        let dense = weight.dense().unwrap().to_vec();
        let error: f64 = matrix.to_vec().iter().zip(&dense).map(|(a, b)| f64::from((a - b).abs())).sum();
        let mean = error / (512.0 * 512.0);
        assert!((0.072..most).contains(&mean), "{mean}");
    }
}

#[test]
fn products_and_norms_are_those_of_the_dense_matrix() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        for double_quant in [false, true] {
            let (_, weight) = weight(seed as u64, shape, 64, double_quant);
            let dense = DenseWeight::new(weight.dense().unwrap()).unwrap();
            let (x, dy) = (Input::normal(5, 0, &[3, shape.1]).tensor(), Input::normal(5, 1, &[3, shape.0]).tensor());
            let wide = |t: Tensor| t.to_vec().into_iter().map(f64::from).collect::<Vec<_>>();
            compare("x·Wᵀ", &weight.apply(&x).unwrap().to_vec(), &wide(dense.apply(&x).unwrap()), 2e-6);
            let dx = weight.apply_transposed(&dy).unwrap().to_vec();
            compare("dy·W", &dx, &wide(dense.apply_transposed(&dy).unwrap()), 2e-6);
            assert_eq!(weight.row_norms_squared().unwrap().to_vec(), dense.row_norms_squared().unwrap().to_vec());
        }
    }
}

#[test]
fn any_range_decodes_alike() {
    let (_, weight) = weight(3, (9, 77), 64, true);
    let dense = weight.dense().unwrap().to_vec();
    for start in [0, 1, 5, 63, 64, 65, 130, 692] {
        for len in [0, 1, 2, 15, 16, 17, 33, 64, 100, 500] {
            let len = len.min(dense.len() - start);
            let mut part = vec![f32::NAN; len];
            weight.decode(start, &mut part);
            assert_eq!(part, dense[start..start + len], "{start} + {len}");
        }
    }
}

#[test]
fn zeros_stay_zero_and_half_types_quantise_as_their_values() {
    let zeros = Nf4Weight::quantize(&Tensor::zeros(&[3, 50]), Nf4Options::default()).unwrap();
    assert!(zeros.dense().unwrap().to_vec().iter().all(|&x| x.abs() < 1e-30));
    for dtype in [DType::BF16, DType::F16] {
        let half = Input::normal(4, 0, &[5, 77]).tensor().to_dtype(dtype);
        let quantise = |t: &Tensor| Nf4Weight::quantize(t, Nf4Options::default()).unwrap().dense().unwrap().to_vec();
        assert_eq!(quantise(&half), quantise(&half.to_dtype(DType::F32)));
    }
}

#[test]
fn ties_go_to_the_lower_code() {
    let midpoint = (QUANT_MAP[9] + QUANT_MAP[10]) / 2.0;
    let mut block = vec![0.0; 64];
    (block[0], block[1], block[2]) = (1.0, midpoint, f32::from_bits(midpoint.to_bits() + 1));
    let (codes, _) = codec::quantize(crate::Elements::F32(&block), 64).unwrap();
    assert_eq!(codes[..2], [0xf9, 0xa7]);
}

#[test]
fn what_cannot_be_quantised_is_refused() {
    let message = |t: &Tensor, block_size| {
        Nf4Weight::quantize(t, Nf4Options { block_size, double_quant: false }).unwrap_err().to_string()
    };
    assert!(message(&Tensor::zeros(&[2, 2]), 32).contains("block size 32"));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut v = vec![1.0; 200];
        v[70] = bad;
        let text = message(&Tensor::of(v, &[2, 100]), 64);
        assert_eq!(text, "nf4: an element between 64 and 128 is not finite");
    }
}

#[test]
fn the_nested_map_rises_from_almost_minus_one_to_one() {
    let map = nested_quant_map();
    assert_eq!((map.len(), map[255], map[127]), (256, 1.0, 0.0));
    assert!(map.windows(2).all(|pair| pair[0] < pair[1]));
}
