//! attention.cu, attention_backward.cu and attention_f32.cu against a plain f64 softmax: documents of one token, of none, of a
//! whole tile and more; grouped heads; keys of earlier tokens. Tolerance in f32 1e-5. In bf16 probabilities and score gradients
//! are rounded to 8 bits for their products: 6e-3 forward, 2e-2 for gradients, of values of about 1. Results are the same
//! bits whatever the schedule.

use std::sync::Arc;

use dora_kernels::launch::{
    AttentionDocument, AttentionGradients, AttentionTiles, attention_backward, attention_forward, attention_generate,
    attention_splits,
};
use dora_kernels::{Driver, Element};

use crate::attention_case::{Case, documents, heads};
use crate::support::{Input, close, device, devices, room, values};

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, lengths) in [
        (heads(3, 1, 16), vec![1]),
        (heads(4, 2, 32), vec![5, 1, 70, 0, 64]),
        (heads(2, 2, 64), vec![129]),
        (heads(4, 1, 128), vec![3, 66]),
    ] {
        cases.push(Case::new(Element::BF16, shape, documents(&lengths)));
    }
    for (shape, lengths) in
        [(heads(2, 1, 4), vec![33]), (heads(4, 2, 32), vec![5, 1, 70, 0, 3]), (heads(1, 1, 128), vec![65])]
    {
        cases.push(Case::new(Element::F32, shape, documents(&lengths)));
    }
    cases
}

#[test]
fn forward_and_gradients_agree_with_f64() {
    let devices = devices();
    for case in cases() {
        let (element, h, n) = (case.element, case.heads, case.rows.0);
        let (wide, narrow) = (n * h.heads * h.width, n * h.kv_heads * h.width);
        let (o_want, lse_want) = case.expected();
        let d_o = Input::random(element, 4, wide);
        let want = case.gradients(&d_o.values);
        let (forward, backward) = if element == Element::F32 { (1e-5, 1e-5) } else { (6e-3, 2e-2) };
        let mut first: Option<Vec<Vec<f64>>> = None;
        for device in &devices {
            let (mut o, mut lse) = (room(device, element, wide), room(device, Element::F32, h.heads * n));
            let mut delta = room(device, Element::F32, h.heads * n);
            let [mut dq, mut dk, mut dv] = [wide, narrow, narrow].map(|len| room(device, element, len));
            let d_o_ = d_o.on(device);
            case.on(device, 1, |inputs| {
                attention_forward(device.as_ref(), inputs, o.view_mut(), lse.view_mut()).unwrap();
                let a = AttentionGradients {
                    o: o.view(),
                    lse: lse.view(),
                    d_o: d_o_.view(),
                    delta: delta.view_mut(),
                    dq: dq.view_mut(),
                    dk: dk.view_mut(),
                    dv: dv.view_mut(),
                };
                attention_backward(device.as_ref(), inputs, a).unwrap();
            });
            close("o", &o, &o_want, forward);
            close("lse", &lse, &lse_want, 1e-5);
            close("dq", &dq, &want[0], backward);
            close("dk", &dk, &want[1], backward);
            close("dv", &dv, &want[2], backward);
            let found: Vec<Vec<f64>> = [&o, &lse, &dq, &dk, &dv].map(values).into();
            assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "the schedule shows in the result");
        }
    }
}

