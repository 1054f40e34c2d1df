//! Against a plain f64 softmax over the whole triangle of every document.

use super::{AttentionShape, Documents, attention, attention_cached};
use crate::gradcheck::{Input, compare, gradcheck};
use std::sync::Arc;

fn reference(v: &[Vec<f64>], documents: &Documents, shape: AttentionShape, scale: f64) -> Vec<f64> {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    let mut o = vec![0.0; v[0].len()];
    for range in documents.ranges() {
        for head in 0..heads {
            let kv = head / (heads / kv_heads);
            for i in range.clone() {
                let at = |t: usize, h: usize, of: usize| (t * of + h) * head_dim;
                let score = |j: usize| -> f64 {
                    let (q, k) = (at(i, head, heads), at(j, kv, kv_heads));
                    scale * (0..head_dim).map(|d| v[0][q + d] * v[1][k + d]).sum::<f64>()
                };
                let p: Vec<f64> = (range.start..=i).map(|j| score(j).exp()).collect();
                let sum: f64 = p.iter().sum();
                for (j, p) in (range.start..=i).zip(p) {
                    for d in 0..head_dim {
                        o[at(i, head, heads) + d] += p / sum * v[2][at(j, kv, kv_heads) + d];
                    }
                }
            }
        }
    }
    o
}

#[test]
fn agrees_with_f64() {
    for (lengths, heads, kv_heads, head_dim) in [
        (vec![1], 1, 1, 1),
        (vec![3, 1, 7], 6, 2, 5),
        (vec![0, 5, 0], 2, 2, 3),
        (vec![2, 9], 3, 1, 4),
        (vec![7, 3, 19], 4, 2, 16),
    ] {
        let shape = AttentionShape { heads, kv_heads, head_dim };
        let documents = Arc::new(Documents::new(&lengths));
        let n = documents.tokens();
        let (wide, narrow) = ([n, heads * head_dim], [n, kv_heads * head_dim]);
        let inputs = [Input::normal(1, 0, &wide), Input::normal(1, 1, &narrow), Input::normal(1, 2, &narrow)];
        gradcheck(
            &inputs,
            1e-5,
            |t| attention(&t[0], &t[1], &t[2], &documents, shape, 0.4),
            |v| reference(v, &documents, shape, 0.4f32.into()),
        );
    }
}

/// Sizes of a head that `gemm` takes, and lanes.
const SIZES: [usize; 2] = [3, 16];

/// Longer than a block of queries: three blocks and a rest.
#[test]
fn long_documents_agree_with_f64_and_with_the_cache() {
    for head_dim in SIZES {
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim };
        let documents = Arc::new(Documents::new(&[201]));
        let inputs = [(2, 0), (1, 1), (1, 2)].map(|(heads, stream)| Input::normal(5, stream, &[201, heads * head_dim]));
        let [q, k, v] = inputs.each_ref().map(Input::tensor);
        let exact: Vec<Vec<f64>> =
            inputs.iter().map(|i| i.tensor().to_vec().into_iter().map(f64::from).collect()).collect();
        let want = reference(&exact, &documents, shape, 0.5);
        compare("output", &attention(&q, &k, &v, &documents, shape, 0.5).unwrap().to_vec(), &want, 2e-6);
        for n in [1, 70] {
            let document = Documents::continued(201 - n, n);
            let last = attention_cached(&q.rows(201 - n, n).unwrap(), &k, &v, &document, shape, 0.5).unwrap();
            compare("cached", &last.to_vec(), &want[(201 - n) * 2 * head_dim..], 2e-6);
        }
    }
}

