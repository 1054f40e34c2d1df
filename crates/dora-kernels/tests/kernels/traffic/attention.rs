//! Attention: training on a document of four tiles with two query heads to a key head, and generating one token behind many keys.

use dora_kernels::Element;
use dora_kernels::Element::{BF16, F32};
use dora_kernels::launch::{
    AttentionDocument, AttentionGradients, attention_backward, attention_forward, attention_generate, attention_splits,
};

use super::{Row, Table};
use crate::attention_case::{Case, documents, heads};

const TOKENS: usize = 256;
const KEYS: &str = "K and V come again for every 64 queries and head, from the L2 cache; bound by products";
const QUERIES: &str = "q and do come again for every 64 keys, from the L2 cache; bound by products";
const SHARED: &str =
    "K and V come again for every 64 queries and head, from the L2 cache; for exactness, not for speed";

pub(super) fn rows(table: &mut Table) {
    for width in [16, 32, 64, 128] {
        training(table, BF16, width);
    }
    training(table, F32, 64);
    generating(table);
}

fn training(table: &mut Table, element: Element, width: usize) {
    let shape = heads(4, 2, width);
    let case = Case::new(element, shape, documents(&[TOKENS]));
    let (wide, narrow, size, w) = (case.q.values.len(), case.k.values.len(), element.size() as f64, width as f64);
    // K and V for an element of q, q for an element of k, and statistics.
    let (share, group) = (narrow as f64 / wide as f64, wide as f64 / narrow as f64);
    let name = |name: &str| match element {
        F32 => format!("{name}_f32"),
        _ => format!("{name}_{width}_{element}"),
    };
    let device = table.device.clone();
    case.on(&device, 1, |inputs| {
        let (mut o, mut lse) = (table.room(element, wide), table.room(F32, shape.heads * TOKENS));
        // In f32 rows of the block's own side are read from cache, once a row of the other side.
        let own = if element == F32 { 0.0 } else { size };
        let least = own + size + 2.0 * share * size + 4.0 / w;
        let because = if element == F32 { SHARED } else { KEYS };
        let row = Row { kernel: name("attention_forward"), of: "q", elements: wide, least, because };
        table.row(row, |d| attention_forward(d, inputs, o.view_mut(), lse.view_mut()));
        let d_o = table.input(element, 5, wide);
        let run = |table: &mut Table, row: Row<'_>| {
            let mut delta = table.room(F32, shape.heads * TOKENS);
            let mut dq = table.room(element, wide);
            let [mut dk, mut dv] = [0, 1].map(|_| table.room(element, narrow));
            table.row(row, |d| {
                let (o, lse, d_o, delta) = (o.view(), lse.view(), d_o.view(), delta.view_mut());
                let (dq, dk, dv) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
                attention_backward(d, inputs, AttentionGradients { o, lse, d_o, delta, dq, dk, dv })
            });
        };
        if width == 64 {
            let least = 2.0 * size + 4.0 / w;
            let kernel = format!("attention_delta_{element}");
            run(table, Row { kernel, of: "o", elements: wide, least, because: "" });
        }
        let least = 2.0 * own + size + 2.0 * share * size + if element == F32 { 0.0 } else { 8.0 / w };
        run(table, Row { kernel: name("attention_dq"), of: "q", elements: wide, least, because });
        let least = 2.0 * own + 2.0 * size + 2.0 * group * size;
        run(table, Row { kernel: name("attention_dkv"), of: "k", elements: narrow, least, because: QUERIES });
    });
}

/// Bound by memory: K and V once for all heads that share them.
fn generating(table: &mut Table) {
    let (shape, keys) = (heads(8, 2, 64), 1024);
    let case = Case::new(BF16, shape, vec![AttentionDocument { queries: 0..1, keys: 0..keys }]);
    let (wide, splits) = (shape.heads * shape.width, attention_splits(keys));
    let device = table.device.clone();
    case.on(&device, 4, |inputs| {
        let run = |table: &mut Table, row: Row<'_>| {
            let (mut o, mut lse) = (table.room(BF16, wide), table.room(F32, splits * shape.heads));
            let mut partial = table.room(F32, splits * wide);
            table.row(row, |d| attention_generate(d, inputs, partial.view_mut(), lse.view_mut(), o.view_mut()));
        };
        let elements = 2 * keys * shape.kv_heads * shape.width;
        let (kernel, of) = ("attention_forward_64_bf16".to_owned(), "K and V, generating");
        run(table, Row { kernel, of, elements, least: 2.0, because: "" });
        let (kernel, of) = ("attention_combine_bf16".to_owned(), "partial");
        let least = 4.0 + 2.0 / splits as f64;
        run(table, Row { kernel, of, elements: splits * wide, least, because: "" });
    });
}
