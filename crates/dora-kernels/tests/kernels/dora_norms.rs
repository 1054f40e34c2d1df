//! dora_norms.cu against f64: sums over terms, rows that cancel, zero rows, merging. Tolerance 2e-6 for norms of rows as they are.
//! From terms in f32 that cancel to no less than 1 % it is 1e-5; below that the kernel takes f64, and 2e-6 holds again.

use std::sync::Arc;

use dora_kernels::launch::{DoraLayers, DoraNorms, dora_gram, dora_merge, dora_norms, dora_row_norms_squared};
use dora_kernels::{Driver, Element};

use crate::support::{Input, close, device, devices, room, values};

const TYPES: [Element; 2] = [Element::F32, Element::BF16];
const S: f32 = 0.75;

#[test]
fn squares_of_rows_agree_with_f64() {
    for device in devices() {
        for element in TYPES {
            for (out, inner) in [(1, 1), (3, 7), (9, 64), (17, 1031), (2, 4096), (0, 5)] {
                let w = Input::random(element, 1, out * inner);
                let mut norms = room(&device, Element::F32, out);
                dora_row_norms_squared(device.as_ref(), w.on(&device).view(), norms.view_mut()).unwrap();
                let want: Vec<f64> = w.values.chunks(inner).map(|row| row.iter().map(|x| x * x).sum()).collect();
                close("norms", &norms, &want, 2e-6);
            }
        }
    }
}

/// Row i of x times row j of y.
fn dot(x: &[f64], i: usize, y: &[f64], j: usize, len: usize) -> f64 {
    x[i * len..][..len].iter().zip(&y[j * len..][..len]).map(|(x, y)| x * y).sum()
}

/// An update and its weight (out, in): every 4th row of W is −s·B·A but for rounding, every 9th of both W and B is 0.
struct Case {
    out: usize,
    inner: usize,
    w: Input,
    a: Input,
    b: Input,
}

impl Case {
    fn new(element: Element, out: usize, inner: usize, rank: usize) -> Self {
        let a = Input::random(Element::F32, 2, rank * inner);
        let rounded = Input::new(element, &a.values).values;
        let mut b = Input::random(Element::F32, 3, out * rank).values;
        let rounded_b = Input::new(element, &b).values;
        let mut w = Input::random(element, 4, out * inner).values;
        for o in 0..out {
            for k in (0..rank).filter(|_| o % 9 == 8) {
                b[o * rank + k] = 0.0;
            }
            for i in 0..inner {
                let update: f64 = (0..rank).map(|k| rounded_b[o * rank + k] * rounded[k * inner + i]).sum();
                match o {
                    _ if o % 9 == 8 => w[o * inner + i] = 0.0,
                    _ if o % 4 == 3 => w[o * inner + i] = -f64::from(S) * update * 1.0002,
                    _ => {}
                }
            }
        }
        Case { out, inner, w: Input::new(element, &w), a, b: Input::new(Element::F32, &b) }
    }

    /// A and B as the products see them.
    fn rounded(&self) -> [Vec<f64>; 2] {
        [&self.a, &self.b].map(|x| Input::new(self.w.element, &x.values).values)
    }

    fn rank(&self) -> usize {
        self.b.values.len() / self.out
    }

    fn expected(&self, o: usize) -> f64 {
        let (rank, [a, b]) = (self.rank(), self.rounded());
        let element = |i: usize| {
            let update: f64 = (0..rank).map(|k| b[o * rank + k] * a[k * self.inner + i]).sum();
            self.w.values[o * self.inner + i] + f64::from(S) * update
        };
        (0..self.inner).map(|i| element(i).powi(2)).sum::<f64>().sqrt()
    }
}

