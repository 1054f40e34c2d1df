//! pointwise.cu, out of place and in place. f32 results are the rounded f64 ones: tolerance 1e-7.

use dora_kernels::launch::{add, add_row, mul, scale, sub};
use dora_kernels::{Driver, Element, Result, View, ViewMut};

use crate::support::{Input, close, devices, room};

type Launch = fn(&dyn Driver, Option<View<'_>>, View<'_>, ViewMut<'_>) -> Result<()>;
type Reference = fn(f64, f64) -> f64;

#[test]
fn operations_of_two_agree_with_f64() {
    let table: [(&str, Launch, Reference); 3] =
        [("add", add, |a, b| a + b), ("sub", sub, |a, b| a - b), ("mul", mul, |a, b| a * b)];
    for device in devices() {
        for element in [Element::F32, Element::BF16] {
            for n in [0, 1, 7, 8, 1025, 4099] {
                let (a, b) = (Input::random(element, 1, n), Input::random(element, 2, n));
                for (name, launch, reference) in table {
                    let want: Vec<f64> = a.values.iter().zip(&b.values).map(|(a, b)| reference(*a, *b)).collect();
                    let mut y = room(&device, element, n);
                    let (mut a_, b_) = (a.on(&device), b.on(&device));
                    launch(device.as_ref(), Some(a_.view()), b_.view(), y.view_mut()).unwrap();
                    close(name, &y, &want, 1e-7);
                    launch(device.as_ref(), None, b_.view(), a_.view_mut()).unwrap();
                    close(name, &a_, &want, 1e-7);
                }
            }
        }
    }
}

#[test]
fn multiples_and_added_rows_agree_with_f64() {
    for device in devices() {
        for element in [Element::F32, Element::BF16] {
            for (rows, columns) in [(1, 1), (3, 7), (5, 64), (2, 1999), (0, 3)] {
                let (x, b) = (Input::random(element, 1, rows * columns), Input::random(Element::F32, 2, columns));
                let (mut x_, b_) = (x.on(&device), b.on(&device));
                let mut y = room(&device, element, rows * columns);
                scale(device.as_ref(), Some(x_.view()), -1.7, y.view_mut()).unwrap();
                let want: Vec<f64> = x.values.iter().map(|x| x * f64::from(-1.7f32)).collect();
                close("scale", &y, &want, 1e-7);
                add_row(device.as_ref(), Some(x_.view()), b_.view(), y.view_mut()).unwrap();
                let want: Vec<f64> = x.values.iter().enumerate().map(|(i, x)| x + b.values[i % columns]).collect();
                close("add_row", &y, &want, 1e-7);
                add_row(device.as_ref(), None, b_.view(), x_.view_mut()).unwrap();
                close("add_row in place", &x_, &want, 1e-7);
            }
        }
    }
}

#[test]
fn unequal_lengths_are_refused() {
    let device = &devices()[0];
    let (a, b) = (Input::random(Element::F32, 1, 5).on(device), Input::random(Element::F32, 1, 6).on(device));
    let mut y = room(device, Element::F32, 5);
    let error = add(device.as_ref(), Some(a.view()), b.view(), y.view_mut()).unwrap_err().to_string();
    assert_eq!(error, "add: b has 6 elements, expected 5");
    let half = Input::random(Element::BF16, 1, 5).on(device);
    let error = mul(device.as_ref(), Some(a.view()), half.view(), y.view_mut()).unwrap_err().to_string();
    assert_eq!(error, "mul: b is bf16, expected f32");
}
