//! The instructions that the speed of a kernel rests on, looked for in its machine code: memory accesses of 16 bytes, and matrix
//! products where a kernel is meant to use them.

use std::path::Path;

use anyhow::{Result, bail};

use super::ARCHITECTURES;
use super::nvcc::Toolkit;

const LOAD: &str = "LDG.E.128";
const STORE: &str = "STG.E.128";
// By addresses from a table, of which the compiler does not know that they are of global memory.
const LOAD_BY_TABLE: &str = "LD.E.128";
const STORE_BY_TABLE: &str = "ST.E.128";
const COPY: &str = "LDGSTS.E.128"; // cp.async
const MATRIX_LOAD: &str = "LDSM.M88.4";
const PRODUCT: &str = "HMMA.16816.F32.BF16";

/// Kernels by the start and end of their names, and what their code has to contain on every generation of cards.
type Expected = (&'static str, &'static str, &'static [&'static str]);

/// Modules and what is expected of them.
const EXPECTED: [(&str, &[Expected]); 17] = [
    ("adamw", &[("adamw", "", &[LOAD_BY_TABLE, STORE_BY_TABLE]), ("sum_of_squares", "", &[LOAD_BY_TABLE])]),
    ("attention", &[("attention_forward", "_bf16", &[COPY, MATRIX_LOAD, PRODUCT, STORE])]),
    (
        "attention_backward",
        &[
            ("attention_delta", "", &[LOAD]),
            ("attention_dkv", "_bf16", &[COPY, MATRIX_LOAD, PRODUCT, STORE]),
            ("attention_dq", "_bf16", &[COPY, MATRIX_LOAD, PRODUCT, STORE]),
        ],
    ),
    ("cast", &[("cast", "", &[LOAD, STORE])]),
    (
        "cross_entropy",
        &[
            ("cross_entropy_bf16", "", &[LOAD, STORE]),
            ("cross_entropy_f32", "", &[LOAD, STORE]),
            ("cross_entropy_losses", "", &[LOAD]),
        ],
    ),
    ("dora", &[("dora_compose_dropout", "", &[LOAD, STORE]), ("dora_backward", "_bf16", &[LOAD, PRODUCT, STORE])]),
    ("dora_norms", &[("dora_row_norms_squared", "", &[LOAD]), ("dora_norms", "_bf16", &[LOAD, PRODUCT])]),
    ("dropout", &[("dropout", "", &[LOAD, STORE])]),
    (
        "embedding",
        &[
            ("embedding_from", "", &[LOAD, STORE]),
            ("embedding_backward", "", &[LOAD, STORE]),
            ("scatter_rows", "", &[LOAD, STORE]),
        ],
    ),
    (
        "low_rank",
        &[("low_rank_project", "_bf16", &[LOAD, PRODUCT]), ("low_rank_compose", "_bf16", &[LOAD, PRODUCT, STORE])],
    ),
    ("nf4", &[("nf4_dequantize", "", &[LOAD, STORE]), ("nf4_quantize", "", &[LOAD])]),
    ("nf4_product", &[("nf4_product", "_bf16", &[LOAD, PRODUCT])]),
    ("pointwise", &[("", "", &[LOAD, STORE])]),
    ("reduce", &[("column_parts", "", &[LOAD, STORE])]),
    ("rms_norm", &[("rms_norm", "", &[LOAD, STORE])]),
    ("rope", &[("rope", "", &[LOAD, STORE])]),
    ("swiglu", &[("swiglu", "", &[LOAD, STORE])]),
];

/// Every kernel that lacks an instruction of its list, in the machine code below `folder`.
pub fn faults(toolkit: &Toolkit, folder: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for architecture in ARCHITECTURES {
        for (module, kernels) in EXPECTED {
            let listing = toolkit.disassemble(&folder.join(format!("sm_{architecture}/{module}.cubin")))?;
            for (start, end, instructions) in kernels {
                let of_kind = |name: &str| name.starts_with(start) && name.ends_with(end);
                let codes: Vec<_> = functions(&listing).filter(|(name, _)| of_kind(name)).collect();
                if codes.is_empty() {
                    bail!("{module} for sm_{architecture} has no kernel {start}…{end}");
                }
                for (name, code) in codes {
                    let lacking = instructions.iter().filter(|instruction| !contains(code, instruction));
                    faults.extend(lacking.map(|i| format!("{name} on sm_{architecture}: no {i} in its machine code")));
                }
            }
        }
    }
    Ok(faults)
}

/// Whether a line has the instruction; modifiers may stand between its parts (`LDG.E.ENL2.256`, `LDG.E.128.CONSTANT`).
fn contains(code: &str, instruction: &str) -> bool {
    code.split_whitespace().any(|word| {
        let mut parts = word.trim_end_matches(';').split('.');
        instruction.split('.').all(|wanted| parts.any(|part| part == wanted))
    })
}

/// Functions of a listing and their code.
fn functions(listing: &str) -> impl Iterator<Item = (&str, &str)> {
    listing.split("\n.text.").skip(1).filter_map(|part| part.split_once(":\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_found_in_their_own_function() {
        let listing = "\n.text.a_f32:\n  /*0010*/ LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;\n\n.text.a:\n  HMMA.16816.F32.BF16 R4, R8 ;\n";
        let [(first, loads), (second, product)] = functions(listing).collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!([first, second], ["a_f32", "a"]);
        assert!(contains(product, PRODUCT) && !contains(product, LOAD));
        assert!(contains(loads, LOAD) && !contains(loads, "HMMA") && !contains(loads, STORE));
    }
}
