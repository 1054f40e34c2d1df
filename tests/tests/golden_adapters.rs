//! LoRA and DoRA on a frozen base against PEFT (zero rows: against the reference in `golden/make.py`): logits, loss and
//! gradients; and that recomputation, the cache, dropout switched off and remembered norms change nothing.
//!
//! Both sides compute in `f32`, summing in different orders; tolerances are relative to a tensor's largest element.

use std::collections::BTreeMap;

use dora_adapters::Adapter;
use dora_models::linear::{DropoutSource, Pass};
use dora_models::model::{LoadOptions, Model};
use dora_models::nf4::WeightOptions;
use dora_tensor::{DType, Device, Role, Tensor};
use dora_tests::{
    Case, PEFT_PREFIX, assert_close, assert_same, edited_adapter, gradients, load, load_frozen, logits, relative_error,
    run,
};
use dora_train::objective::{CausalLm, Objective};
use serde_json::json;

/// Hidden states, logits and loss.
const FORWARD: f32 = 5e-6;
/// Gradients of A and B.
const BACKWARD: f32 = 1e-5;
/// Gradients of m, which come from the output: (y − b)/m loses digits where b is large against y − b.
const MAGNITUDE: f32 = 2e-5;

const CASES: [&str; 3] = ["lora_rslora", "dora_seven", "dora_zero_rows"];

fn adapted(case: &Case) -> (Box<dyn Model>, Adapter) {
    let mut model = load_frozen(&case.model_dir());
    let adapter = Adapter::load(&mut *model, &case.adapter_dir(), &[]).unwrap();
    (model, adapter)
}

fn adapter_gradients(case: &Case, model: &dyn Model, adapter: &Adapter, pass: &Pass) -> BTreeMap<String, Tensor> {
    gradients(model, &adapter.parameters(), &case.batch(), pass)
}

#[test]
fn hidden_states_logits_and_loss() {
    for name in CASES {
        let case = Case::open(name);
        let batch = case.batch();
        let mut model = load(
            &case.model_dir(),
            LoadOptions {
                weights: WeightOptions { dtype: Some(DType::F32), nf4: None },
                trained: false,
                device: Device::Cpu,
            },
        );
        let base = logits(&*model, &batch);
        let _adapter = Adapter::load(&mut *model, &case.adapter_dir(), &[]).unwrap();
        // Twice: the second pass finds the norms that the first one left.
        for pass in ["first", "second"] {
            let run = run(&*model, &batch, &batch.pass());
            let what = |tensor: &str| format!("{name} {pass} {tensor}");
            assert_close(&what("hidden"), &run.hidden, &case.expected("hidden"), FORWARD);
            assert_close(&what("logits"), &run.logits, &case.expected("logits"), FORWARD);
            assert_close(&what("loss"), &run.loss.reshaped(&[1]).unwrap(), &case.expected("loss"), FORWARD);
        }
        assert!(relative_error(&base.to_vec(), &case.expected("logits").to_vec()) > 0.1, "{name} shows nothing");
    }
}

#[test]
fn gradients_of_every_factor() {
    for name in CASES {
        let case = Case::open(name);
        let (model, adapter) = adapted(&case);
        let found = adapter_gradients(&case, &*model, &adapter, &case.batch().pass());
        assert!(model.parameters().is_empty());
        let named: Vec<String> = found.keys().map(|parameter| format!("{PEFT_PREFIX}{parameter}")).collect();
        assert_eq!(named, case.names("grad."));
        for (parameter, gradient) in &found {
            let expected = case.expected(&format!("grad.{PEFT_PREFIX}{parameter}"));
            let tolerance = if parameter.ends_with(".lora_magnitude_vector") { MAGNITUDE } else { BACKWARD };
            assert_close(&format!("{name} {parameter}"), gradient, &expected, tolerance);
        }
    }
}

