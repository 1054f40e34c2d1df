//! Every kernel on the host driver against the processor's operation on the same inputs, under two scheduling seeds: the checks that
//! `dora-gpu-check` runs on a GPU, small. Codes of NF4, masks of dropout and casts are compared to the bit.

use std::collections::BTreeSet;
use std::sync::Arc;

use dora_gpu_check::checks::{self, Size};
use dora_gpu_check::speed::{self, Sizes};
use dora_kernels::Driver;
use dora_kernels::host::HostDriver;
use dora_kernels::launch::KERNELS;

#[test]
fn kernels_agree_with_the_cpu_and_none_is_left_out() {
    for seed in [1, 2] {
        let host = Arc::new(HostDriver::new(seed).expect("a C++ compiler is on this machine"));
        let driver: Arc<dyn Driver> = host.clone();
        let checks = checks::all(&driver, Size::SMALL, seed, |_| ()).unwrap();
        assert!(checks.len() > 60, "{} checks", checks.len());
        let missed: Vec<_> = checks.iter().filter(|check| !check.passed()).collect();
        assert!(missed.is_empty(), "{missed:#?}");
        let bits = checks.iter().filter(|check| check.tolerance == 0.0).count();
        assert_eq!(bits, 2 * 2 + 3 * 5 + 6, "masks, codecs and casts");
        let entries = KERNELS.iter().flat_map(|kernel| kernel.elements.iter().map(|e| format!("{}_{e}", kernel.name)));
        let launched: BTreeSet<String> = host.counters().into_keys().collect();
        let unseen: Vec<String> = entries.filter(|entry| !launched.contains(entry)).collect();
        assert!(unseen.is_empty(), "no check launches {unseen:?}");
    }
}

/// The code that measures on a GPU runs; what it measures here says nothing.
#[test]
fn speeds_are_measured_of_what_a_step_uses() {
    let host = Arc::new(HostDriver::new(1).expect("a C++ compiler is on this machine"));
    let driver: Arc<dyn Driver> = host.clone();
    let (ceilings, speeds) = speed::all(&driver, &Sizes::SMALL).unwrap();
    assert!(ceilings.copy_gb_s > 0.0 && ceilings.product_tflop_s > 0.0);
    assert!(speeds.len() > 20, "{} kernels", speeds.len());
    for speed in &speeds {
        assert!(speed.share > 0.0 && speed.gb_s.is_some() != speed.tflop_s.is_some(), "{speed:?}");
    }
}
