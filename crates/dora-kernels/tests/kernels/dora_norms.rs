//! dora_norms.cu against f64: sums over terms, rows that cancel, zero rows, merging. Tolerance 2e-6 for norms of rows as they are.
//! From terms in f32 that cancel to no less than 1 % it is 1e-5; below that the kernel takes f64, and 2e-6 holds again.

use std::sync::Arc;

use dora_kernels::launch::{DoraNorms, dora_gram, dora_merge, dora_norms, dora_row_norms_squared};
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

    fn found(&self, device: &Arc<dyn Driver>) -> Vec<f64> {
        let squares: Vec<f64> = self.w.values.chunks(self.inner).map(|row| row.iter().map(|x| x * x).sum()).collect();
        let base = Input::new(Element::F32, &squares).on(device);
        let (w, a, b) = (self.w.on(device), self.a.on(device), self.b.on(device));
        let rank = self.a.values.len() / self.inner;
        let (mut n, mut gram) = (room(device, Element::F32, self.out), room(device, Element::F32, rank * rank));
        dora_gram(device.as_ref(), self.w.element, a.view(), gram.view_mut()).unwrap();
        let [a_, _] = self.rounded();
        let products = (0..rank * rank).map(|i| dot(&a_, i / rank, &a_, i % rank, self.inner));
        close("gram", &gram, &products.collect::<Vec<_>>(), 1e-5);
        let operands = DoraNorms {
            base: base.view(),
            gram: gram.view(),
            w: w.view(),
            a: a.view(),
            b: b.view(),
            scaling: S,
            n: n.view_mut(),
        };
        dora_norms(device.as_ref(), operands).unwrap();
        values(&n)
    }

    fn expected(&self, o: usize) -> f64 {
        let (rank, [a, b]) = (self.b.values.len() / self.out, self.rounded());
        let element = |i: usize| {
            let update: f64 = (0..rank).map(|k| b[o * rank + k] * a[k * self.inner + i]).sum();
            self.w.values[o * self.inner + i] + f64::from(S) * update
        };
        (0..self.inner).map(|i| element(i).powi(2)).sum::<f64>().sqrt()
    }
}

#[test]
fn norms_of_the_sum_agree_with_f64() {
    for device in devices() {
        for element in TYPES {
            for (out, inner, rank) in [
                (1, 1, 1),
                (7, 50, 5),
                (64, 33, 32),
                (70, 257, 40),
                (130, 20, 70),
                (33, 520, 16),
                (4100, 24, 3),
                (0, 3, 2),
            ] {
                let case = Case::new(element, out, inner, rank);
                let found = case.found(&device);
                assert_eq!(found.len(), out);
                for (o, found) in found.into_iter().enumerate() {
                    let expected = case.expected(o);
                    let tolerance = if o % 4 == 3 { 2e-6 } else { 1e-5 };
                    let error = (found - expected).abs();
                    assert!(
                        error <= tolerance * expected,
                        "{element} {out}x{inner}x{rank} row {o}: {found}, expected {expected}"
                    );
                }
            }
        }
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
    let found = case.found(&device);
    assert_eq!(found.iter().map(|n| n.is_nan()).collect::<Vec<_>>(), [false, true, false]);
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