/// Training computes nothing behind the last attention for rows without a label.
#[test]
fn loss_and_gradients_of_labelled_rows_alone() {
    for name in CASES {
        let case = Case::open(name);
        let dora_tests::Batch { input_ids, targets, lengths, labelled_tokens } = case.batch();
        let labelled = labelled_tokens as usize;
        assert!(8 * labelled <= 7 * input_ids.len(), "{name} labels nearly all rows, which are then not picked");
        let batch = dora_train::data::Batch { input_ids, targets, lengths, labelled };
        for recompute_blocks in [false, true] {
            let (model, adapter) = adapted(&case);
            let loss = CausalLm { model: &*model, seed: 0, recompute_blocks }.loss(&batch, labelled, 0).unwrap();
            let what = |tensor: &str| format!("{name} {tensor}");
            assert_close(&what("loss"), &loss.reshaped(&[1]).unwrap(), &case.expected("loss"), FORWARD);
            loss.backward().unwrap();
            for parameter in adapter.parameters() {
                let expected = case.expected(&format!("grad.{PEFT_PREFIX}{}", parameter.name()));
                let magnitude = parameter.role() == Role::Magnitude;
                let tolerance = if magnitude { MAGNITUDE } else { BACKWARD };
                assert_close(&what(parameter.name()), &parameter.take_gradient().unwrap(), &expected, tolerance);
            }
        }
    }
}

#[test]
fn magnitudes_are_their_own_kind_of_parameter() {
    let (_model, adapter) = adapted(&Case::open("dora_seven"));
    for parameter in adapter.parameters() {
        let role = match parameter.name() {
            name if name.ends_with(".lora_magnitude_vector") => Role::Magnitude,
            name if name.ends_with(".lora_B.weight") => Role::LowRankB,
            _ => Role::Matrix,
        };
        assert_eq!(parameter.role(), role, "{}", parameter.name());
    }
}

#[test]
fn zero_rows_are_counted_and_their_magnitudes_get_no_gradient() {
    let case = Case::open("dora_zero_rows");
    let (model, adapter) = adapted(&case);
    let found = adapter_gradients(&case, &*model, &adapter, &case.batch().pass());
    let rows = case.json["zero_rows"].as_object().unwrap();
    for (module, rows) in rows {
        let gradient = found[&format!("{module}.lora_magnitude_vector")].to_vec();
        let zeros: Vec<usize> = (0..gradient.len()).filter(|&row| gradient[row] == 0.0).collect();
        let expected: Vec<usize> = rows.as_array().unwrap().iter().map(|row| row.as_u64().unwrap() as usize).collect();
        assert_eq!(zeros, expected, "{module}");
    }
    let mut counted: Vec<(&str, usize)> =
        rows.iter().map(|(module, rows)| (module.as_str(), rows.as_array().unwrap().len())).collect();
    counted.sort_unstable();
    assert_eq!(adapter.zero_rows(), counted);
    for name in ["lora_rslora", "dora_seven"] {
        assert_eq!(adapted(&Case::open(name)).1.zero_rows(), []);
    }
}

#[test]
fn recomputed_blocks_give_the_same_gradients() {
    for name in CASES {
        let case = Case::open(name);
        let (kept_model, kept_adapter) = adapted(&case);
        let kept = adapter_gradients(&case, &*kept_model, &kept_adapter, &case.batch().pass());
        let (model, adapter) = adapted(&case);
        let pass = Pass { recompute_blocks: true, ..case.batch().pass() };
        for (parameter, gradient) in adapter_gradients(&case, &*model, &adapter, &pass) {
            assert_same(&format!("{name} {parameter}"), &gradient, &kept[&parameter]);
        }
    }
}

#[test]
fn the_last_block_alone_recomputes_to_the_same_gradients() {
    // Nothing before the adapted layers has a gradient: the block itself must see that it trains.
    let case = Case::open("lora_rslora");
    let dir = edited_adapter(&case.adapter_dir(), |config, tensors| {
        config["layers_to_transform"] = json!([1]);
        tensors.retain(|(name, _)| name.contains(".layers.1."));
    });
    let found = [false, true].map(|recompute_blocks| {
        let mut model = load_frozen(&case.model_dir());
        let adapter = Adapter::load(&mut *model, dir.path(), &[]).unwrap();
        assert_eq!(adapter.targets().count(), 3);
        adapter_gradients(&case, &*model, &adapter, &Pass { recompute_blocks, ..case.batch().pass() })
    });
    assert!(found[0].keys().eq(found[1].keys()) && found[0].len() == 6);
    found[0].iter().for_each(|(name, gradient)| assert_same(name, &found[1][name], gradient));
}

