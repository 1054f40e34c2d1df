//! `config.json` of a Hugging Face checkpoint, for Llama. A field that changes the result and is not supported is refused by
//! name; a field that nobody knows is handed to the caller to warn of.

mod activations;
mod fields;
pub mod rope;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use dora_tensor::DType;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::nf4::torch_type;
use crate::shape::{LinearShape, ModelShape};
use fields::Fields;
use rope::Rope;

/// Configuration of a Llama model (`model_type` "llama").
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Width C of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Size of one head, even; need not be `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// ε of RMSNorm.
    pub rms_norm_eps: f64,
    /// Longest context, in tokens.
    pub max_position_embeddings: usize,
    /// Whether the output embedding is the input embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Rotary embedding.
    pub rope: Rope,
    /// Type that the weights are said to be stored in; their files decide.
    pub dtype: Option<DType>,
    /// First token of a sequence, where the files say so.
    pub bos_token_id: Option<u32>,
    /// Tokens that end generation: of `generation_config.json`, else of `config.json`; empty where neither says so.
    pub eos_token_ids: Vec<u32>,
    /// Fields that are neither known to be harmless nor read: transformers' Llama does not read them either.
    pub unknown_fields: Vec<String>,
}

/// `model_type` of the model in a folder.
pub fn model_type(dir: &Path) -> Result<String> {
    let path = dir.join("config.json");
    let mut fields = Fields::parse(&fs::read(&path).map_err(Error::io("read", &path))?, &path)?;
    fields.text("model_type")?.ok_or_else(|| fields.error("model_type", "missing", "a string"))
}

impl LlamaConfig {
    /// Reads `config.json` of a folder, and `generation_config.json` if it is there.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let mut config = Self::from_json(&text, &path)?;
        let path = dir.join("generation_config.json");
        match fs::read(&path) {
            Ok(bytes) => config.take_token_ids(&mut Fields::parse(&bytes, &path)?)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", &path)(e)),
        }
        Ok(config)
    }

    /// Reads the text of a `config.json`; `path` is for messages.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        let mut fields = Fields::parse(text.as_bytes(), path)?;
        let f = &mut fields;
        match f.take("model_type") {
            Some(Value::String(name)) if name == "llama" => {}
            other => return Err(f.error("model_type", &other.unwrap_or_default().to_string(), "\"llama\"")),
        }
        for (name, only) in unsupported() {
            f.only(name, &only)?;
        }
        check_quantization(f)?;
        let hidden_size = f.required_size("hidden_size")?;
        let num_attention_heads = f.required_size("num_attention_heads")?;
        let mut config = Self {
            hidden_size,
            intermediate_size: f.required_size("intermediate_size")?,
            num_hidden_layers: f.required_size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: f.size("num_key_value_heads")?.unwrap_or(num_attention_heads),
            head_dim: head_dim(f, hidden_size, num_attention_heads)?,
            vocab_size: f.required_size("vocab_size")?,
            rms_norm_eps: f.positive("rms_norm_eps")?.unwrap_or(1e-6),
            max_position_embeddings: f.size("max_position_embeddings")?.unwrap_or(2048),
            tie_word_embeddings: f.flag("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: f.flag("attention_bias")?.unwrap_or(false),
            mlp_bias: f.flag("mlp_bias")?.unwrap_or(false),
            rope: Rope::take(f)?,
            dtype: f.take("dtype").or(f.take("torch_dtype")).and_then(|name| torch_type(name.as_str()?)),
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            unknown_fields: Vec::new(),
        };
        config.take_token_ids(f)?;
        config.check(f)?;
        for name in HARMLESS {
            f.take(name);
        }
        config.unknown_fields = fields.unknown();
        Ok(config)
    }

    /// The head_dim/2 rotary frequencies in radians a position, in f64 (transformers rounds each step to f32).
    pub fn inv_freq(&self) -> Vec<f64> {
        self.rope.inv_freq(self.head_dim)
    }

    /// Linear layers, other modules, the parameter count and the activations.
    pub fn shape(&self) -> ModelShape {
        let layers = || (0..self.num_hidden_layers).map(|i| format!("model.layers.{i}"));
        let mut linears: Vec<_> = layers().flat_map(|layer| self.layer_linears(&layer)).collect();
        linears.push(LinearShape {
            path: "lm_head".into(),
            in_features: self.hidden_size,
            out_features: self.vocab_size,
            bias: false,
            output_embedding: true,
        });
        let mut other_modules = vec!["model.embed_tokens".to_owned()];
        let norms = ["input_layernorm", "post_attention_layernorm"];
        other_modules.extend(layers().flat_map(|layer| norms.map(|norm| format!("{layer}.{norm}"))));
        other_modules.push("model.norm".into());
        let parameters = self.parameters().try_into().expect("checked when the configuration was read");
        let tied = self.tie_word_embeddings;
        ModelShape { linears, other_modules, parameters, tied, activations: self.activations() }
    }

    fn layer_linears(&self, layer: &str) -> [LinearShape; 7] {
        let (c, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let linear = |name, in_features, out_features, bias| {
            let path = format!("{layer}.{name}");
            LinearShape { path, in_features, out_features, bias, output_embedding: false }
        };
        [
            linear("self_attn.q_proj", c, q, self.attention_bias),
            linear("self_attn.k_proj", c, kv, self.attention_bias),
            linear("self_attn.v_proj", c, kv, self.attention_bias),
            linear("self_attn.o_proj", q, c, self.attention_bias),
            linear("mlp.gate_proj", c, f, self.mlp_bias),
            linear("mlp.up_proj", c, f, self.mlp_bias),
            linear("mlp.down_proj", f, c, self.mlp_bias),
        ]
    }

    /// Every parameter once; sizes are below 2³¹, so that nothing overflows here.
    fn parameters(&self) -> u128 {
        let count = |l: &LinearShape| (l.in_features as u128 + u128::from(l.bias)) * l.out_features as u128;
        let norm = self.hidden_size as u128;
        let layer = self.layer_linears("").iter().map(count).sum::<u128>() + 2 * norm;
        let embedding = norm * self.vocab_size as u128;
        self.num_hidden_layers as u128 * layer + norm + embedding * if self.tie_word_embeddings { 1 } else { 2 }
    }

    fn take_token_ids(&mut self, fields: &mut Fields) -> Result<()> {
        match fields.token_ids("bos_token_id", self.vocab_size)?.as_deref() {
            None => {}
            Some(&[id]) => self.bos_token_id = Some(id),
            Some(ids) => return Err(fields.error("bos_token_id", &format!("{ids:?}"), "one token id")),
        }
        if let Some(ids) = fields.token_ids("eos_token_id", self.vocab_size)? {
            self.eos_token_ids = ids;
        }
        Ok(())
    }

    /// Relations between fields.
    fn check(&self, fields: &Fields) -> Result<()> {
        let heads = self.num_attention_heads;
        let error = |name, found: usize, expected: &str| Err(fields.error(name, &found.to_string(), expected));
        if !heads.is_multiple_of(self.num_key_value_heads) {
            let expected = format!("a divisor of num_attention_heads {heads}");
            return error("num_key_value_heads", self.num_key_value_heads, &expected);
        }
        if !self.head_dim.is_multiple_of(2) {
            return error("head_dim", self.head_dim, "an even number, for rotary embedding");
        }
        if heads as u64 * self.head_dim as u64 > i32::MAX as u64 {
            return error("head_dim", self.head_dim, &format!("less, with {heads} heads"));
        }
        if self.num_hidden_layers > MAX_LAYERS {
            return error("num_hidden_layers", self.num_hidden_layers, &format!("at most {MAX_LAYERS}"));
        }
        if self.parameters() > isize::MAX as u128 / 4 {
            return error(
                "hidden_size",
                self.hidden_size,
                "a model that can be addressed: the sizes multiply beyond it",
            );
        }
        Ok(())
    }
}

/// More layers than any model has: a configuration beyond it is damaged.
const MAX_LAYERS: usize = 10_000;

/// `head_dim`, or `hidden_size / num_attention_heads`, which must then be whole.
fn head_dim(fields: &mut Fields, hidden_size: usize, heads: usize) -> Result<usize> {
    match fields.size("head_dim")? {
        Some(head_dim) => Ok(head_dim),
        None if hidden_size.is_multiple_of(heads) => Ok(hidden_size / heads),
        None => {
            let expected = format!("a multiple of num_attention_heads {heads} (or head_dim given)");
            Err(fields.error("hidden_size", &hidden_size.to_string(), &expected))
        }
    }
}

/// Weights may be in bitsandbytes' NF4; which of them are, their tensors say.
fn check_quantization(fields: &mut Fields) -> Result<()> {
    let Some(mut quantization) = fields.object("quantization_config")? else { return Ok(()) };
    let method = quantization.text("quant_method")?;
    if method.as_deref() != Some("bitsandbytes") {
        let found = method.map_or("missing".into(), |m| json!(m).to_string());
        return Err(quantization.error("quant_method", &found, "\"bitsandbytes\""));
    }
    quantization.only("load_in_8bit", &json!(false))?;
    quantization.only("bnb_4bit_quant_type", &json!("nf4"))?;
    quantization.only("bnb_4bit_quant_storage", &json!("uint8"))
}

/// Fields that change the result, each with the one value that is supported.
fn unsupported() -> Vec<(&'static str, Value)> {
    let none = ["compression_config", "auto_map", "sliding_window", "num_local_experts"];
    let multipliers = ["attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"];
    let soft_caps = ["attn_logit_softcapping", "final_logit_softcapping"];
    let mut fields = vec![
        ("hidden_act", json!("silu")),
        ("pretraining_tp", json!(1)),
        ("attention_dropout", json!(0)),
        ("partial_rotary_factor", json!(1)),
        ("is_encoder_decoder", json!(false)),
        ("add_cross_attention", json!(false)),
        ("pruned_heads", json!({})),
    ];
    fields.extend(none.into_iter().chain(soft_caps).map(|name| (name, Value::Null)));
    fields.extend(multipliers.map(|name| (name, json!(1))));
    fields
}

/// Fields that change no result, whatever they say.
const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_model_name_or_path",
    "_name_or_path",
    "architectures",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "return_dict",
    "tokenizer_class",
    "torchscript",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];
