//! The driver that times: what it counts under which name, between start and finish alone.

use std::sync::Arc;

use dora_kernels::Element::{BF16, F32};
use dora_kernels::launch::scale;
use dora_kernels::{Buffer, Driver, Timed, gemm};

use crate::support::{Input, device, values};

#[test]
fn what_is_queued_between_start_and_finish_is_counted_by_name() {
    let timed = Arc::new(Timed::new(device(1)));
    let driver: Arc<dyn Driver> = timed.clone();
    let x = Input::random(F32, 1, 15);
    let (a, b) = (x.on(&driver), Input::random(F32, 2, 10).on(&driver));
    let mut y = Buffer::new(&driver, F32, 6).unwrap();
    let product = |y: &mut Buffer| {
        gemm(&*driver, [3, 2, 5], 1.0, a.view().plain(), b.view().plain(), false, &mut y.view_mut()).unwrap();
    };
    product(&mut y);
    assert!(timed.finish().unwrap().is_empty(), "nothing is timed before the start");

    timed.start();
    product(&mut y);
    product(&mut y);
    let before = values(&y);
    // More launches than wait to be read at a time.
    const LAUNCHES: u64 = 8_200;
    for _ in 0..LAUNCHES {
        scale(&*driver, None, 1.0, y.view_mut()).unwrap();
    }
    Input::random(BF16, 3, 7).on(&driver);
    Buffer::zeros(&driver, F32, 4).unwrap();
    y.duplicate().unwrap();
    let sums = timed.finish().unwrap();
    let found: Vec<_> = sums.iter().map(|(name, work)| (name.as_str(), work.calls, work.flops)).collect();
    let expected = [
        ("copy to the device", 1, 0),
        ("copy within the device", 1, 0),
        ("product 3x2x5, f32 to f32", 2, 2 * 2 * 3 * 2 * 5),
        ("scale_f32", LAUNCHES, 0),
        ("zeros", 1, 0),
    ];
    assert_eq!(found, expected);
    assert_eq!(values(&y), before, "a timed launch does what it does");

    product(&mut y);
    assert!(timed.finish().unwrap().is_empty(), "nor after the end");
}
