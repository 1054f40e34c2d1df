//! The shim finds what it is there to find: each planted mistake of `kernels/host/planted` is caught and named.

use std::sync::Arc;

use dora_kernels::{Arg, Buffer, Driver, Element, Shape};

use crate::support::{Input, close, devices, room, values};

/// Runs a planted kernel with a block of 64 threads.
fn planted(device: &Arc<dyn Driver>, module: &'static str, kernel: &str, args: &[Arg]) -> Result<(), String> {
    let shape = Shape { grid: [1, 1, 1], threads: 64, shared: 256 };
    // SAFETY: the mistakes are what is tested; they stay between the guard pages of the host driver.
    unsafe { device.launch(module, kernel, shape, args) }.map_err(|e| e.to_string())
}

fn pointer(buffer: &Buffer) -> Arg {
    Arg::Pointer(buffer.view().address())
}

#[test]
fn races_show_under_every_seed() {
    for device in devices() {
        let x = Input::random(Element::F32, 1, 64);
        let x_ = x.on(&device);
        type Reference = fn(usize) -> usize;
        let table: [(&str, Reference); 3] = [
            ("planted_race", |i| (i + 1) % 64),
            ("planted_warp_race", |i| i ^ 1),
            ("planted_unwaited_copy", |i| 63 - i),
        ];
        for (kernel, from) in table {
            let y = room(&device, Element::F32, 64);
            planted(&device, "host/planted/race", kernel, &[pointer(&x_), pointer(&y)]).unwrap();
            let found = values(&y);
            let wrong = (0..64).filter(|&i| found[i] != x.values[from(i)]).count();
            assert!(wrong > 0, "{kernel} went unnoticed on {}", device.device());
        }
    }
}

/// Whole numbers, so that every order of additions gives the same sum.
#[test]
fn atomic_additions_are_complete() {
    for device in devices() {
        let x: Vec<f64> = (0..64).map(f64::from).collect();
        let x = Input::new(Element::F32, &x).on(&device);
        let [whole, lost] = ["planted_additions", "planted_lost_additions"].map(|kernel| {
            let sum = Input::new(Element::F32, &[0.5]).on(&device);
            planted(&device, "host/planted/race", kernel, &[pointer(&x), pointer(&sum)]).unwrap();
            values(&sum)[0]
        });
        assert!(whole == 2016.5 && lost < whole, "{whole} {lost} on {}", device.device());
    }
}

#[test]
fn barriers_that_not_all_reach_are_named() {
    for device in devices() {
        let y = room(&device, Element::F32, 64);
        let run = |kernel, n| planted(&device, "host/planted/barrier", kernel, &[pointer(&y), Arg::I32(n)]);
        for kernel in ["planted_missing_barrier", "planted_half_shuffle"] {
            run(kernel, 64).unwrap();
        }
        let missing = run("planted_missing_barrier", 63).unwrap_err();
        assert!(missing.starts_with("planted_missing_barrier: block (0, 0, 0), thread ("), "{missing}");
        assert!(missing.contains("deadlock among 64 threads: 63 wait at __syncthreads"), "{missing}");
        assert!(missing.ends_with("1 have left"), "{missing}");
        let divergent = run("planted_divergent_barrier", 32).unwrap_err();
        assert!(divergent.contains("waits at the __syncthreads of"), "{divergent}");
        let half = run("planted_half_shuffle", 16).unwrap_err();
        assert!(half.contains("16 wait at __shfl_xor_sync"), "{half}");
    }
}

