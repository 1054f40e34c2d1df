//! swiglu.cu, far tails included. Tolerance 2e-6: an exponential and a division of f32.

use dora_kernels::Element;
use dora_kernels::launch::{swiglu_backward, swiglu_forward};

use crate::support::{Input, close, devices, room};

#[test]
fn both_passes_agree_with_f64() {
    for device in devices() {
        for element in [Element::F32, Element::BF16] {
            for n in [0, 1, 5, 8, 515, 4096] {
                let mut gate = Input::random(element, 1, n);
                if n == 515 {
                    let tails = [-100.0, -30.0, 30.0, 100.0, 0.0];
                    gate = Input::new(element, &(0..n).map(|i| tails[i % 5]).collect::<Vec<_>>());
                }
                let (up, dy) = (Input::random(element, 2, n), Input::random(element, 3, n));
                let (gate_, up_) = (gate.on(&device), up.on(&device));
                let sigmoid = |g: f64| 1.0 / (1.0 + (-g).exp());
                let each = |f: fn(f64, f64, f64, f64) -> f64| -> Vec<f64> {
                    (0..n).map(|i| f(gate.values[i], sigmoid(gate.values[i]), up.values[i], dy.values[i])).collect()
                };
                let mut y = room(&device, element, n);
                swiglu_forward(device.as_ref(), gate_.view(), up_.view(), y.view_mut()).unwrap();
                close("y", &y, &each(|g, s, u, _| g * s * u), 2e-6);
                let (mut dgate, mut dup) = (room(&device, element, n), dy.on(&device));
                swiglu_backward(device.as_ref(), gate_.view(), up_.view(), dgate.view_mut(), dup.view_mut()).unwrap();
                close("dgate", &dgate, &each(|g, s, u, d| d * u * s * (1.0 + g * (1.0 - s))), 2e-6);
                close("dup", &dup, &each(|g, s, _, d| d * g * s), 2e-6);
            }
        }
    }
}