/// The backward pass over several blocks, one element of each input in a stride, against differences.
#[test]
fn long_gradients_agree_with_differences() {
    use crate::{Parameter, Role, Tensor};
    for head_dim in SIZES {
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim };
        let documents = Arc::new(Documents::new(&[131, 70]));
        let inputs = [(2, 0), (1, 1), (1, 2)].map(|(heads, stream)| Input::normal(6, stream, &[201, heads * head_dim]));
        let leaves = inputs.each_ref().map(|i| Parameter::new("x", Role::Matrix, i.tensor()).unwrap());
        let t = leaves.each_ref().map(Parameter::tensor);
        let cotangent = Input::normal(6, 3, &[201, 2 * head_dim]).tensor();
        let y = attention(&t[0], &t[1], &t[2], &documents, shape, 0.5).unwrap();
        y.backward_from(cotangent.clone()).unwrap();
        let c: Vec<f64> = cotangent.to_vec().into_iter().map(f64::from).collect();
        let mut at: Vec<Vec<f64>> =
            inputs.iter().map(|i| i.tensor().to_vec().into_iter().map(f64::from).collect()).collect();
        let loss =
            |at: &[Vec<f64>]| reference(at, &documents, shape, 0.5).iter().zip(&c).map(|(y, c)| y * c).sum::<f64>();
        for (i, leaf) in leaves.iter().enumerate() {
            let gradient: Tensor = leaf.take_gradient().unwrap();
            for j in (0..at[i].len()).step_by(32 * head_dim + 1) {
                let x = at[i][j];
                at[i][j] = x + 1e-5;
                let up = loss(&at);
                at[i][j] = x - 1e-5;
                let numeric = (up - loss(&at)) / 2e-5;
                at[i][j] = x;
                compare("gradient", &gradient.to_vec()[j..=j], &[numeric], 1e-3);
            }
        }
    }
}

#[test]
fn heads_that_do_not_share_evenly_are_refused() {
    let shape = AttentionShape { heads: 3, kv_heads: 2, head_dim: 1 };
    let x = Input::normal(1, 0, &[1, 3]).tensor();
    let error = attention(&x, &x, &x, &Arc::new(Documents::new(&[1])), shape, 1.0).unwrap_err();
    assert_eq!(error.to_string(), "attention: 3 heads cannot share 2 key heads");
}

/// o of short documents is computed again where it is needed, that of long ones kept, whatever lies beside them.
#[test]
fn the_output_of_long_documents_is_kept() {
    use crate::saved::Saved;
    use crate::{Parameter, Role};
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 16 };
    for (lengths, kept) in [(vec![256, 3], false), (vec![3, 257], true)] {
        let documents = Arc::new(Documents::new(&lengths));
        let leaf = Parameter::new("x", Role::Matrix, Input::normal(7, 0, &[documents.tokens(), 16]).tensor()).unwrap();
        let x = leaf.tensor();
        let o = attention(&x, &x, &x, &documents, shape, 0.25).unwrap();
        assert_eq!(matches!(o.saved(), Saved::Kept(_)), kept, "{lengths:?}");
        assert_eq!(o.saved().get().unwrap().to_vec(), o.to_vec());
    }
}

/// With several query heads a key head, several blocks of queries, and a document that is short.
#[test]
fn the_number_of_threads_moves_no_bit() {
    use crate::{Parameter, Role};
    for head_dim in SIZES {
        let shape = AttentionShape { heads: 6, kv_heads: 2, head_dim };
        let documents = Arc::new(Documents::new(&[200, 9]));
        let of = |heads: usize, stream| Input::normal(8, stream, &[209, heads * head_dim]).tensor();
        let with = |threads| {
            let leaves = [of(6, 0), of(2, 1), of(2, 2)].map(|t| Parameter::new("t", Role::Matrix, t).unwrap());
            let [q, k, v] = leaves.each_ref().map(Parameter::tensor);
            let run = || {
                let o = attention(&q, &k, &v, &documents, shape, 0.3)?;
                o.backward_from(of(6, 3))?;
                crate::Result::Ok(o.to_vec())
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let o = pool.install(run).unwrap();
            let gradients = leaves.iter().flat_map(|leaf| leaf.take_gradient().unwrap().to_vec());
            o.into_iter().chain(gradients).collect::<Vec<f32>>()
        };
        let one = with(1);
        assert!(one.iter().all(|x| x.is_finite()));
        assert!([2, 3, 16].into_iter().all(|threads| with(threads) == one), "{head_dim}");
    }
}
