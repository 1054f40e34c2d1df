//! adamw.cu against f64: three steps with decay and clipping (tolerance 1e-6: the moments' f32), and sums of squares (1e-12).

use std::sync::Arc;

use dora_kernels::Element::{BF16, F32, F64};
use dora_kernels::launch::{Gradients, Slot, Slots, adamw, sum_of_squares};
use dora_kernels::{Buffer, Driver};

use crate::support::{Input, close, devices, room, values};

/// Lengths: empty ones first, in the middle and last; one of several blocks, one whose last block is one element.
const LENGTHS: [usize; 9] = [0, 1, 4, 7, 0, 4097, 1030, 12_288, 0];

/// p, u and v of a parameter on a device, changed by its gradient.
fn update(device: &Arc<dyn Driver>, [p, u, v]: [&mut Buffer; 3], g: &Buffer, settings: &Buffer, clip: &Buffer) {
    let slot = Slot { p: p.view_mut(), g: g.view(), moments: [u.view_mut(), v.view_mut()], settings: 0 };
    let slots = Slots::new(device, vec![slot]).unwrap();
    adamw(device.as_ref(), slots, settings.view(), clip.view()).unwrap();
}

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
        update(&device, [&mut p, u, v], &g, &settings, &clip);
        assert_eq!((values(u), values(v)), (vec![f64::from(0.1f32)], vec![f64::from(0.001f32)]));
    }
}

/// Parameters of all lengths in one launch, every other one with settings of its own.
#[test]
fn three_steps_agree_with_f64() {
    let (rates, decay, eps, clip) = ([0.01, 0.03], 0.1, 1e-8, 0.25);
    for device in devices() {
        let random = |stream| LENGTHS.map(|n| Input::random(F32, stream + n as u64, n));
        let zeros = || LENGTHS.map(|n| Input::new(F32, &vec![0.0; n]));
        let p = random(1);
        let [mut p_, mut u_, mut v_] = [&p, &zeros(), &zeros()].map(|all| all.each_ref().map(|x| x.on(&device)));
        let (mut want, mut u, mut v) = (p.map(|p| p.values), zeros().map(|x| x.values), zeros().map(|x| x.values));
        for t in 1..=3 {
            let g = random(10 + t);
            let (b1, b2) = (1.0 - 0.9f64.powi(t as i32), (1.0 - 0.999f64.powi(t as i32)).sqrt());
            let of = rates.map(|lr| settings(1.0 - lr * decay, lr / b1, b2, eps)).concat();
            let (settings_, clip_) = (Input::new(F32, &of).on(&device), Input::new(F64, &[7.0, clip, 2.0]).on(&device));
            let g_ = g.each_ref().map(|g| g.on(&device));
            let mut slots = Vec::new();
            for (i, (((p, u), v), g)) in p_.iter_mut().zip(&mut u_).zip(&mut v_).zip(&g_).enumerate() {
                let moments = [u.view_mut(), v.view_mut()];
                slots.push(Slot { p: p.view_mut(), g: g.view(), moments, settings: i % 2 });
            }
            let slots = Slots::new(&device, slots).unwrap();
            adamw(device.as_ref(), slots, settings_.view(), clip_.view()).unwrap();
            for (slot, g) in g.iter().enumerate() {
                let lr = rates[slot % 2];
                let (p, u, v) = (&mut want[slot], &mut u[slot], &mut v[slot]);
                for (i, g) in g.values.iter().enumerate() {
                    let d = g * clip;
                    u[i] = 0.9 * u[i] + 0.1 * d;
                    v[i] = 0.999 * v[i] + 0.001 * d * d;
                    p[i] = p[i] * (1.0 - lr * decay) - lr / b1 * u[i] / (v[i].sqrt() / b2 + eps);
                }
            }
        }
        for slot in 0..LENGTHS.len() {
            close("p", &p_[slot], &want[slot], 1e-6);
            close("u", &u_[slot], &u[slot], 1e-6);
            close("v", &v_[slot], &v[slot], 1e-6);
        }
    }
}

#[test]
fn squares_agree_with_f64() {
    for device in devices() {
        for lengths in [&LENGTHS[..], &[], &[0], &[50_001]] {
            let x: Vec<Input> = lengths.iter().map(|&n| Input::random(F32, n as u64, n)).collect();
            let on_device: Vec<Buffer> = x.iter().map(|x| x.on(&device)).collect();
            let views: Vec<_> = on_device.iter().map(Buffer::view).collect();
            let gradients = Gradients::new(&device, &views).unwrap();
            let mut parts = room(&device, F64, gradients.parts());
            sum_of_squares(device.as_ref(), &gradients, parts.view_mut()).unwrap();
            let want: f64 = x.iter().flat_map(|x| &x.values).map(|x| x * x).sum();
            let found: f64 = values(&parts).iter().sum();
            assert!((found - want).abs() <= 1e-12 * want, "{found}, expected {want}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let [device, other, _] = <[_; 3]>::try_from(devices()).unwrap();
    let of = |element, n, device| Input::random(element, 1, n).on(device);
    let gradient = |g: &Buffer| Gradients::new(&device, &[g.view()]).map(|_| ()).unwrap_err().to_string();
    assert_eq!(gradient(&of(BF16, 8, &device)), "adamw: g is bf16, expected f32");
    assert!(gradient(&of(F32, 8, &other)).contains("g belongs to another driver"));
    let [mut p, mut u, mut v] = [8, 8, 7].map(|n| of(F32, n, &device));
    let g = of(F32, 8, &device);
    let slot = Slot { p: p.view_mut(), g: g.view(), moments: [u.view_mut(), v.view_mut()], settings: 0 };
    let error = Slots::new(&device, vec![slot]).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "adamw: v has 7 elements, expected 8");
}

#[test]
fn nothing_changes_where_the_norm_was_not_finite() {
    for device in devices() {
        let [mut p, mut u, mut v] = [1, 2, 3].map(|stream| Input::random(F32, stream, 9).on(&device));
        let before = [&p, &u, &v].map(values);
        let (g, settings) = (Input::random(F32, 4, 9).on(&device), Input::random(F32, 5, 8).on(&device));
        let clip = Input::new(F64, &[3.0, f64::NAN, f64::INFINITY]).on(&device);
        update(&device, [&mut p, &mut u, &mut v], &g, &settings, &clip);
        assert_eq!([&p, &u, &v].map(values), before);
    }
}
