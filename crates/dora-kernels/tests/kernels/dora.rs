//! dora.cu against f64, with columns whose norm is 0 and magnitudes that vanish. Tolerance 2e-6 for one element, 1e-5 for sums over
//! 32 rows, dm and dh, for each 500 columns; bf16 results add their rounding.

use dora_kernels::Element;
use dora_kernels::launch::{
    DoraBackward, DoraColumns, DoraComposeDropout, DoraMagnitude, DoraOutput, DoraProjection, dora_backward,
    dora_compose_dropout, dora_magnitude, dora_strips,
};

use crate::support::{Input, close, devices, room};

const SIZES: [(usize, usize); 7] = [(1, 1), (3, 7), (0, 8), (5, 64), (67, 40), (130, 264), (65, 513)];
const TYPES: [Element; 2] = [Element::F32, Element::BF16];
const S: f32 = 1.75;

/// m and n of about 1; every 5th column of norm 0, every 7th with an m that vanishes.
fn vectors(width: usize) -> (Input, Input, Input) {
    let near_one = |stream, few: f64, every: usize| {
        let x = Input::random(Element::F32, stream, width).values;
        let x = x.iter().enumerate().map(|(i, x)| if i % every == every - 1 { few } else { 2.0 + 0.4 * x });
        Input::new(Element::F32, &x.collect::<Vec<_>>())
    };
    (near_one(21, -3e-8, 7), near_one(22, 0.0, 5), Input::random(Element::F32, 23, width))
}

fn gain(m: f64, n: f64) -> f64 {
    if n == 0.0 { 1.0 } else { m / n }
}

/// Element i of a (rows, width) result.
fn each(rows: usize, width: usize, f: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..rows * width).map(|i| f(i, i % width)).collect()
}

#[test]
fn composing_with_dropout_agrees_with_f64() {
    for device in devices() {
        for element in TYPES {
            for (rows, width) in SIZES {
                let len = rows * width;
                let [base, z, low] = [1, 2, 3].map(|stream| Input::random(element, stream, len));
                let (m, n, bias) = vectors(width);
                let (m_, n_, bias_, low_) = (m.on(&device), n.on(&device), bias.on(&device), low.on(&device));
                for with_bias in [false, true] {
                    let columns = DoraColumns { m: m_.view(), n: n_.view(), bias: with_bias.then_some(bias_.view()) };
                    let s = f64::from(S);
                    let b = |c: usize| if with_bias { bias.values[c] } else { 0.0 };
                    let g = |c: usize| gain(m.values[c], n.values[c]);

                    let want = each(rows, width, |i, c| {
                        base.values[i] + (g(c) - 1.0) * z.values[i] + g(c) * s * low.values[i] + b(c)
                    });
                    let (mut y, mut kept) = (base.on(&device), z.on(&device));
                    let a = DoraComposeDropout {
                        base: None,
                        z: kept.view_mut(),
                        low: low_.view(),
                        scaling: S,
                        columns,
                        y: y.view_mut(),
                    };
                    dora_compose_dropout(device.as_ref(), a).unwrap();
                    close("y with dropout", &y, &want, 2e-6);
                    close("z", &kept, &each(rows, width, |i, _| z.values[i] + s * low.values[i]), 2e-6);
                }
            }
        }
    }
}

