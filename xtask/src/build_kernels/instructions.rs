//! The instructions that the speed of a kernel rests on, looked for in its machine code: memory accesses of 16 bytes, and matrix
//! products where a kernel is meant to use them.

use std::path::Path;

use anyhow::{Context, Result};

use super::ARCHITECTURES;
use super::nvcc::Toolkit;

const LOAD: &str = "LDG.E.128";
const STORE: &str = "STG.E.128";

/// Module, kernel, and what its code has to contain on every generation of cards.
const EXPECTED: [(&str, &str, &[&str]); 3] = [
    ("rms_norm", "rms_norm_forward_bf16", &[LOAD, STORE]),
    ("rms_norm", "rms_norm_backward_bf16", &[LOAD, STORE]),
    ("rms_norm", "rms_norm_backward_weight_bf16", &[LOAD, STORE]),
];

/// Every kernel that lacks an instruction of its list, in the machine code below `folder`.
pub fn faults(toolkit: &Toolkit, folder: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for architecture in ARCHITECTURES {
        for (module, kernel, instructions) in EXPECTED {
            let cubin = folder.join(format!("sm_{architecture}/{module}.cubin"));
            let code = toolkit.disassemble(&cubin)?;
            let code = function(&code, kernel).with_context(|| format!("{} has no {kernel}", cubin.display()))?;
            let lacking = instructions.iter().filter(|instruction| !contains(code, instruction));
            faults.extend(lacking.map(|i| format!("{kernel} on sm_{architecture}: no {i} in its machine code")));
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

/// The part of a listing that belongs to a function.
fn function<'a>(listing: &'a str, name: &str) -> Option<&'a str> {
    let start = listing.find(&format!(".text.{name}:"))?;
    let rest = &listing[start..];
    let end = rest[1..].find("\n.text.").map_or(rest.len(), |at| at + 1);
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_found_in_their_own_function() {
        let listing = "\n.text.a_f32:\n  /*0010*/ LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;\n\n.text.a:\n  HMMA.16816.F32.BF16 R4, R8 ;\n";
        let a = function(listing, "a").unwrap();
        assert!(contains(a, "HMMA.16816.F32.BF16") && !contains(a, LOAD));
        let other = function(listing, "a_f32").unwrap();
        assert!(contains(other, LOAD) && !contains(other, "HMMA") && !contains(other, STORE));
        assert!(function(listing, "b").is_none());
    }
}
