//! Products of the host driver against f64, in every layout and pair of types. Tolerance 1e-6 · √k on sums of about √k; bf16 results
//! add their rounding.

use dora_kernels::Element::{BF16, F32};
use dora_kernels::launch::add;
use dora_kernels::{Event, gemm};

use crate::support::{Input, close, devices, room, values};

#[test]
fn every_layout_agrees_with_f64() {
    let device = &devices()[0];
    for (input, output) in [(F32, F32), (BF16, F32), (BF16, BF16)] {
        for [m, n, k] in [[1, 1, 1], [3, 5, 7], [17, 1, 130], [2, 33, 64], [4, 3, 0]] {
            for (turn_a, turn_b, accumulate) in
                [(false, false, false), (true, false, true), (false, true, false), (true, true, true)]
            {
                let (a, b, d) =
                    (Input::random(input, 1, m * k), Input::random(input, 2, k * n), Input::random(output, 3, m * n));
                let a_at = |i: usize, l: usize| a.values[if turn_a { l * m + i } else { i * k + l }];
                let b_at = |l: usize, j: usize| b.values[if turn_b { j * k + l } else { l * n + j }];
                let want = |at: usize| {
                    let product: f64 = (0..k).map(|l| a_at(at / n, l) * b_at(l, at % n)).sum();
                    1.5 * product + if accumulate { d.values[at] } else { 0.0 }
                };
                let (a_, b_, mut d_) = (a.on(device), b.on(device), d.on(device));
                let operand_a = if turn_a { a_.view().transposed() } else { a_.view().plain() };
                let operand_b = if turn_b { b_.view().transposed() } else { b_.view().plain() };
                gemm(device.as_ref(), [m, n, k], 1.5, operand_a, operand_b, accumulate, &mut d_.view_mut()).unwrap();
                let what = format!("{m}x{n}x{k} of {input}");
                close(&what, &d_, &(0..m * n).map(want).collect::<Vec<_>>(), 1e-6 * (k as f64).sqrt().max(1.0));
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = &devices()[0];
    let (a, b) = (Input::random(F32, 1, 6).on(device), Input::random(BF16, 2, 6).on(device));
    let mut d = room(device, F32, 4);
    let mut refusal = |a: dora_kernels::View<'_>, b: dora_kernels::View<'_>| {
        gemm(device.as_ref(), [2, 2, 3], 1.0, a.plain(), b.plain(), false, &mut d.view_mut()).unwrap_err().to_string()
    };
    assert_eq!(refusal(a.view(), a.view().slice(0..4)), "gemm: B has 4 elements, expected 6");
    assert_eq!(refusal(a.view(), b.view()), "gemm: B is bf16, expected f32");
    let mut d = room(device, BF16, 4);
    let (a, b) = (a.view().plain(), a.view().transposed());
    let error = gemm(device.as_ref(), [2, 2, 3], 1.0, a, b, false, &mut d.view_mut()).unwrap_err().to_string();
    assert_eq!(error, "gemm: D is bf16, expected f32, as A and B");
}

#[test]
fn memory_keeps_its_content_and_is_poisoned_when_fresh() {
    for device in devices() {
        let x = Input::random(F32, 1, 1001);
        let mut a = x.on(&device);
        let b = a.duplicate().unwrap();
        a.upload(&[0; 4004]).unwrap();
        assert_eq!(values(&b), x.values);
        assert_eq!(values(&a), vec![0.0; 1001]);
        assert!(a.upload(&[0; 8]).unwrap_err().to_string().contains("found 8 bytes of host memory, expected 4004"));
        drop((a, b));
        assert!(values(&room(&device, F32, 1001)).iter().all(|x| x.is_nan()));
        let zeros = dora_kernels::Buffer::zeros(&device, BF16, 3).unwrap();
        assert_eq!(values(&zeros), [0.0; 3]);
        let (wall, start) = (std::time::Instant::now(), device.record().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(2));
        let end = device.record().unwrap();
        let elapsed = device.elapsed(&start, &end).unwrap();
        assert!(elapsed.as_millis() >= 2 && elapsed <= wall.elapsed(), "{elapsed:?}");
    }
}

/// What belongs to another driver is refused by name, by kernels and products alike; so is what it never recorded.
#[test]
fn what_belongs_to_another_driver_is_refused() {
    let [here, there] = [&devices()[0], &devices()[1]];
    let (a, b, mut y) = (Input::random(F32, 1, 4).on(here), Input::random(F32, 2, 4).on(there), room(here, F32, 4));
    let belongs = |operand| format!("{operand} belongs to another driver, expected host (scheduling seed 1)");
    let error = add(here.as_ref(), Some(a.view()), b.view(), y.view_mut()).unwrap_err().to_string();
    assert_eq!(error, format!("add: {}", belongs("b")));
    let error = add(there.as_ref(), Some(b.view()), b.view(), y.view_mut()).unwrap_err().to_string();
    assert_eq!(error, "add: y belongs to another driver, expected host (scheduling seed 2)");
    let (a, b) = (a.view().plain(), b.view().plain());
    let error = gemm(here.as_ref(), [2, 2, 2], 1.0, a, b, false, &mut y.view_mut()).unwrap_err().to_string();
    assert_eq!(error, format!("gemm: {}", belongs("B")));
    let error = here.elapsed(&Event::new(7u64), &here.record().unwrap()).unwrap_err().to_string();
    assert_eq!(error, "waiting for an event: another driver recorded it");
}