#[test]
fn few_queries_over_many_keys_agree_with_f64() {
    for (shape, queries, keys) in [
        (heads(4, 2, 32), 1, 1),
        (heads(4, 1, 64), 1, 600),
        (heads(6, 2, 16), 3, 321),
        (heads(2, 2, 128), 5, 257),
        (heads(4, 4, 32), 70, 75),
    ] {
        for device in devices() {
            let document = AttentionDocument { queries: 0..queries, keys: 0..keys };
            let case = Case::new(Element::BF16, shape, vec![document]);
            let (want, lse_want) = case.expected();
            let (wide, splits) = (queries * shape.heads * shape.width, attention_splits(keys));
            for pack in [1, shape.heads / shape.kv_heads] {
                case.on(&device, pack, |inputs| {
                    let (mut o, mut lse) =
                        (room(&device, Element::BF16, wide), room(&device, Element::F32, shape.heads * queries));
                    attention_forward(device.as_ref(), inputs, o.view_mut(), lse.view_mut()).unwrap();
                    close("o", &o, &want, 6e-3);
                    close("lse", &lse, &lse_want, 1e-5);
                    let (mut o, mut lse, mut partial) = (
                        room(&device, Element::BF16, wide),
                        room(&device, Element::F32, splits * shape.heads * queries),
                        room(&device, Element::F32, splits * wide),
                    );
                    let (partial, lse) = (partial.view_mut(), lse.view_mut());
                    attention_generate(device.as_ref(), inputs, partial, lse, o.view_mut()).unwrap();
                    close("o of splits", &o, &want, 6e-3);
                });
            }
            let case = Case::new(Element::F32, shape, case.documents);
            let (want, lse_want) = case.expected();
            case.on(&device, 1, |inputs| {
                let (mut o, mut lse) =
                    (room(&device, Element::F32, wide), room(&device, Element::F32, shape.heads * queries));
                attention_forward(device.as_ref(), inputs, o.view_mut(), lse.view_mut()).unwrap();
                close("o", &o, &want, 1e-5);
                close("lse", &lse, &lse_want, 1e-5);
            });
        }
    }
}

/// Scores that differ by hundreds: nothing overflows, and the largest takes all.
#[test]
fn large_scores_stay_finite() {
    for device in devices() {
        let mut case = Case::new(Element::BF16, heads(1, 1, 32), documents(&[80]));
        case.scale = 15.0;
        let (want, lse_want) = case.expected();
        case.on(&device, 1, |inputs| {
            let (mut o, mut lse) = (room(&device, Element::BF16, 80 * 32), room(&device, Element::F32, 80));
            attention_forward(device.as_ref(), inputs, o.view_mut(), lse.view_mut()).unwrap();
            close("o", &o, &want, 6e-3);
            close("lse", &lse, &lse_want, 1e-5);
        });
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device: Arc<dyn Driver> = device(1);
    let refusal = |shape, documents: Vec<AttentionDocument>, element, backward: bool| {
        let case = Case::new(element, shape, documents);
        let mut text = String::new();
        case.on(&device, 1, |inputs| {
            let (wide, n) = (case.q.values.len(), case.rows.0);
            let (mut o, mut lse) = (room(&device, element, wide), room(&device, Element::F32, shape.heads * n));
            let result = if backward {
                let [mut dq, mut dk, mut dv] = [&case.q, &case.k, &case.v].map(|x| x.on(&device));
                let mut delta = room(&device, Element::F32, shape.heads * n);
                let a = AttentionGradients {
                    o: o.view(),
                    lse: lse.view(),
                    d_o: o.view(),
                    delta: delta.view_mut(),
                    dq: dq.view_mut(),
                    dk: dk.view_mut(),
                    dv: dv.view_mut(),
                };
                attention_backward(device.as_ref(), inputs, a)
            } else {
                attention_forward(device.as_ref(), inputs, o.view_mut(), lse.view_mut())
            };
            text = result.unwrap_err().to_string();
        });
        text
    };
    let text = refusal(heads(2, 1, 48), documents(&[3]), Element::BF16, false);
    assert_eq!(text, "attention: heads of 48 bf16 elements, expected one of [16, 32, 64, 128]");
    let text = refusal(heads(3, 2, 16), documents(&[3]), Element::BF16, false);
    assert_eq!(text, "attention: 3 heads cannot share 2 key heads");
    let later = vec![AttentionDocument { queries: 0..2, keys: 0..3 }];
    let text = refusal(heads(2, 1, 16), later, Element::BF16, true);
    assert_eq!(text, "attention_dq_16: documents have other keys than queries, expected the same");
    let beyond = AttentionTiles::new(&device, &documents(&[3, 4]), (7, 6), 1).unwrap_err();
    assert_eq!(beyond.to_string(), "attention: queries 3..7 and keys 3..7 of a document, among 7 and 6");
}