#[test]
fn accesses_outside_of_buffers_are_named() {
    for device in devices() {
        // 160 bytes end at the guard page; 36 leave 12 bytes in front of it.
        for (n, behind) in [
            (40, "access to memory outside every buffer, 160 bytes from the start of a buffer of 160"),
            (9, "wrote beside"),
        ] {
            let y = room(&device, Element::F32, n);
            let run = |kernel, args: &[Arg]| planted(&device, "host/planted/bounds", kernel, args);
            let error = run("planted_write_behind", &[pointer(&y), Arg::I32(n as i32)]).unwrap_err();
            assert!(error.starts_with("planted_write_behind: ") && error.contains(behind), "{error}");
            let error = run("planted_write_before", &[pointer(&y)]).unwrap_err();
            assert!(error.contains("wrote beside a buffer"), "{error}");
        }
        let y = room(&device, Element::F32, 64);
        let run = |kernel, args: &[Arg]| planted(&device, "host/planted/bounds", kernel, args);
        run("planted_write_behind", &[pointer(&y), Arg::I32(63)]).unwrap();
        // What lies behind a buffer that does not end at the guard page is no plausible number.
        let short = room(&device, Element::F32, 9);
        run("planted_read_one_behind", &[pointer(&short), Arg::I32(9)]).unwrap();
        assert!(values(&short)[0] < -1e38);
        let error = run("planted_read_behind", &[pointer(&y), Arg::I32(64)]).unwrap_err();
        assert!(error.contains("access to memory outside every buffer"), "{error}");
        let error = run("planted_shared_behind", &[pointer(&y), Arg::I32(64)]).unwrap_err();
        assert!(error.contains("access to memory outside every buffer"), "{error}");
        run("planted_shared_behind", &[pointer(&y), Arg::I32(0)]).unwrap();
        let error = run("planted_misaligned", &[pointer(&y)]).unwrap_err();
        assert!(error.contains("access of 16 bytes at an address that is not a multiple of it"), "{error}");
        let error = run("planted_misaligned", &[]).unwrap_err();
        assert!(error.contains("launched with parameters"), "{error}");
    }
}

/// What no card would launch is refused before anything runs; `dora_norms` has 21 KiB of static shared memory to be counted.
#[test]
fn shapes_beyond_a_card_are_refused() {
    let device = &devices()[0];
    let y = room(device, Element::F32, 64);
    let fits = Shape { grid: [1, 1, 1], threads: 64, shared: 0 };
    let run = |shape| {
        let args = [pointer(&y), Arg::I32(64)];
        // SAFETY: the kernel writes at most at index 64, and the host driver would see it.
        unsafe { device.launch("host/planted/barrier", "planted_missing_barrier", shape, &args) }
    };
    run(fits).unwrap();
    for (shape, expected) in [
        (Shape { threads: 1056, ..fits }, "blocks of 1056 threads"),
        (Shape { grid: [1, 65_536, 1], ..fits }, "65536 blocks in y"),
        (Shape { grid: [1, 1, 65_536], ..fits }, "65536 blocks in z"),
        (Shape { shared: 101_377, ..fits }, "101377 bytes of dynamic shared memory"),
    ] {
        let error = run(shape).unwrap_err().to_string();
        assert!(error.starts_with(&format!("planted_missing_barrier: {expected}")), "{error}");
    }
    let beside = Shape { shared: 101_376 - 21_503, ..fits };
    // SAFETY: refused before the missing arguments matter.
    let error = unsafe { device.launch("dora_norms", "dora_norms_f32", beside, &[]) }.unwrap_err().to_string();
    assert!(error.contains("bytes of dynamic shared memory beside") && error.contains("static ones"), "{error}");
}

/// Products of bf16 are exact in f32, so only the order of 16 additions shows.
#[test]
fn matrix_instructions_have_the_layouts_of_ptx() {
    for device in devices() {
        let (a, b) = (Input::random(Element::BF16, 1, 256), Input::random(Element::BF16, 2, 128));
        let (a_, b_) = (a.on(&device), b.on(&device));
        let product = |i: usize, j: usize| (0..16).map(|k| a.values[i * 16 + k] * b.values[k * 8 + j]).sum();
        let want: Vec<f64> = (0..128).map(|at| product(at / 8, at % 8)).collect();
        for kernel in ["layouts_by_hand", "layouts_by_loads"] {
            let d = room(&device, Element::F32, 128);
            let shape = Shape { grid: [1, 1, 1], threads: 32, shared: 1024 };
            let args = [pointer(&a_), pointer(&b_), pointer(&d)];
            // SAFETY: the kernels read 256 and 128 elements and write 128.
            unsafe { device.launch("host/planted/layouts", kernel, shape, &args) }.unwrap();
            close(kernel, &d, &want, 1e-6);
        }
    }
}
