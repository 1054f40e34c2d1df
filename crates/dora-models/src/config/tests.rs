//! `config.json` as published models have it, in both spellings, and everything in it that is refused.

use super::rope::RopeScaling;
use super::*;

/// Llama-3-8B as published.
const LLAMA_3_8B: &str = r#"{"architectures":["LlamaForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
    "bos_token_id":128000,"eos_token_id":128001,"hidden_act":"silu","hidden_size":4096,"initializer_range":0.02,
    "intermediate_size":14336,"max_position_embeddings":8192,"model_type":"llama","num_attention_heads":32,
    "num_hidden_layers":32,"num_key_value_heads":8,"pretraining_tp":1,"rms_norm_eps":1e-05,"rope_scaling":null,
    "rope_theta":500000.0,"tie_word_embeddings":false,"torch_dtype":"bfloat16","transformers_version":"4.40.0.dev0",
    "use_cache":true,"vocab_size":128256}"#;

/// SmolLM2-135M as transformers 5 writes it.
const SMOLLM2_135M: &str = r#"{"_model_name_or_path":"x","architectures":["LlamaForCausalLM"],"attention_bias":false,
    "attention_dropout":0.0,"bos_token_id":1,"dtype":"float32","eos_token_id":2,"head_dim":64,"hidden_act":"silu",
    "hidden_size":576,"initializer_range":0.02,"intermediate_size":1536,"max_position_embeddings":8192,"mlp_bias":false,
    "model_type":"llama","num_attention_heads":9,"num_hidden_layers":30,"num_key_value_heads":3,"pad_token_id":2,
    "pretraining_tp":1,"rms_norm_eps":9.999999747378752e-06,"rope_parameters":{"rope_theta":100000.0,
    "rope_type":"default"},"tie_word_embeddings":true,"transformers_version":"5.23.0","unk_token_id":0,"use_cache":true,
    "vocab_size":49152}"#;

/// The least that must be said; awkward sizes.
const SMALL: &str = r#"{"model_type":"llama","hidden_size":15,"intermediate_size":7,"num_hidden_layers":1,
    "num_attention_heads":3,"head_dim":2,"vocab_size":11}"#;

fn parse(text: &str) -> Result<LlamaConfig> {
    LlamaConfig::from_json(text, Path::new("config.json"))
}

/// `base` with the fields of `patch` put in or replaced.
fn patched(base: &str, patch: &str) -> Result<LlamaConfig> {
    let mut value: Value = serde_json::from_str(base).unwrap();
    let patch: Value = serde_json::from_str(patch).unwrap();
    value.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
    parse(&value.to_string())
}

fn refusal(patch: &str) -> String {
    patched(SMALL, patch).unwrap_err().to_string()
}

#[test]
fn counts_published_models() {
    let llama = parse(LLAMA_3_8B).unwrap();
    assert_eq!(llama.shape().parameters, 8_030_261_248);
    assert_eq!((llama.head_dim, llama.bos_token_id, llama.eos_token_ids), (128, Some(128_000), vec![128_001]));
    assert_eq!(llama.rope, Rope { theta: 500_000.0, scaling: RopeScaling::None });
    let smol = parse(SMOLLM2_135M).unwrap();
    assert_eq!(smol.shape().parameters, 134_515_008);
    assert_eq!(smol.rope, Rope { theta: 100_000.0, scaling: RopeScaling::None });
    assert_eq!([llama.unknown_fields, smol.unknown_fields].concat(), [""; 0]);
}

#[test]
fn absent_fields_have_the_defaults_of_the_format() {
    let config = parse(SMALL).unwrap();
    assert_eq!((config.num_key_value_heads, config.rms_norm_eps, config.max_position_embeddings), (3, 1e-6, 2048));
    assert!(!config.tie_word_embeddings && !config.attention_bias && !config.mlp_bias);
    assert_eq!(config.rope, Rope { theta: 10_000.0, scaling: RopeScaling::None });
    assert_eq!((config.bos_token_id, config.eos_token_ids), (None, vec![]));
}

