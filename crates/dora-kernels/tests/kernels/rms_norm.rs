//! rms_norm.cu: forward with and without a residual, both gradients, refusals. Tolerance 2e-6 of f32 arithmetic over sums of up to
//! 2,000 elements; bf16 results add their rounding, and bf16 h one more step of it before the norm.

use dora_kernels::launch::{
    RmsNorm, RmsNormBackward, parts_of_rows, rms_norm_backward, rms_norm_backward_weight, rms_norm_forward,
};
use dora_kernels::{Element, Error, View, ViewMut};

use crate::support::{Input, close, devices, room, values};

const EPS: f32 = 1e-5;
const SIZES: [(usize, usize); 6] = [(1, 1), (3, 7), (5, 64), (2, 2048), (67, 24), (1, 1999)];

fn rstd_of(h: &[f64], columns: usize) -> Vec<f64> {
    let mean = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>() / columns as f64;
    h.chunks(columns).map(|row| 1.0 / (mean(row) + f64::from(EPS)).sqrt()).collect()
}

fn normed(h: &[f64], w: &[f64], rstd: &[f64]) -> Vec<f64> {
    let columns = w.len();
    h.iter().enumerate().map(|(i, h)| w[i % columns] * h * rstd[i / columns]).collect()
}

#[test]
fn forward_agrees_with_f64() {
    for device in devices() {
        for element in [Element::F32, Element::BF16] {
            for (rows, columns) in SIZES {
                let n = rows * columns;
                let x = Input::random(element, 1, n);
                let residual = Input::random(element, 2, n);
                let w = Input::random(Element::F32, 3, columns);
                let (mut y, mut rstd, mut h) =
                    (room(&device, element, n), room(&device, Element::F32, rows), room(&device, element, n));
                let (x_, w_, residual_) = (x.on(&device), w.on(&device), residual.on(&device));
                let plain = RmsNorm {
                    x: x_.view(),
                    residual: None,
                    w: w_.view(),
                    y: y.view_mut(),
                    rstd: rstd.view_mut(),
                    eps: EPS,
                };
                rms_norm_forward(device.as_ref(), plain).unwrap();
                let want = rstd_of(&x.values, columns);
                close("rstd", &rstd, &want, 2e-6);
                close("y", &y, &normed(&x.values, &w.values, &want), 2e-6);

                let fused = RmsNorm {
                    x: x_.view(),
                    residual: Some((residual_.view(), h.view_mut())),
                    w: w_.view(),
                    y: y.view_mut(),
                    rstd: rstd.view_mut(),
                    eps: EPS,
                };
                rms_norm_forward(device.as_ref(), fused).unwrap();
                let sum: Vec<f64> = x.values.iter().zip(&residual.values).map(|(a, b)| a + b).collect();
                close("h", &h, &sum, 1e-7);
                let sum = values(&h);
                let want = rstd_of(&sum, columns);
                close("rstd", &rstd, &want, 2e-6);
                close("y", &y, &normed(&sum, &w.values, &want), 2e-6);
            }
        }
    }
}

#[test]
fn gradients_agree_with_f64() {
    for device in devices() {
        for element in [Element::F32, Element::BF16] {
            for (rows, columns) in SIZES {
                let n = rows * columns;
                let (h, dy, skip) =
                    (Input::random(element, 4, n), Input::random(element, 5, n), Input::random(element, 6, n));
                let w = Input::random(Element::F32, 7, columns);
                let rstd = Input::new(Element::F32, &rstd_of(&h.values, columns));
                let (mut dx, mut want) = (room(&device, element, n), Vec::new());
                for row in 0..rows {
                    let at = |i: usize| row * columns + i;
                    let hat = |i: usize| h.values[at(i)] * rstd.values[row];
                    let d = |i: usize| w.values[i] * dy.values[at(i)];
                    let mean = (0..columns).map(|i| d(i) * hat(i)).sum::<f64>() / columns as f64;
                    want.extend((0..columns).map(|i| rstd.values[row] * (d(i) - hat(i) * mean)));
                }
                let (h_, w_, rstd_, dy_, skip_) =
                    (h.on(&device), w.on(&device), rstd.on(&device), dy.on(&device), skip.on(&device));
                let (h_view, w_view, rstd_view) = (h_.view(), w_.view(), rstd_.view());
                let run = |dy: Option<View<'_>>, skip: Option<View<'_>>, dx: ViewMut<'_>| {
                    let a = RmsNormBackward { h: h_view, w: w_view, rstd: rstd_view, dy, skip, dx };
                    rms_norm_backward(device.as_ref(), a).unwrap();
                };
                run(Some(dy_.view()), None, dx.view_mut());
                close("dx", &dx, &want, 1e-5);
                let mut in_place = dy.on(&device);
                run(None, Some(skip_.view()), in_place.view_mut());
                let want: Vec<f64> = want.iter().zip(&skip.values).map(|(a, b)| a + b).collect();
                close("dx + skip", &in_place, &want, 1e-5);

                let parts = parts_of_rows(rows);
                let mut dw = room(&device, Element::F32, parts * columns);
                rms_norm_backward_weight(device.as_ref(), h_.view(), rstd_.view(), dy_.view(), dw.view_mut()).unwrap();
                let mut want = vec![0.0; parts * columns];
                for (i, (h, dy)) in h.values.iter().zip(&dy.values).enumerate() {
                    let row = i / columns;
                    want[row % parts * columns + i % columns] += dy * h * rstd.values[row];
                }
                close("dw", &dw, &want, 1e-5);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = &devices()[0];
    let (x, w) = (Input::random(Element::BF16, 1, 12).on(device), Input::random(Element::F32, 1, 4).on(device));
    let refusal = |x: View<'_>, w: View<'_>| {
        let (mut y, mut rstd) = (room(device, Element::BF16, 12), room(device, Element::F32, 3));
        let a = RmsNorm { x, residual: None, w, y: y.view_mut(), rstd: rstd.view_mut(), eps: EPS };
        rms_norm_forward(device.as_ref(), a).unwrap_err().to_string()
    };
    assert_eq!(refusal(x.view().slice(0..8), w.view()), "rms_norm_forward: x has 8 elements, expected 12");
    assert_eq!(refusal(x.view(), x.view().slice(0..4)), "rms_norm_forward: w is bf16, expected f32");
    assert_eq!(refusal(w.view(), w.view()), "rms_norm_forward: x has 4 elements, expected 12");
    let whole = Input::random(Element::U32, 1, 12).on(device);
    assert_eq!(refusal(whole.view(), w.view()), "rms_norm_forward: the kernel exists for f32 or bf16, found u32");
    let shifted = Input::random(Element::BF16, 1, 13).on(device);
    assert!(refusal(shifted.view().slice(1..13), w.view()).ends_with("expected a multiple of 16 bytes"));
    let wide = Input::random(Element::F32, 1, 30_000).on(device);
    let (mut y, mut rstd) = (room(device, Element::F32, 30_000), room(device, Element::F32, 1));
    let a =
        RmsNorm { x: wide.view(), residual: None, w: wide.view(), y: y.view_mut(), rstd: rstd.view_mut(), eps: EPS };
    assert!(matches!(rms_norm_forward(device.as_ref(), a), Err(Error::Argument { .. })));
}