#[test]
fn a_cache_gives_the_same_hidden_states() {
    for name in CASES {
        let case = Case::open(name);
        let (model, _adapter) = adapted(&case);
        let mut start = 0;
        for batch in case.single_documents() {
            let len = batch.input_ids.len();
            for chunk in [1, 3, len] {
                let mut cache = model.cache(len).unwrap();
                for tokens in batch.input_ids.chunks(chunk) {
                    let expected = case.expected("hidden").rows(start + cache.len(), tokens.len()).unwrap();
                    let hidden = model.extend(tokens, &mut cache).unwrap();
                    // Against the largest element of a few rows, not of all.
                    assert_close(&format!("{name}, {chunk} at a time"), &hidden, &expected, 2.0 * FORWARD);
                }
            }
            start += len;
        }
    }
}

#[test]
fn a_source_of_dropout_changes_nothing_where_none_is_set() {
    for name in CASES {
        let case = Case::open(name);
        let (model, adapter) = adapted(&case);
        let plain = adapter_gradients(&case, &*model, &adapter, &case.batch().pass());
        let pass = Pass { dropout: Some(DropoutSource { seed: 7, step: 3 }), ..case.batch().pass() };
        for (parameter, gradient) in adapter_gradients(&case, &*model, &adapter, &pass) {
            assert_same(&format!("{name} {parameter}"), &gradient, &plain[&parameter]);
        }
    }
}

#[test]
fn dropout_acts_in_training_only_and_a_recomputed_block_draws_the_same() {
    for name in CASES {
        let case = Case::open(name);
        let batch = case.batch();
        let dir = edited_adapter(&case.adapter_dir(), |config, _| config["lora_dropout"] = json!(0.4));
        let mut model = load_frozen(&case.model_dir());
        let adapter = Adapter::load(&mut *model, dir.path(), &[]).unwrap();
        assert_close(&format!("{name} evaluated"), &logits(&*model, &batch), &case.expected("logits"), FORWARD);
        let source = |step| Some(DropoutSource { seed: 7, step });
        let pass = |step| Pass { dropout: source(step), ..batch.pass() };
        let [first, again, next] = [1, 1, 2].map(|step| run(&*model, &batch, &pass(step)).logits);
        assert_same(&format!("{name} drawn again"), &again, &first);
        for other in [&next, &case.expected("logits")] {
            assert!(relative_error(&other.to_vec(), &first.to_vec()) > 0.01, "{name} drops nothing");
        }
        let kept = adapter_gradients(&case, &*model, &adapter, &pass(1));
        let recomputed = Pass { recompute_blocks: true, ..pass(1) };
        for (parameter, gradient) in adapter_gradients(&case, &*model, &adapter, &recomputed) {
            assert_same(&format!("{name} {parameter}"), &gradient, &kept[&parameter]);
        }
    }
}

#[test]
fn norms_follow_each_update() {
    let case = Case::open("dora_seven");
    let batch = case.batch();
    let (model, adapter) = adapted(&case);
    let mut before = logits(&*model, &batch);
    for kind in [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"] {
        for parameter in adapter.parameters().iter().filter(|p| p.name().ends_with(kind)) {
            parameter.update(|values| values.iter_mut().for_each(|x| *x = 1.3 * *x + 0.02));
        }
        let updated = run(&*model, &batch, &batch.pass());
        updated.loss.backward().unwrap();
        assert!(relative_error(&before.to_vec(), &updated.logits.to_vec()) > 0.01, "{kind}");
        let dir = tempfile::tempdir().unwrap();
        adapter.save(dir.path()).unwrap();
        let mut fresh = load_frozen(&case.model_dir());
        let loaded = Adapter::load(&mut *fresh, dir.path(), &[]).unwrap();
        let expected = run(&*fresh, &batch, &batch.pass());
        expected.loss.backward().unwrap();
        assert_close(kind, &updated.logits, &expected.logits, 1e-6);
        for (found, expected) in adapter.parameters().iter().zip(loaded.parameters()) {
            let what = format!("{kind} updated, {}", found.name());
            assert_close(&what, &found.take_gradient().unwrap(), &expected.take_gradient().unwrap(), 1e-6);
        }
        before = updated.logits;
    }
    // `set` counts as an update too.
    let (model, other) = adapted(&case);
    logits(&*model, &batch);
    for (parameter, value) in other.parameters().iter().zip(adapter.parameters()) {
        parameter.set(value.value()).unwrap();
    }
    assert_close("set", &logits(&*model, &batch), &before, 1e-6);
}
