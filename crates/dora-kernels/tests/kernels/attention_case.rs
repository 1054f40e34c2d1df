//! Attention in f64: a plain softmax over the keys that a query sees, and the gradients of it.

use std::ops::Range;
use std::sync::Arc;

use dora_kernels::launch::{AttentionDocument, AttentionHeads, AttentionInputs, AttentionTiles};
use dora_kernels::{Driver, Element};

use crate::support::Input;

/// Heads of a layer.
pub const fn heads(heads: usize, kv_heads: usize, width: usize) -> AttentionHeads {
    AttentionHeads { heads, kv_heads, width }
}

/// Documents of those lengths, one behind another.
pub fn documents(lengths: &[usize]) -> Vec<AttentionDocument> {
    let mut end = 0;
    let ranges = lengths.iter().map(|len| {
        end += len;
        end - len..end
    });
    ranges.map(|r| AttentionDocument { queries: r.clone(), keys: r }).collect()
}

/// Inputs of a case, their documents and the numbers of queries and keys.
pub struct Case {
    pub element: Element,
    pub heads: AttentionHeads,
    pub documents: Vec<AttentionDocument>,
    pub rows: (usize, usize),
    pub q: Input,
    pub k: Input,
    pub v: Input,
    pub scale: f32,
}

impl Case {
    pub fn new(element: Element, heads: AttentionHeads, documents: Vec<AttentionDocument>) -> Self {
        let AttentionHeads { heads: h, kv_heads, width } = heads;
        let rows = documents.last().map_or((0, 0), |d| (d.queries.end, d.keys.end));
        let [q, k, v] = [(1, rows.0 * h), (2, rows.1 * kv_heads), (3, rows.1 * kv_heads)]
            .map(|(stream, n)| Input::random(element, stream, n * width));
        Case { element, heads, documents, rows, q, k, v, scale: 1.0 / (width as f32).sqrt() }
    }

    /// Calls f(head, query, keys that it sees) for all of them.
    fn each(&self, mut f: impl FnMut(usize, usize, Range<usize>)) {
        for d in &self.documents {
            for head in 0..self.heads.heads {
                for i in d.queries.clone() {
                    f(head, i, d.keys.start..d.keys.end - (d.queries.end - i) + 1);
                }
            }
        }
    }

    fn row<'a>(&self, x: &'a [f64], i: usize, head: usize, heads: usize) -> &'a [f64] {
        &x[(i * heads + head) * self.heads.width..][..self.heads.width]
    }

    fn kv_row<'a>(&self, x: &'a [f64], j: usize, head: usize) -> &'a [f64] {
        let AttentionHeads { heads, kv_heads, .. } = self.heads;
        self.row(x, j, head / (heads / kv_heads), kv_heads)
    }

    fn scores(&self, head: usize, i: usize, keys: Range<usize>) -> Vec<f64> {
        let q = self.row(&self.q.values, i, head, self.heads.heads);
        keys.map(|j| f64::from(self.scale) * dot(q, self.kv_row(&self.k.values, j, head))).collect()
    }

    /// o and lse.
    pub fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let AttentionHeads { heads, width, .. } = self.heads;
        let (mut o, mut lse) = (vec![0.0; self.q.values.len()], vec![0.0; heads * self.rows.0]);
        self.each(|head, i, keys| {
            let s = self.scores(head, i, keys.clone());
            let sum: f64 = s.iter().map(|s| s.exp()).sum();
            lse[head * self.rows.0 + i] = sum.ln();
            for (s, j) in s.iter().zip(keys) {
                let v = self.kv_row(&self.v.values, j, head);
                let o = &mut o[(i * heads + head) * width..][..width];
                o.iter_mut().zip(v).for_each(|(o, v)| *o += s.exp() / sum * v);
            }
        });
        (o, lse)
    }

    /// dq, dk and dv of Σ do ⊙ o.
    pub fn gradients(&self, d_o: &[f64]) -> [Vec<f64>; 3] {
        let AttentionHeads { heads, kv_heads, width } = self.heads;
        let [mut dq, mut dk, mut dv] = [&self.q, &self.k, &self.v].map(|x| vec![0.0; x.values.len()]);
        let scale = f64::from(self.scale);
        self.each(|head, i, keys| {
            let s = self.scores(head, i, keys.clone());
            let sum: f64 = s.iter().map(|s| s.exp()).sum();
            let d_o = self.row(d_o, i, head, heads);
            let dp: Vec<f64> = keys.clone().map(|j| dot(d_o, self.kv_row(&self.v.values, j, head))).collect();
            let delta: f64 = s.iter().zip(&dp).map(|(s, dp)| s.exp() / sum * dp).sum();
            for ((s, dp), j) in s.iter().zip(&dp).zip(keys) {
                let (p, at) = (s.exp() / sum, (j * kv_heads + head / (heads / kv_heads)) * width);
                let ds = p * (dp - delta) * scale;
                let (q, k) = (self.row(&self.q.values, i, head, heads), self.kv_row(&self.k.values, j, head));
                for c in 0..width {
                    dq[(i * heads + head) * width + c] += ds * k[c];
                    dk[at + c] += ds * q[c];
                    dv[at + c] += p * d_o[c];
                }
            }
        });
        [dq, dk, dv]
    }

    /// Runs f with the inputs on a device.
    pub fn on(&self, device: &Arc<dyn Driver>, pack: usize, f: impl FnOnce(&AttentionInputs<'_>)) {
        let tiles = AttentionTiles::new(device, &self.documents, self.rows, pack).unwrap();
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| x.on(device));
        let (q, k, v) = (q.view(), k.view(), v.view());
        f(&AttentionInputs { q, k, v, tiles: &tiles, heads: self.heads, scale: self.scale });
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
