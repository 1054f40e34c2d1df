//! The compiled kernels that are part of this crate: PTX for compute_80 from `kernels/ptx`, which the driver compiles for its card
//! and keeps in its own cache. `cargo xtask build-kernels` makes them.

/// PTX by module: files of `kernels/*.cu` without their ending.
pub const MODULES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

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