#[test]
fn gradients_agree_with_f64() {
    for device in devices() {
        for element in TYPES {
            // With more columns than the warps of a block take at a time, and ranks of every way to read B.
            let others = [((35, 2064), 16), ((67, 264), 17)];
            for ((rows, width), rank) in SIZES.into_iter().zip([1, 16, 5, 0, 32, 3, 17]).chain(others) {
                let len = rows * width;
                let b = Input::random(Element::F32, 7, width * rank);
                let rounded = Input::new(element, &b.values).values;
                let b_ = b.on(&device);
                let [dy, value] = [4, 5].map(|stream| Input::random(element, stream, len));
                let (m, n, bias) = vectors(width);
                let (m_, n_, bias_, dy_, value_) =
                    (m.on(&device), n.on(&device), bias.on(&device), dy.on(&device), value.on(&device));
                for from_output in [false, true] {
                    let columns = DoraColumns { m: m_.view(), n: n_.view(), bias: from_output.then_some(bias_.view()) };
                    let b = |c: usize| if from_output { bias.values[c] } else { 0.0 };
                    let g = |c: usize| gain(m.values[c], n.values[c]);
                    let mut partial = room(&device, Element::F32, dora_strips(rows) * width);
                    let (mut dz, mut rest) = (dy.on(&device), room(&device, element, len));
                    let mut dh = room(&device, element, rows * rank);
                    let a = DoraBackward {
                        dy: if from_output { None } else { Some(dy_.view()) },
                        value: value_.view(),
                        columns,
                        dz: dz.view_mut(),
                        rest: (!from_output).then_some(rest.view_mut()),
                        partial: partial.view_mut(),
                        h: (rank > 0).then(|| DoraProjection { b: b_.view(), rank, scaling: S, dh: dh.view_mut() }),
                    };
                    dora_backward(device.as_ref(), a).unwrap();
                    close("dz", &dz, &each(rows, width, |i, c| g(c) * dy.values[i]), 2e-6);
                    if !from_output {
                        close("rest", &rest, &each(rows, width, |i, c| (g(c) - 1.0) * dy.values[i]), 2e-6);
                    }
                    let scaled: Vec<f64> = (0..len).map(|i| g(i % width) * dy.values[i]).collect();
                    let scaled = Input::new(element, &scaled).values;
                    let product = |i: usize| {
                        let terms = (0..width).map(|c| scaled[i / rank * width + c] * rounded[c * rank + i % rank]);
                        f64::from(S) * terms.sum::<f64>()
                    };
                    let long = (width as f64 / 500.0).max(1.0);
                    close("dh", &dh, &(0..rows * rank).map(product).collect::<Vec<_>>(), 1e-5 * long);
                    let mut sums = vec![0.0; dora_strips(rows) * width];
                    for i in 0..len {
                        sums[i / width / 32 * width + i % width] += dy.values[i] * (value.values[i] - b(i % width));
                    }
                    close("partial", &partial, &sums, 1e-5);
                    if from_output {
                        continue;
                    }
                    let dm = |c: usize| match n.values[c] {
                        0.0 => 0.0,
                        n => sums.iter().skip(c).step_by(width).sum::<f64>() / n,
                    };
                    let mut found = room(&device, Element::F32, width);
                    let a = DoraMagnitude { partial: partial.view(), columns, output: None, dm: found.view_mut() };
                    dora_magnitude(device.as_ref(), a).unwrap();
                    close("dm", &found, &(0..width).map(dm).collect::<Vec<_>>(), 1e-5);
                }
            }
        }
    }
}

/// From the sums over y, and for columns whose magnitude vanished from what y was computed from.
#[test]
fn magnitudes_get_their_gradient_from_the_output() {
    for device in devices() {
        for element in TYPES {
            for (rows, width, inner, rank) in [(1, 7, 1, 1), (9, 14, 33, 3), (67, 70, 20, 40), (0, 9, 5, 2)] {
                let [dy, x, h, w] = [rows * width, rows * inner, rows * rank, width * inner]
                    .map(|len| Input::random(element, len as u64, len));
                let b = Input::random(Element::F32, 32, width * rank);
                let strips = 11;
                let partial = Input::random(Element::F32, 31, strips * width);
                let (m, n, _) = vectors(width);
                let [dy_, x_, h_, w_, b_, m_, n_] = [&dy, &x, &h, &w, &b, &m, &n].map(|input| input.on(&device));
                let (partial_, mut dm) = (partial.on(&device), room(&device, Element::F32, width));
                let output =
                    DoraOutput { dy: dy_.view(), x: x_.view(), h: h_.view(), w: w_.view(), b: b_.view(), scaling: S };
                let a = DoraMagnitude {
                    partial: partial_.view(),
                    columns: DoraColumns { m: m_.view(), n: n_.view(), bias: None },
                    output: Some(output),
                    dm: dm.view_mut(),
                };
                dora_magnitude(device.as_ref(), a).unwrap();
                let dot = |a: &Input, i: usize, b: &Input, j: usize, len: usize| -> f64 {
                    (0..len).map(|k| a.values[i * len + k] * b.values[j * len + k]).sum()
                };
                let want = (0..width).map(|o| {
                    let (m, n) = (m.values[o], n.values[o]);
                    if n == 0.0 {
                        return 0.0;
                    }
                    if m.abs() > 1e-6 * n {
                        return partial.values.iter().skip(o).step_by(width).sum::<f64>() / m;
                    }
                    let z = |t: usize| dot(&x, t, &w, o, inner) + f64::from(S) * dot(&h, t, &b, o, rank);
                    (0..rows).map(|t| dy.values[t * width + o] * z(t)).sum::<f64>() / n
                });
                close("dm", &dm, &want.collect::<Vec<_>>(), 2e-5);
            }
        }
    }
}