/// The norms of all cases from one launch. A·Aᵀ, from the launch before it, is held to f64.
fn found(device: &Arc<dyn Driver>, cases: &[Case]) -> Vec<Vec<f64>> {
    let on_device = |case: &Case| {
        let squares = case.w.values.chunks(case.inner).map(|row| row.iter().map(|x| x * x).sum());
        let base = Input::new(Element::F32, &squares.collect::<Vec<f64>>());
        [&case.w, &case.a, &case.b, &base].map(|input| input.on(device))
    };
    let inputs: Vec<_> = cases.iter().map(on_device).collect();
    let mut norms: Vec<_> = cases.iter().map(|case| room(device, Element::F32, case.out)).collect();
    let layers = inputs.iter().zip(&mut norms).map(|([w, a, b, base], n)| DoraNorms {
        base: base.view(),
        w: w.view(),
        a: a.view(),
        b: b.view(),
        scaling: S,
        n: n.view_mut(),
    });
    let mut layers = DoraLayers::new(device, layers.collect()).unwrap();
    dora_gram(device.as_ref(), &mut layers).unwrap();
    let gram = values(layers.gram());
    let mut place = 0;
    for case in cases.iter().filter(|case| case.out > 0) {
        let (rank, [a, _]) = (case.rank(), case.rounded());
        for i in 0..rank * rank {
            let (found, expected) = (gram[place + i], dot(&a, i / rank, &a, i % rank, case.inner));
            assert!(
                (found - expected).abs() <= 1e-5 * (1.0 + expected.abs()),
                "gram {i}: {found}, expected {expected}"
            );
        }
        place += (rank * rank).next_multiple_of(4);
    }
    dora_norms(device.as_ref(), &mut layers).unwrap();
    norms.iter().map(values).collect()
}

fn hold(cases: &[Case], found: Vec<Vec<f64>>) {
    for (case, found) in cases.iter().zip(found) {
        assert_eq!(found.len(), case.out);
        for (o, found) in found.into_iter().enumerate() {
            let expected = case.expected(o);
            let tolerance = if o % 4 == 3 { 2e-6 } else { 1e-5 };
            let (shape, error) = ((case.out, case.inner, case.rank()), (found - expected).abs());
            assert!(error <= tolerance * expected, "{shape:?} row {o}: {found}, expected {expected}");
        }
    }
}

#[test]
fn norms_of_the_sum_agree_with_f64() {
    for device in devices() {
        for element in TYPES {
            let cases = [
                (1, 1, 1),
                (7, 50, 5),
                (64, 33, 32),
                (0, 3, 2),
                (70, 257, 40),
                (130, 20, 70),
                (33, 520, 16),
                (41, 24, 3),
            ];
            let cases = cases.map(|(out, inner, rank)| Case::new(element, out, inner, rank));
            hold(&cases, found(&device, &cases));
        }
    }
}

/// More layers than a warp has lanes, and so many rows that a block takes 32.
#[test]
fn norms_of_many_layers_agree_with_f64() {
    let cases: Vec<Case> = (0..35).map(|i| Case::new(Element::BF16, 225 + i % 7, 16 + i, 1 + i % 16)).collect();
    for device in devices() {
        hold(&cases, found(&device, &cases));
        assert_eq!(found(&device, &[]), Vec::<Vec<f64>>::new());
    }
}

/// A base that is not finite must show.
#[test]
fn nan_stays_nan() {
    let device: Arc<dyn Driver> = device(1);
    let mut case = Case::new(Element::F32, 3, 5, 2);
    let mut w = case.w.values.clone();
    w[7] = f64::NAN;
    case.w = Input::new(Element::F32, &w);
    let found = found(&device, &[case]);
    assert_eq!(found[0].iter().map(|n| n.is_nan()).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn merging_scales_rows_and_leaves_zeros() {
    for device in devices() {
        for (out, inner) in [(1, 1), (5, 7), (3, 1031), (0, 4)] {
            let mut w = Input::random(Element::F32, 1, out * inner).values;
            w.iter_mut().skip(inner).take(inner).for_each(|x| *x = 0.0);
            let (w, m) = (Input::new(Element::F32, &w), Input::random(Element::F32, 2, out));
            let mut merged = w.on(&device);
            dora_merge(device.as_ref(), merged.view_mut(), m.on(&device).view()).unwrap();
            let want = w.values.chunks(inner).zip(&m.values).flat_map(|(row, m)| {
                let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                row.iter().map(move |x| if norm == 0.0 { 0.0 } else { x * m / norm })
            });
            close("merged", &merged, &want.collect::<Vec<_>>(), 2e-6);
        }
    }
}
