//! reduce.cu: norms, clipping (in f64, tolerance 1e-12) and sums of columns (in f32, 1e-6).

use dora_kernels::Element::{BF16, F32, F64};
use dora_kernels::launch::{Gradients, clip, column_parts, column_sum, parts_of_rows, sum_of_squares};

use crate::support::{Input, close, devices, room, values};

#[test]
fn norms_and_factors_agree_with_f64() {
    for device in devices() {
        for n in [1, 9, 300, 5_001] {
            let (squares, losses) = (Input::random(F64, 1, n), Input::random(F32, 2, 3));
            let squares = Input::new(F64, &squares.values.iter().map(|x| x * x).collect::<Vec<_>>());
            let (want, loss) = (squares.values.iter().sum::<f64>(), losses.values.iter().sum::<f64>());
            let (parts, losses, mut out) = (squares.on(&device), losses.on(&device), room(&device, F64, 3));
            for most in [0.0f32, 1e-3, 1e6] {
                clip(device.as_ref(), parts.view(), Some(losses.view()), most, out.view_mut()).unwrap();
                let factor = if most > 0.0 { (f64::from(most) / (want.sqrt() + 1e-6)).min(1.0) } else { 1.0 };
                close("clip", &out, &[want.sqrt(), factor, loss], 1e-12);
            }
        }
    }
}

#[test]
fn large_numbers_do_not_overflow_and_what_is_not_finite_shows() {
    for device in devices() {
        let run = |x: &[f64], losses: &[f64]| {
            let (x, losses) = (Input::new(F32, x).on(&device), Input::new(F32, losses).on(&device));
            let (mut parts, mut out) = (room(&device, F64, 1), room(&device, F64, 3));
            let gradients = Gradients::new(&device, &[x.view()]).unwrap();
            sum_of_squares(device.as_ref(), &gradients, parts.view_mut()).unwrap();
            clip(device.as_ref(), parts.view(), Some(losses.view()), 1.0, out.view_mut()).unwrap();
            values(&out)
        };
        // Its norm, 5e38, is beyond f32.
        let out = run(&[3e38, -3e38, 3e38], &[3e38, 2e38]);
        assert!((out[0] / 3f64.sqrt() / 3e38 - 1.0).abs() < 1e-6, "{out:?}");
        assert!((out[1] * out[0] - 1.0).abs() < 1e-12 && (out[2] / 5e38 - 1.0).abs() < 1e-6, "{out:?}");
        let out = run(&[1.0, f64::NAN, 2.0], &[3.0]);
        assert!(out[0].is_nan() && out[1].is_nan() && out[2] == 3.0, "{out:?}");
        let out = run(&[f64::INFINITY, 1.0], &[]);
        assert!(out[0] == f64::INFINITY && out[1].is_nan() && out[2] == 0.0, "{out:?}");
        for loss in [f64::INFINITY, f64::NAN] {
            let out = run(&[3.0, 4.0], &[1.0, loss]);
            assert!(out[0] == 5.0 && out[1].is_nan() && !out[2].is_finite(), "{out:?}");
        }
    }
}

#[test]
fn columns_add_up() {
    for device in devices() {
        for element in [F32, BF16] {
            for (rows, columns) in [(1, 1), (33, 7), (2100, 3), (65, 136)] {
                let x = Input::random(element, 1, rows * columns);
                let count = parts_of_rows(rows);
                let mut parts = room(&device, F32, count * columns);
                column_parts(device.as_ref(), x.on(&device).view(), rows, parts.view_mut()).unwrap();
                let mut want = vec![0.0; columns];
                x.values.iter().enumerate().for_each(|(i, x)| want[i % columns] += x);
                let mut y = room(&device, F32, columns);
                column_sum(device.as_ref(), parts.view(), false, y.view_mut()).unwrap();
                close("columns", &y, &want, 2e-5);
                column_sum(device.as_ref(), parts.view(), true, y.view_mut()).unwrap();
                close("columns twice", &y, &want.iter().map(|x| 2.0 * x).collect::<Vec<_>>(), 2e-5);
            }
        }
    }
}