#[test]
fn shape_lists_linears_in_order_and_counts_each_parameter() {
    let config = patched(SMALL, r#"{"num_key_value_heads":1,"attention_bias":true,"mlp_bias":true}"#).unwrap();
    let shape = config.shape();
    let found: Vec<_> =
        shape.linears.iter().map(|l| (l.path.as_str(), l.in_features, l.out_features, l.bias)).collect();
    let expected = [
        ("model.layers.0.self_attn.q_proj", 15, 6, true),
        ("model.layers.0.self_attn.k_proj", 15, 2, true),
        ("model.layers.0.self_attn.v_proj", 15, 2, true),
        ("model.layers.0.self_attn.o_proj", 6, 15, true),
        ("model.layers.0.mlp.gate_proj", 15, 7, true),
        ("model.layers.0.mlp.up_proj", 15, 7, true),
        ("model.layers.0.mlp.down_proj", 7, 15, true),
        ("lm_head", 15, 11, false),
    ];
    assert_eq!(found, expected);
    let weights = 15 * 6 + 2 * 15 * 2 + 6 * 15 + 3 * 15 * 7;
    let biases = 6 + 2 + 2 + 15 + 7 + 7 + 15;
    assert_eq!(shape.parameters, weights + biases + 3 * 15 + 2 * 11 * 15);
    let tied = patched(SMALL, r#"{"num_key_value_heads":1,"tie_word_embeddings":true}"#).unwrap().shape();
    assert_eq!(tied.parameters, weights + 3 * 15 + 11 * 15);
    assert_eq!(tied.linears.iter().filter(|l| l.output_embedding).count(), 1);
    let modules = ["model.embed_tokens", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"];
    assert_eq!(tied.other_modules, [&modules[..], &["model.norm"]].concat());
}

/// Figures of `ROPE_INIT_FUNCTIONS` in transformers 5.23.0, head_dim 128.
#[test]
fn frequencies_agree_with_transformers() {
    let llama3 = r#"{"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
        "original_max_position_embeddings":8192},"max_position_embeddings":131072}"#;
    let expected = [
        (0, 1.0),
        (1, 0.8146172165870667),
        (28, 0.0032114461064338684),
        (29, 0.0021665706299245358),
        (31, 0.0008567514596506953),
        (34, 0.0001785077911335975),
        (35, 9.556212171446532e-05),
        (63, 3.068925877869333e-07),
    ];
    assert_close(&patched(LLAMA_3_8B, llama3).unwrap().inv_freq(), &expected);
    let linear = r#"{"rope_scaling":{"type":"linear","factor":4},"rope_theta":10000}"#;
    let expected = [(0, 0.25), (1, 0.21649108827114105), (63, 2.8869548259535804e-05)];
    assert_close(&patched(LLAMA_3_8B, linear).unwrap().inv_freq(), &expected);
}

fn assert_close(found: &[f64], expected: &[(usize, f64)]) {
    assert_eq!(found.len(), 64);
    for &(i, value) in expected {
        assert!((found[i] / value - 1.0).abs() < 2e-6, "frequency {i}: {} for {value}", found[i]);
    }
}

#[test]
fn rope_in_either_spelling_is_one_thing() {
    let fields = r#""rope_type":"llama3","factor":8.0,"low_freq_factor":1,"high_freq_factor":4"#;
    let old = format!(
        r#"{{"rope_theta":7,"rope_scaling":{{{fields},"type":"llama3","original_max_position_embeddings":64}}}}"#
    );
    let new = format!(
        r#"{{"rope_parameters":{{{fields},"rope_theta":7,"partial_rotary_factor":1.0}},
            "original_max_position_embeddings":64}}"#
    );
    let (old, new) = (patched(SMALL, &old).unwrap(), patched(SMALL, &new).unwrap());
    assert_eq!(old, new);
    assert!(matches!(old.rope.scaling, RopeScaling::Llama3 { original_max_position_embeddings: 64, .. }));
    let empty = patched(SMALL, r#"{"rope_scaling":{},"rope_parameters":{"rope_theta":7}}"#).unwrap();
    assert_eq!(empty.rope, Rope { theta: 7.0, scaling: RopeScaling::None });
}

