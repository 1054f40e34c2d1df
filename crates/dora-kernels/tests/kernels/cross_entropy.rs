//! cross_entropy.cu against f64: losses and gradients at vocabularies that are odd, smaller than a warp and larger than a block,
//! ignored rows, targets that are no token. Tolerance 3e-6 (f32 sums of up to 5,003 exponentials); bf16 gradients add their
//! rounding.

use std::sync::Arc;

use dora_kernels::launch::{cross_entropy, cross_entropy_losses};
use dora_kernels::{Buffer, Driver, Element};

use crate::support::{Input, close, devices, room, values};

const SIZES: [(usize, usize); 7] = [(1, 1), (3, 7), (5, 64), (4, 333), (2, 5003), (2, 4096), (0, 8)];
const IGNORE: i32 = -100;

fn targets(device: &Arc<dyn Driver>, targets: &[i32]) -> Buffer {
    let bytes: Vec<u8> = targets.iter().flat_map(|t| t.to_le_bytes()).collect();
    Buffer::from_bytes(device, Element::U32, &bytes).unwrap()
}

/// Logits of wide range, so that the largest is met late as well as early.
fn logits(element: Element, rows: usize, vocab: usize) -> Input {
    let x = Input::random(element, 1 + vocab as u64, rows * vocab).values;
    Input::new(element, &x.iter().map(|x| 6.0 * x).collect::<Vec<_>>())
}

#[test]
fn losses_and_gradients_agree_with_f64() {
    for device in devices() {
        for element in [Element::F32, Element::BF16] {
            for (rows, vocab) in SIZES {
                let z = logits(element, rows, vocab);
                let chosen: Vec<i32> =
                    (0..rows).map(|r| if r % 3 == 1 { IGNORE } else { ((r * 7 + vocab - 1) % vocab) as i32 }).collect();
                let scale = 0.125;
                let (mut losses, mut gradient) = (Vec::new(), Vec::new());
                for (row, &target) in z.values.chunks(vocab).zip(&chosen) {
                    let sum: f64 = row.iter().map(|z| z.exp()).sum();
                    let counts = target != IGNORE;
                    losses.push(if counts { sum.ln() - row[target as usize] } else { 0.0 });
                    gradient.extend(row.iter().enumerate().map(|(i, z)| {
                        let hot = if i as i32 == target { 1.0 } else { 0.0 };
                        if counts { f64::from(scale) * (z.exp() / sum - hot) } else { 0.0 }
                    }));
                }
                let chosen = targets(&device, &chosen);
                let (mut loss, mut buffer) = (room(&device, Element::F32, rows), z.on(&device));
                cross_entropy_losses(device.as_ref(), buffer.view(), chosen.view(), loss.view_mut()).unwrap();
                close("loss", &loss, &losses, 3e-6);
                assert_eq!(values(&buffer), z.values, "losses alone leave the logits");
                let mut loss = room(&device, Element::F32, rows);
                let (view, out) = (buffer.view_mut(), loss.view_mut());
                cross_entropy(device.as_ref(), view, chosen.view(), scale, out).unwrap();
                close("loss", &loss, &losses, 3e-6);
                close("gradient", &buffer, &gradient, 1e-6);
            }
        }
    }
}

/// NaN and infinity among the logits, and targets outside of the vocabulary, show in the loss; −∞ is a probability of 0.
#[test]
fn what_is_not_finite_shows() {
    for device in devices() {
        let mut z = logits(Element::F32, 5, 40).values;
        (z[3], z[40 + 39], z[80]) = (f64::NAN, f64::INFINITY, f64::NEG_INFINITY);
        let (mut loss, mut z) = (room(&device, Element::F32, 5), Input::new(Element::F32, &z).on(&device));
        let chosen = targets(&device, &[1, 2, 3, 40, -1]);
        cross_entropy(device.as_ref(), z.view_mut(), chosen.view(), 1.0, loss.view_mut()).unwrap();
        let finite: Vec<bool> = values(&loss).iter().map(|x| x.is_finite()).collect();
        assert_eq!(finite, [false, false, true, false, false]);
        let gradient = values(&z);
        assert_eq!(gradient[80], 0.0);
        assert!(gradient[120..].iter().all(|x| x.is_nan()));
    }
}
