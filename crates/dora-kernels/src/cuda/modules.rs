//! The compiled kernels that are part of this crate: PTX for compute_80 from `kernels/ptx`, which the driver compiles for its card
//! and keeps in its own cache. `cargo xtask build-kernels` makes them.

/// PTX by module: files of `kernels/*.cu` without their ending.
pub const MODULES: &[(&str, &str)] = &[
    ("adamw", include_str!("../../../../kernels/ptx/adamw.ptx")),
    ("cast", include_str!("../../../../kernels/ptx/cast.ptx")),
    ("cross_entropy", include_str!("../../../../kernels/ptx/cross_entropy.ptx")),
    ("dora", include_str!("../../../../kernels/ptx/dora.ptx")),
    ("dora_norms", include_str!("../../../../kernels/ptx/dora_norms.ptx")),
    ("dropout", include_str!("../../../../kernels/ptx/dropout.ptx")),
    ("embedding", include_str!("../../../../kernels/ptx/embedding.ptx")),
    ("nf4", include_str!("../../../../kernels/ptx/nf4.ptx")),
    ("nf4_product", include_str!("../../../../kernels/ptx/nf4_product.ptx")),
    ("pointwise", include_str!("../../../../kernels/ptx/pointwise.ptx")),
    ("reduce", include_str!("../../../../kernels/ptx/reduce.ptx")),
    ("rms_norm", include_str!("../../../../kernels/ptx/rms_norm.ptx")),
    ("rope", include_str!("../../../../kernels/ptx/rope.ptx")),
    ("swiglu", include_str!("../../../../kernels/ptx/swiglu.ptx")),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::KERNELS;

    #[test]
    fn every_launched_module_is_here_and_no_other() {
        let mut launched: Vec<&str> = KERNELS.iter().map(|kernel| kernel.module).collect();
        launched.sort_unstable();
        launched.dedup();
        assert_eq!(MODULES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), launched);
        for (name, ptx) in MODULES {
            assert!(ptx.contains(".target sm_80") && !ptx.contains('\0'), "{name}");
        }
    }
}