#[test]
fn refuses_rope_it_does_not_compute() {
    let cases = [
        (r#"{"rope_scaling":{"type":"dynamic","factor":2.0}}"#, r#"rope_scaling.rope_type is "dynamic", expected"#),
        (r#"{"rope_parameters":{"rope_type":"yarn","factor":2.0}}"#, r#"rope_parameters.rope_type is "yarn""#),
        (r#"{"rope_scaling":{"rope_type":"longrope"}}"#, r#"rope_type is "longrope""#),
        (r#"{"rope_scaling":{"rope_type":"linear"}}"#, "rope_scaling.factor is missing"),
        (r#"{"rope_scaling":{"rope_type":"linear","factor":0.5}}"#, "rope_scaling.factor is 0.5, expected a number of"),
        (r#"{"rope_scaling":{"rope_type":"linear","type":"llama3","factor":2}}"#, r#""linear" here and "llama3""#),
        (r#"{"rope_scaling":{"rope_type":"linear","factor":2,"beta":3}}"#, "rope_scaling.beta is 3, expected no such"),
        (r#"{"rope_scaling":{"rope_type":"llama3","factor":2}}"#, "original_max_position_embeddings is missing"),
        (
            r#"{"rope_scaling":{"rope_type":"llama3","factor":2,"low_freq_factor":4,"high_freq_factor":4,
                "original_max_position_embeddings":8}}"#,
            "high_freq_factor is 4, expected a number above low_freq_factor 4",
        ),
        (r#"{"rope_parameters":{"full_attention":{"rope_type":"default"}}}"#, "rope_parameters.full_attention is"),
        (r#"{"rope_parameters":{"rope_theta":1e4},"rope_theta":1e6}"#, "one value"),
        (r#"{"rope_parameters":{"rope_theta":1e4},"rope_scaling":{"type":"default"}}"#, "rope_scaling is given beside"),
        (r#"{"rope_parameters":{"partial_rotary_factor":0.5}}"#, "rope_parameters.partial_rotary_factor is 0.5"),
        (r#"{"partial_rotary_factor":0.25}"#, "partial_rotary_factor is 0.25, expected 1"),
        (r#"{"rope_theta":0}"#, "rope_theta is 0, expected a number above 0"),
        (r#"{"rope_scaling":3}"#, "rope_scaling is 3, expected an object"),
    ];
    for (patch, expected) in cases {
        assert!(refusal(patch).contains(expected), "{patch}: {}", refusal(patch));
    }
}

#[test]
fn refuses_what_changes_the_result_unsupportedly() {
    let cases = [
        (r#"{"model_type":"mistral"}"#, r#"config.json: model_type is "mistral", expected "llama""#),
        (r#"{"model_type":null}"#, "config.json: model_type is null, expected"),
        (r#"{"hidden_act":"gelu"}"#, r#"hidden_act is "gelu", expected "silu""#),
        (r#"{"pretraining_tp":2}"#, "pretraining_tp is 2, expected 1"),
        (r#"{"attention_dropout":0.1}"#, "attention_dropout is 0.1, expected 0"),
        (
            r#"{"quantization_config":{"quant_method":"gptq"}}"#,
            r#"quantization_config.quant_method is "gptq", expected"#,
        ),
        (
            r#"{"quantization_config":{"quant_method":"bitsandbytes","bnb_4bit_quant_type":"fp4"}}"#,
            r#"quantization_config.bnb_4bit_quant_type is "fp4", expected "nf4""#,
        ),
        (r#"{"sliding_window":4096}"#, "sliding_window is 4096, expected null"),
    ];
    for (patch, expected) in cases {
        assert!(refusal(patch).contains(expected), "{patch}: {}", refusal(patch));
    }
    let harmless = patched(SMALL, r#"{"attention_dropout":0.0,"quantization_config":null,"pretraining_tp":1.0}"#);
    assert_eq!(harmless.unwrap(), parse(SMALL).unwrap());
}

#[test]
fn refuses_sizes_that_do_not_fit() {
    let cases = [
        (r#"{"hidden_size":0}"#, "hidden_size is 0, expected a positive integer"),
        (r#"{"hidden_size":null}"#, "hidden_size is missing"),
        (r#"{"intermediate_size":-4}"#, "intermediate_size is -4"),
        (r#"{"vocab_size":11.5}"#, "vocab_size is 11.5"),
        (r#"{"vocab_size":"11"}"#, r#"vocab_size is "11""#),
        (r#"{"num_hidden_layers":4294967296}"#, "num_hidden_layers is 4294967296"),
        (r#"{"num_hidden_layers":2147483647}"#, "num_hidden_layers is 2147483647, expected at most 10000"),
        (r#"{"num_key_value_heads":2}"#, "num_key_value_heads is 2, expected a divisor of num_attention_heads 3"),
        (r#"{"head_dim":5}"#, "head_dim is 5, expected an even number"),
        (r#"{"head_dim":null}"#, "head_dim is 5, expected an even number"),
        (
            r#"{"head_dim":null,"num_attention_heads":4}"#,
            "hidden_size is 15, expected a multiple of num_attention_heads 4",
        ),
        (r#"{"head_dim":2147483646}"#, "head_dim is 2147483646, expected less"),
        (
            r#"{"hidden_size":2147483647,"vocab_size":2147483647,"intermediate_size":2147483647}"#,
            "hidden_size is 2147483647",
        ),
        (r#"{"rms_norm_eps":-1e-6}"#, "rms_norm_eps is -1e-6"),
        (r#"{"tie_word_embeddings":1}"#, "tie_word_embeddings is 1, expected true or false"),
        (r#"{"eos_token_id":11}"#, "eos_token_id is 11, expected token ids below vocab_size 11"),
        (r#"{"eos_token_id":[2,-1]}"#, "eos_token_id is [2,-1]"),
        (r#"{"bos_token_id":[1,2]}"#, "bos_token_id is [1, 2], expected one token id"),
    ];
    for (patch, expected) in cases {
        assert!(refusal(patch).contains(expected), "{patch}: {}", refusal(patch));
    }
    assert!(parse(r#"{"model_type":"llama","model_type":"llama"}"#).unwrap_err().to_string().contains("duplicate key"));
}

#[test]
fn names_unknown_fields_that_are_not_null() {
    let config = patched(SMALL, r#"{"favourite_color":"red","another":null,"use_cache":false}"#).unwrap();
    assert_eq!(config.unknown_fields, ["favourite_color"]);
}

#[test]
fn generation_config_wins() {
    let dir = tempfile::tempdir().unwrap();
    let eos = |generation: Option<&str>| {
        let path = dir.path().join("generation_config.json");
        match generation {
            Some(text) => fs::write(path, text).unwrap(),
            None => assert!(!path.exists()),
        }
        LlamaConfig::read(dir.path()).map(|config| (config.bos_token_id, config.eos_token_ids))
    };
    let config = SMALL.replacen('{', r#"{"bos_token_id":1,"eos_token_id":2,"#, 1);
    fs::write(dir.path().join("config.json"), config).unwrap();
    assert_eq!(eos(None).unwrap(), (Some(1), vec![2]));
    assert_eq!(eos(Some(r#"{"eos_token_id":[3,5],"temperature":0.6}"#)).unwrap(), (Some(1), vec![3, 5]));
    assert_eq!(eos(Some(r#"{"bos_token_id":0,"eos_token_id":null}"#)).unwrap(), (Some(0), vec![2]));
    let message = eos(Some(r#"{"eos_token_id":[99]}"#)).unwrap_err().to_string();
    assert!(message.contains("generation_config.json: eos_token_id is [99]"), "{message}");
    assert_eq!(model_type(dir.path()).unwrap(), "llama");
}

#[test]
fn missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(LlamaConfig::read(dir.path()).unwrap_err().to_string().contains("config.json"));
    assert!(model_type(dir.path()).unwrap_err().to_string().contains("config.json"));
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    assert!(model_type(dir.path()).unwrap_err().to_string().contains("model_type is missing"));
}
