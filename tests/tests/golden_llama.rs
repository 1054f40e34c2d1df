//! Llama against PyTorch and transformers: hidden states, logits, loss and gradients.
//!
//! Both sides compute in `f32`, summing in different orders; tolerances are relative to a tensor's largest element.

use std::fs;
use std::path::Path;

use dora_models::linear::Pass;
use dora_models::model::{LoadOptions, Model};
use dora_models::nf4::WeightOptions;
use dora_tensor::{DType, Device, Tensor};
use dora_tests::{Case, assert_close, assert_same, gradients, load, load_frozen, logits, run};

/// Hidden states, logits and loss.
const FORWARD: f32 = 5e-6;
/// Gradients.
const BACKWARD: f32 = 1e-5;

const CASES: [&str; 4] = ["llama_plain", "llama_tied_bias", "llama_linear_rope_sharded_bf16", "llama_f16"];
const WITH_GRADIENTS: [&str; 2] = ["llama_plain", "llama_tied_bias"];
const TRAINED: LoadOptions =
    LoadOptions { weights: WeightOptions { dtype: None, nf4: None }, trained: true, device: Device::Cpu };

/// As stored, as `f32`, and as parameters.
fn ways_to_load() -> [(&'static str, LoadOptions); 3] {
    let f32 = LoadOptions {
        weights: WeightOptions { dtype: Some(DType::F32), nf4: None },
        trained: false,
        device: Device::Cpu,
    };
    [("stored", LoadOptions::default()), ("f32", f32), ("trained", TRAINED)]
}

#[test]
fn hidden_states_logits_and_loss() {
    for name in CASES {
        let case = Case::open(name);
        let batch = case.batch();
        for (way, options) in ways_to_load() {
            let model = load(&case.model_dir(), options);
            let run = run(&*model, &batch, &batch.pass());
            let what = |tensor: &str| format!("{name} {way} {tensor}");
            assert_close(&what("hidden"), &run.hidden, &case.expected("hidden"), FORWARD);
            assert_close(&what("logits"), &run.logits, &case.expected("logits"), FORWARD);
            assert_close(&what("loss"), &run.loss.reshaped(&[1]).unwrap(), &case.expected("loss"), FORWARD);
        }
    }
}

#[test]
fn frozen_weights_stay_in_the_precision_they_are_stored_in() {
    for (name, dtype) in [("llama_linear_rope_sharded_bf16", DType::BF16), ("llama_f16", DType::F16)] {
        let case = Case::open(name);
        let batch = case.batch();
        // Rounding the weights once more changes nothing: so they were of that type, and the sums are the same.
        let [stored, rounded] = [None, Some(dtype)].map(|dtype| {
            let model = load(
                &case.model_dir(),
                LoadOptions { weights: WeightOptions { dtype, nf4: None }, trained: false, device: Device::Cpu },
            );
            assert!(model.parameters().is_empty());
            logits(&*model, &batch)
        });
        assert_same(name, &stored, &rounded);
    }
}

#[test]
fn a_document_alone_is_the_document_in_the_batch() {
    for name in CASES {
        let case = Case::open(name);
        let model = load_frozen(&case.model_dir());
        let together = logits(&*model, &case.batch());
        let mut start = 0;
        for batch in case.single_documents() {
            let len = batch.input_ids.len();
            let what = format!("{name}, {len} tokens from {start}");
            let alone = logits(&*model, &batch);
            let rows = |tensor: &Tensor| tensor.rows(start, len).unwrap();
            assert_close(&what, &alone, &rows(&case.expected("logits")), FORWARD);
            assert_close(&what, &alone, &rows(&together), 1e-6);
            start += len;
        }
        assert_eq!(start, together.shape()[0]);
    }
}

#[test]
fn gradients_of_every_parameter() {
    for name in WITH_GRADIENTS {
        let case = Case::open(name);
        let batch = case.batch();
        let model = load(&case.model_dir(), TRAINED);
        let kept = gradients(&*model, &model.parameters(), &batch, &batch.pass());
        assert_eq!(kept.keys().map(String::as_str).collect::<Vec<_>>(), case.names("grad."));
        for (parameter, gradient) in &kept {
            let expected = case.expected(&format!("grad.{parameter}"));
            assert_close(&format!("{name} {parameter}"), gradient, &expected, BACKWARD);
        }
        let pass = Pass { recompute_blocks: true, ..batch.pass() };
        let recomputed = gradients(&*model, &model.parameters(), &batch, &pass);
        assert!(recomputed.keys().eq(kept.keys()));
        for (parameter, gradient) in &recomputed {
            assert_same(&format!("{name} {parameter} recomputed"), gradient, &kept[parameter]);
        }
    }
}

#[test]
fn gradients_of_documents_alone_sum_to_those_of_the_batch() {
    for name in WITH_GRADIENTS {
        let case = Case::open(name);
        let model = load(&case.model_dir(), TRAINED);
        for batch in case.single_documents() {
            run(&*model, &batch, &batch.pass()).loss.backward().unwrap();
        }
        for parameter in model.parameters() {
            let what = format!("{name} {} in parts", parameter.name());
            let expected = case.expected(&format!("grad.{}", parameter.name()));
            assert_close(&what, &parameter.take_gradient().unwrap(), &expected, BACKWARD);
        }
    }
}

#[test]
fn a_configuration_as_transformers_4_wrote_it_is_the_same_model() {
    for name in ["llama_tied_bias", "llama_linear_rope_sharded_bf16", "llama_f16"] {
        let case = Case::open(name);
        let dir = tempfile::tempdir().unwrap();
        for file in fs::read_dir(case.model_dir()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
        fs::copy(case.path("config_v4.json"), dir.path().join("config.json")).unwrap();
        let [new, old] = [&case.model_dir(), dir.path()].map(|dir: &Path| load_frozen(dir));
        assert_eq!(old.shape(), new.shape());
        assert_same(name, &logits(&*old, &case.batch()), &logits(&*new, &case.batch()));
    }
}

/// Hidden states of a document over a cache that grows by `chunk` tokens at a time.
fn extended(model: &dyn Model, input_ids: &[u32], chunk: usize) -> Tensor {
    let mut cache = model.cache(input_ids.len()).unwrap();
    let mut hidden = Tensor::zeros(&[input_ids.len(), width(model, input_ids)]);
    for tokens in input_ids.chunks(chunk) {
        let start = cache.len();
        hidden.write_rows(start, &model.extend(tokens, &mut cache).unwrap()).unwrap();
        assert_eq!(cache.len(), start + tokens.len());
    }
    hidden
}

fn width(model: &dyn Model, input_ids: &[u32]) -> usize {
    model.hidden(&input_ids[..1], &Pass::new(&[1])).unwrap().shape()[1]
}

#[test]
fn a_cache_gives_the_same_hidden_states() {
    for name in CASES {
        let case = Case::open(name);
        for options in [LoadOptions::default(), TRAINED] {
            let model = load(&case.model_dir(), options);
            let mut start = 0;
            for batch in case.single_documents() {
                let len = batch.input_ids.len();
                let expected = case.expected("hidden").rows(start, len).unwrap();
                for chunk in [1, 2, 5, len] {
                    let hidden = extended(&*model, &batch.input_ids, chunk);
                    assert!(!hidden.requires_grad());
                    assert_close(&format!("{name}, {chunk} at a time"), &hidden, &expected, FORWARD);
                }
                start += len;
            }
        }
    }
}
