//! NF4 against bitsandbytes on the CPU, to the byte. Its nested codes come from a table of 65,536 entries that rounds a few
//! values to a neighbour, and its offset from a mean summed in another order; for equal codes the values are the same bits.

use dora_tensor::{Nf4Options, Nf4Scales, Nf4Weight, QUANT_MAP, Tensor, Weight, nested_quant_map};
use dora_tests::Case;

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.to_vec().into_iter().map(|x| x as u8).collect()
}

/// Equal bits; says where not.
fn same(what: &str, found: &[f32], want: &[f32]) {
    assert_eq!(found.len(), want.len(), "{what}");
    let differ = found.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits() && a != b);
    assert_eq!(differ, None, "{what} differ from bitsandbytes' from this element on");
}

fn cases() -> (Case, Vec<usize>) {
    let case = Case::open("nf4");
    let sizes = case.json["cases"].as_array().unwrap().iter().map(|c| c["block_size"].as_u64().unwrap() as usize);
    let sizes = sizes.collect();
    (case, sizes)
}

#[test]
fn maps_are_the_same_bits() {
    let (case, _) = cases();
    same("quant_map", &case.expected("quant_map").to_vec(), &QUANT_MAP);
    same("nested_quant_map", &case.expected("nested_quant_map").to_vec(), nested_quant_map());
}

#[test]
fn codes_scales_and_values_are_the_same_bits() {
    let (case, sizes) = cases();
    for (i, block_size) in sizes.into_iter().enumerate() {
        let input = case.expected(&format!("input.{i}"));
        let weight = Nf4Weight::quantize(&input, Nf4Options { block_size, double_quant: false }).unwrap();
        let parts = weight.parts();
        assert_eq!((*parts.codes).as_ref(), bytes(&case.expected(&format!("codes.{i}"))), "codes of case {i}");
        let Nf4Scales::Plain(scales) = &parts.scales else { panic!("plain scales") };
        assert_eq!(*scales, case.expected(&format!("absmax.{i}")).to_vec(), "scales of case {i}");
        same("values", &weight.dense().unwrap().to_vec(), &case.expected(&format!("dense.{i}")).to_vec());
    }
}

#[test]
fn nested_codes_are_nearest_and_values_the_same_bits() {
    let (case, sizes) = cases();
    let (mut different, mut all) = (0, 0);
    for (i, block_size) in sizes.into_iter().enumerate() {
        let input = case.expected(&format!("input.{i}"));
        let weight = Nf4Weight::quantize(&input, Nf4Options { block_size, double_quant: true }).unwrap();
        let mut parts = weight.parts().clone();
        let Nf4Scales::Nested { codes, absmax, offset, map } = &mut parts.scales else { panic!("nested scales") };
        let want = case.expected(&format!("offset.{i}")).to_vec()[0];
        assert!((*offset - want).abs() <= 2e-7 * want.abs(), "offset of case {i}: {offset}, expected {want}");
        for (found, want) in absmax.iter_mut().zip(case.expected(&format!("nested_absmax.{i}")).to_vec()) {
            assert!((*found - want).abs() <= 1e-6 * want.abs() + 1e-37, "absmax of case {i}: {found}, expected {want}");
            *found = want;
        }
        let theirs = bytes(&case.expected(&format!("nested_codes.{i}")));
        all += theirs.len();
        for (j, (found, want)) in codes.iter_mut().zip(theirs).enumerate() {
            if absmax[j / 256] == 0.0 {
                // Whatever the code, the value is the offset.
                continue;
            }
            different += usize::from(*found != want);
            assert!(found.abs_diff(want) <= 1, "nested code of case {i}: {found}, expected {want} or a neighbour");
            *found = want;
        }
        *offset = want;
        assert_eq!(map.len(), 256);
        let dense = Nf4Weight::from_parts(parts).unwrap().dense().unwrap().to_vec();
        same("nested values", &dense, &case.expected(&format!("nested_dense.{i}")).to_vec());
    }
    assert!(different * 50 <= all, "{different} of {all} nested codes differ");
}
