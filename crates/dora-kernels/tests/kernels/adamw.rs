//! adamw.cu over three steps with decay and clipping, against f64. Tolerance 1e-6: the moments' f32.

use dora_kernels::Element::{F32, F64};
use dora_kernels::launch::adamw;

use crate::support::{Input, close, devices, values};

/// For β = (0.9, 0.999).
fn settings(keep: f64, size: f64, root: f64, eps: f64) -> [f64; 8] {
    [keep, size, root, eps, 0.9, 0.999, 1.0 - 0.9, 1.0 - 0.999]
}

/// 1 − 0.999 is 1e-3 to the last bit of f32, where 1 − f32(0.999) would be off by 1.3e-8: v after one step shows it.
#[test]
fn what_is_left_of_a_moment_is_rounded_once() {
    for device in devices() {
        let mut moments = [(); 2].map(|()| Input::new(F32, &[0.0]).on(&device));
        let [u, v] = &mut moments;
        let (mut p, g) = (Input::new(F32, &[1.0]).on(&device), Input::new(F32, &[1.0]).on(&device));
        let settings = Input::new(F32, &settings(1.0, 0.01, 1.0, 1e-8)).on(&device);
        let clip = Input::new(F64, &[1.0, 1.0, 0.0]).on(&device);
        let moments = [u.view_mut(), v.view_mut()];
        adamw(device.as_ref(), p.view_mut(), g.view(), moments, settings.view(), clip.view()).unwrap();
        assert_eq!((values(u), values(v)), (vec![f64::from(0.1f32)], vec![f64::from(0.001f32)]));
    }
}

#[test]
fn three_steps_agree_with_f64() {
    let (lr, decay, eps, clip) = (0.01, 0.1, 1e-8, 0.25);
    for device in devices() {
        for n in [1, 4, 7, 1030] {
            let p = Input::random(F32, 1, n);
            let zeros = vec![0.0; n];
            let (mut p_, mut u_, mut v_) =
                (p.on(&device), Input::new(F32, &zeros).on(&device), Input::new(F32, &zeros).on(&device));
            let (mut want, mut u, mut v) = (p.values.clone(), zeros.clone(), zeros);
            for t in 1..=3 {
                let g = Input::random(F32, 10 + t, n);
                let (b1, b2) = (1.0 - 0.9f64.powi(t as i32), (1.0 - 0.999f64.powi(t as i32)).sqrt());
                let settings = Input::new(F32, &settings(1.0 - lr * decay, lr / b1, b2, eps));
                let clip_ = Input::new(F64, &[7.0, clip, 2.0]);
                let (g_, settings_, clip_) = (g.on(&device), settings.on(&device), clip_.on(&device));
                let moments = [u_.view_mut(), v_.view_mut()];
                adamw(device.as_ref(), p_.view_mut(), g_.view(), moments, settings_.view(), clip_.view()).unwrap();
                for i in 0..n {
                    let d = g.values[i] * clip;
                    u[i] = 0.9 * u[i] + 0.1 * d;
                    v[i] = 0.999 * v[i] + 0.001 * d * d;
                    want[i] = want[i] * (1.0 - lr * decay) - lr / b1 * u[i] / (v[i].sqrt() / b2 + eps);
                }
            }
            close("p", &p_, &want, 1e-6);
            close("u", &u_, &u, 1e-6);
            close("v", &v_, &v, 1e-6);
        }
    }
}

#[test]
fn nothing_changes_where_the_norm_was_not_finite() {
    for device in devices() {
        let [mut p, mut u, mut v] = [1, 2, 3].map(|stream| Input::random(F32, stream, 9).on(&device));
        let before = [&p, &u, &v].map(values);
        let (g, settings) = (Input::random(F32, 4, 9).on(&device), Input::random(F32, 5, 8).on(&device));
        let clip = Input::new(F64, &[3.0, f64::NAN, f64::INFINITY]).on(&device);
        let moments = [u.view_mut(), v.view_mut()];
        adamw(device.as_ref(), p.view_mut(), g.view(), moments, settings.view(), clip.view()).unwrap();
        assert_eq!([&p, &u, &v].map(values), before);
    }
}
