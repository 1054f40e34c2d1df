//! The demo model's shape, its first weights and its last ones.
//!
//! Llama, 4 layers of width 128. At first every matrix is N(0, 0.02²) and every norm is 1, in f32 under Hugging Face's
//! tensor names. What training makes of them is rounded to bf16, to the nearest and to even on a tie.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use half::bf16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use super::random::Random;
use super::tokenizer::{END_ID, VOCABULARY};

/// Positions of the model.
pub const CONTEXT: usize = 256;
const LAYERS: usize = 4;
const HIDDEN: usize = 128;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const MLP: usize = 384;

/// The content of `config.json` for weights of type `dtype`, "float32" or "bfloat16".
pub fn config(dtype: &str) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": null,
        "eos_token_id": END_ID,
        "dtype": dtype,
    })
}

/// Writes the first weights of stream `seed` to `path`, in f32.
pub fn write_first(path: &Path, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes()
        .into_iter()
        .map(|(name, shape)| {
            let values = (0..shape.iter().product()).map(|_| match shape.len() {
                1 => 1.0,
                _ => (0.02 * random.normal()) as f32,
            });
            let bytes = values.flat_map(f32::to_le_bytes).collect();
            (name, shape, bytes)
        })
        .collect();
    write(path, Dtype::F32, &tensors)
}

/// Reads the f32 weights at `from` and writes them to `to` in bf16.
pub fn round_to_bf16(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| format!("reading {}", from.display()))?;
    let mut tensors = Vec::new();
    for (name, shape) in shapes() {
        let view = file.tensor(&name).with_context(|| format!("{}: tensor {name}", from.display()))?;
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            bail!("{}: tensor {name} is {:?} {:?}, expected F32 {shape:?}", from.display(), view.dtype(), view.shape());
        }
        let (values, rest) = view.data().as_chunks::<4>();
        debug_assert!(rest.is_empty(), "an f32 has four bytes");
        let rounded = values.iter().flat_map(|value| bf16::from_f32(f32::from_le_bytes(*value)).to_le_bytes());
        tensors.push((name, shape, rounded.collect()));
    }
    if file.len() != tensors.len() {
        bail!("{} holds {} tensors, expected {}", from.display(), file.len(), tensors.len());
    }
    write(to, Dtype::BF16, &tensors)
}

/// Every tensor of the model with its shape, in the order in which weights are drawn.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let (queries, keys) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..LAYERS {
        let parts: [(&str, &[usize]); 9] = [
            ("input_layernorm", &[HIDDEN]),
            ("self_attn.q_proj", &[queries, HIDDEN]),
            ("self_attn.k_proj", &[keys, HIDDEN]),
            ("self_attn.v_proj", &[keys, HIDDEN]),
            ("self_attn.o_proj", &[HIDDEN, queries]),
            ("post_attention_layernorm", &[HIDDEN]),
            ("mlp.gate_proj", &[MLP, HIDDEN]),
            ("mlp.up_proj", &[MLP, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, MLP]),
        ];
        shapes.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape.to_vec())));
    }
    shapes.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    shapes
}

fn write(path: &Path, dtype: Dtype, tensors: &[(String, Vec<usize>, Vec<u8>)]) -> Result<()> {
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_weights_have_the_configured_shapes_and_spread_and_round_to_bf16() {
        let folder = tempfile::tempdir().unwrap();
        let (first, rounded) = (folder.path().join("first"), folder.path().join("rounded"));
        write_first(&first, 7).unwrap();
        round_to_bf16(&first, &rounded).unwrap();
        let (first, rounded) = (fs::read(first).unwrap(), fs::read(rounded).unwrap());
        let (first, rounded) = (SafeTensors::deserialize(&first).unwrap(), SafeTensors::deserialize(&rounded).unwrap());
        assert_eq!(first.len(), 2 + 9 * LAYERS);
        for (name, shape) in shapes() {
            let exact: Vec<f32> = values(first.tensor(&name).unwrap().data(), f32::from_le_bytes);
            let near = values(rounded.tensor(&name).unwrap().data(), bf16::from_le_bytes);
            assert_eq!(exact.len(), shape.iter().product::<usize>());
            assert!(exact.iter().zip(&near).all(|(x, y)| (x - y.to_f32()).abs() <= x.abs() / 256.0));
            let variance = exact.iter().map(|x| x * x).sum::<f32>() / exact.len() as f32;
            let expected = if shape.len() == 1 { 1.0 } else { 0.02 * 0.02 };
            assert!((variance / expected - 1.0).abs() < 0.05, "{name}: {variance}");
        }
    }

    #[test]
    fn a_checkpoint_of_another_shape_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other");
        write(&path, Dtype::F32, &[("model.embed_tokens.weight".to_owned(), vec![1, 3], vec![0; 12])]).unwrap();
        let error = round_to_bf16(&path, &folder.path().join("rounded")).unwrap_err();
        assert!(error.to_string().contains("model.embed_tokens.weight is F32 [1, 3]"), "{error}");
    }

    fn values<T, const N: usize>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
    }
}
