//! Shapes of published models, by name, for plans and measurements without their weights.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::LlamaConfig;
use crate::model::Description;

/// A model's shape, as its published `config.json` has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// Name as people write it.
    pub name: &'static str,
    hidden: usize,
    mlp: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    context: usize,
    theta: f64,
    tied: bool,
}

type Row = (&'static str, usize, usize, usize, usize, usize, usize, usize, f64, bool);

/// Name, hidden, MLP, layers, heads, key-value heads, vocabulary, context, θ, tied; from small to large.
const SHAPES: [Row; 13] = [
    ("smollm2-135m", 576, 1536, 30, 9, 3, 49152, 8192, 1e5, true),
    ("smollm2-360m", 960, 2560, 32, 15, 5, 49152, 8192, 1e5, true),
    ("tinyllama-1.1b", 2048, 5632, 22, 32, 4, 32000, 2048, 1e4, false),
    ("llama-3.2-1b", 2048, 8192, 16, 32, 8, 128256, 131072, 5e5, true),
    ("smollm2-1.7b", 2048, 8192, 24, 32, 32, 49152, 8192, 1.3e5, true),
    ("llama-3.2-3b", 3072, 8192, 28, 24, 8, 128256, 131072, 5e5, true),
    ("llama-2-7b", 4096, 11008, 32, 32, 32, 32000, 4096, 1e4, false),
    ("llama-3-8b", 4096, 14336, 32, 32, 8, 128256, 8192, 5e5, false),
    ("llama-3.1-8b", 4096, 14336, 32, 32, 8, 128256, 131072, 5e5, false),
    ("llama-2-13b", 5120, 13824, 40, 40, 40, 32000, 4096, 1e4, false),
    ("llama-2-70b", 8192, 28672, 80, 64, 8, 32000, 4096, 1e4, false),
    ("llama-3-70b", 8192, 28672, 80, 64, 8, 128256, 8192, 5e5, false),
    ("llama-3.1-70b", 8192, 28672, 80, 64, 8, 128256, 131072, 5e5, false),
];

/// All of them.
pub fn all() -> impl Iterator<Item = Published> {
    SHAPES.into_iter().map(|(name, hidden, mlp, layers, heads, kv_heads, vocabulary, context, theta, tied)| Published {
        name,
        hidden,
        mlp,
        layers,
        heads,
        kv_heads,
        vocabulary,
        context,
        theta,
        tied,
    })
}

/// The one of a name; case and hyphens do not matter (`llama2-7b`, `Llama-2-7B`).
pub fn find(name: &str) -> Option<Published> {
    let bare = |name: &str| name.replace('-', "").to_lowercase();
    all().find(|shape| bare(shape.name) == bare(name))
}

impl Published {
    /// What its configuration says.
    pub fn description(&self) -> Description {
        let config = LlamaConfig::from_json(&self.config_json().to_string(), Path::new(self.name));
        config.expect("the table holds what a model can be").into()
    }

    /// Its `config.json`, weights in bf16.
    pub fn config_json(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": self.vocabulary,
            "hidden_size": self.hidden, "intermediate_size": self.mlp, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden / self.heads, "hidden_act": "silu", "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5, "rope_theta": self.theta, "attention_bias": false, "mlp_bias": false,
            "tie_word_embeddings": self.tied, "eos_token_id": 0, "dtype": "bfloat16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dora_tensor::DType;

    #[test]
    fn the_shapes_have_their_published_counts() {
        let counts = [
            134_515_008,
            361_821_120,
            1_100_048_384,
            1_235_814_400,
            1_711_376_384,
            3_212_749_824,
            6_738_415_616,
            8_030_261_248,
            8_030_261_248,
            13_015_864_320,
            68_976_648_192,
            70_553_706_496,
            70_553_706_496,
        ];
        assert_eq!(all().count(), counts.len());
        for (shape, count) in all().zip(counts) {
            let description = shape.description();
            assert_eq!((description.shape.parameters, description.dtype), (count, Some(DType::BF16)), "{}", shape.name);
            assert!(description.unknown_fields.is_empty());
        }
    }

    #[test]
    fn names_are_found_however_they_are_written() {
        let name = |text| find(text).map(|shape| shape.name);
        assert_eq!(name("llama2-7b"), Some("llama-2-7b"));
        assert_eq!(name("Llama-3.2-1B"), Some("llama-3.2-1b"));
        assert_eq!((name("llama-2-8b"), name(""), name("llama")), (None, None, None));
    }
}
