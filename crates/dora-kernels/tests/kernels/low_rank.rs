//! low_rank.cu against f64, with P as the products see it, rounded to the activations' type; columns of norm 0 among those of DoRA.
//! Tolerance 1e-5 for sums, to which bf16 results add their rounding.

use dora_kernels::Element;
use dora_kernels::launch::{
    DoraColumns, LowRankBase, LowRankCompose, LowRankFactor, LowRankProject, low_rank_compose, low_rank_project,
};

use crate::support::{Input, close, devices, room, values};

/// Rows, columns of the wide side, rank.
const SIZES: [(usize, usize, usize); 11] = [
    (1, 1, 1),
    (3, 7, 2),
    (0, 8, 4),
    (5, 64, 16),
    (33, 40, 17),
    (67, 264, 8),
    (65, 513, 33),
    (130, 72, 37),
    (31, 300, 64),
    (31, 304, 64),
    (40, 72, 32),
];
/// So many rows that a block goes through more than it loads at a time.
const LONG: [(usize, usize, usize); 2] = [(8200, 8, 5), (8200, 8, 40)];
const TYPES: [Element; 2] = [Element::F32, Element::BF16];
const S: f32 = 1.75;

/// P as (wide, r), rounded as in products, and the same as f32 in the layout of A and of B.
struct Factor {
    rounded: Vec<f64>,
    a: Input,
    b: Input,
}

impl Factor {
    fn new(element: Element, wide: usize, rank: usize) -> Self {
        let b = Input::random(Element::F32, 3, wide * rank);
        let transposed = (0..wide * rank).map(|i| b.values[i % wide * rank + i / wide]);
        let a = Input::new(Element::F32, &transposed.collect::<Vec<_>>());
        Factor { rounded: Input::new(element, &b.values).values, a, b }
    }
}

#[test]
fn products_onto_the_rank_agree_with_f64() {
    for device in devices() {
        for element in TYPES {
            for (rows, wide, rank) in SIZES {
                let (x, p) = (Input::random(element, 1, rows * wide), Factor::new(element, wide, rank));
                let want: Vec<f64> = (0..rows * rank)
                    .map(|i| {
                        let (row, k) = (i / rank, i % rank);
                        let terms = (0..wide).map(|c| x.values[row * wide + c] * p.rounded[c * rank + k]);
                        f64::from(S) * terms.sum::<f64>()
                    })
                    .collect();
                let (x, a, b) = (x.on(&device), p.a.on(&device), p.b.on(&device));
                for factor in [LowRankFactor::A(a.view()), LowRankFactor::B(b.view())] {
                    let mut h = room(&device, element, want.len());
                    let onto_h = LowRankProject { x: x.view(), factor, rank, scaling: S, h: h.view_mut() };
                    low_rank_project(device.as_ref(), onto_h).unwrap();
                    close("h", &h, &want, 1e-5);
                }
            }
        }
    }
}

#[test]
fn products_from_the_rank_agree_with_f64() {
    for (number, device) in devices().into_iter().enumerate() {
        for element in TYPES {
            let long = LONG.into_iter().filter(|_| number == 0 && element == Element::BF16);
            for (rows, wide, rank) in SIZES.into_iter().chain(long) {
                let (z, h) = (Input::random(element, 1, rows * wide), Input::random(element, 2, rows * rank));
                let p = Factor::new(element, wide, rank);
                let near_one = |stream, every: usize| {
                    let x = Input::random(Element::F32, stream, wide).values;
                    let x = x.iter().enumerate().map(|(i, x)| if i % every == every - 1 { 0.0 } else { 2.0 + 0.4 * x });
                    Input::new(Element::F32, &x.collect::<Vec<_>>())
                };
                let (m, n, bias) = (near_one(4, 7), near_one(5, 5), Input::random(Element::F32, 6, wide));
                let update = |i: usize| {
                    let (row, c) = (i / wide, i % wide);
                    let terms = (0..rank).map(|k| h.values[row * rank + k] * p.rounded[c * rank + k]);
                    f64::from(S) * terms.sum::<f64>()
                };
                let gain = |c: usize| if n.values[c] == 0.0 { 1.0 } else { m.values[c] / n.values[c] };
                let all = |f: &dyn Fn(usize) -> f64| (0..rows * wide).map(f).collect::<Vec<_>>();
                let (z_, h_, a, b) = (z.on(&device), h.on(&device), p.a.on(&device), p.b.on(&device));
                let (m_, n_, bias_) = (m.on(&device), n.on(&device), bias.on(&device));
                for factor in [LowRankFactor::A(a.view()), LowRankFactor::B(b.view())] {
                    let run = |z, columns, mut y: dora_kernels::Buffer| {
                        let (h, y_) = (h_.view(), y.view_mut());
                        let operands = LowRankCompose { z, h, factor, rank, scaling: S, columns, y: y_ };
                        low_rank_compose(device.as_ref(), operands).unwrap();
                        y
                    };
                    let empty = || room(&device, element, rows * wide);
                    let y = run(LowRankBase::Zero, None, empty());
                    close("s·h·P", &y, &all(&update), 1e-5);
                    let y = run(LowRankBase::Own, None, z.on(&device));
                    close("z + s·h·P", &y, &all(&|i| z.values[i] + update(i)), 1e-5);
                    for bias_view in [None, Some(bias_.view())] {
                        let columns = Some(DoraColumns { m: m_.view(), n: n_.view(), bias: bias_view });
                        let b = |c: usize| if bias_view.is_some() { bias.values[c] } else { 0.0 };
                        let y = run(LowRankBase::Other(z_.view()), columns, empty());
                        let want = all(&|i| gain(i % wide) * (z.values[i] + update(i)) + b(i % wide));
                        close("y", &y, &want, 1e-5);
                        assert_eq!(values(&y), values(&run(LowRankBase::Own, columns, z.on(&device))));
                    }
                }
            }
        }
    }
}
