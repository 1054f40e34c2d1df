//! rope.cu: both directions, in place and not, repeated and unordered positions. Tolerance 2e-7: two products and a sum of f32.

use dora_kernels::Element;
use dora_kernels::launch::{Angles, rope};

use crate::support::{Input, close, devices, room, values};

#[test]
fn both_directions_agree_with_f64() {
    let cases =
        [(1, 1, vec![0]), (3, 5, vec![4, 0, 9]), (2, 8, vec![1, 1, 2, 3, 0]), (4, 64, vec![9, 3]), (5, 4, vec![7; 3])];
    for device in devices() {
        for element in [Element::F32, Element::BF16] {
            for (heads, half, positions) in &cases {
                let (heads, half, rows) = (*heads, *half, positions.len());
                let angle = |i: usize| (i / half) as f64 * 100f64.powf(-((i % half) as f64) / half as f64);
                let cosines = Input::new(Element::F32, &(0..10 * half).map(|i| angle(i).cos()).collect::<Vec<_>>());
                let sines = Input::new(Element::F32, &(0..10 * half).map(|i| angle(i).sin()).collect::<Vec<_>>());
                let x = Input::random(element, 1, rows * heads * 2 * half);
                let numbers: Vec<f64> = positions.iter().map(|p| f64::from(*p)).collect();
                let positions_ = Input::new(Element::U32, &numbers).on(&device);
                let (cosines_, sines_) = (cosines.on(&device), sines.on(&device));
                let angles = Angles { cosines: cosines_.view(), sines: sines_.view(), half };
                for direction in [1.0f32, -1.0] {
                    let mut want = x.values.clone();
                    for (row, head) in want.chunks_mut(2 * half).enumerate() {
                        let at = positions[row / heads] as usize * half;
                        for i in 0..half {
                            let (c, s) = (cosines.values[at + i], sines.values[at + i] * f64::from(direction));
                            (head[i], head[i + half]) =
                                (head[i] * c - head[i + half] * s, head[i + half] * c + head[i] * s);
                        }
                    }
                    let (mut x_, mut y) = (x.on(&device), room(&device, element, x.values.len()));
                    rope(device.as_ref(), Some(x_.view()), positions_.view(), angles, direction, y.view_mut()).unwrap();
                    close("rope", &y, &want, 2e-7);
                    rope(device.as_ref(), None, positions_.view(), angles, direction, x_.view_mut()).unwrap();
                    close("rope in place", &x_, &want, 2e-7);
                }
            }
        }
    }
}

#[test]
fn a_position_beyond_the_angles_gives_nan_in_its_row() {
    for device in devices() {
        let angles_ = Input::random(Element::F32, 1, 8).on(&device);
        let angles = Angles { cosines: angles_.view(), sines: angles_.view(), half: 4 };
        let positions = Input::new(Element::U32, &[1.0, 2.0]).on(&device);
        let mut y = Input::random(Element::F32, 2, 16).on(&device);
        rope(device.as_ref(), None, positions.view(), angles, 1.0, y.view_mut()).unwrap();
        let nan: Vec<bool> = values(&y).iter().map(|y| y.is_nan()).collect();
        assert_eq!(nan, [[false; 8], [true; 8]].concat());
        let error = rope(device.as_ref(), None, positions.view(), Angles { half: 3, ..angles }, 1.0, y.view_mut());
        assert_eq!(error.unwrap_err().to_string(), "rope: rows of 8 elements, expected heads of 6");
    }
}
