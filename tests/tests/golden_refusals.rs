//! Adapters that do not belong where they are put: each is refused with a sentence that names the tensor, what was found and
//! what was expected, and the model stays as it was.

use std::path::Path;

use dora_adapters::Adapter;
use dora_models::model::LoadOptions;
use dora_models::nf4::WeightOptions;
use dora_tensor::{Device, Tensor};
use dora_tests::{Case, PEFT_PREFIX, assert_same, edited_adapter, load, load_frozen, logits};
use serde_json::{Value, json};

const Q: &str = "model.layers.0.self_attn.q_proj";

/// The message of the adapter in a folder on the model of a case, without the path of the adapter's folder.
fn refusal(adapter: &Path, base: &Case) -> String {
    let mut model = load_frozen(&base.model_dir());
    let before = logits(&*model, &base.batch());
    let message = match Adapter::load(&mut *model, adapter, &[]) {
        Ok(_) => panic!("the adapter loads"),
        Err(error) => error.to_string(),
    };
    assert_same("the model that refused", &logits(&*model, &base.batch()), &before);
    let front = format!("{}/", adapter.display());
    message.strip_prefix(&front).unwrap_or_else(|| panic!("{message:?} names no file")).to_owned()
}

/// As [`refusal`] for a changed adapter of a case on the case's own base.
fn refusal_of(case: &str, edit: impl FnOnce(&mut Value, &mut Vec<(String, Tensor)>)) -> String {
    let case = Case::open(case);
    refusal(edited_adapter(&case.adapter_dir(), edit).path(), &case)
}

fn tensor_error(tensor: &str, found: &str, expected: &str) -> String {
    format!("adapter_model.safetensors: tensor {PEFT_PREFIX}{tensor}: found {found}, expected {expected}")
}

fn position(tensors: &[(String, Tensor)], name: &str) -> usize {
    tensors.iter().position(|(n, _)| *n == format!("{PEFT_PREFIX}{name}")).unwrap()
}

#[test]
fn an_adapter_that_nothing_was_changed_in_loads() {
    for name in ["lora_rslora", "dora_seven"] {
        let case = Case::open(name);
        let dir = edited_adapter(&case.adapter_dir(), |_, _| ());
        let mut model = load_frozen(&case.model_dir());
        Adapter::load(&mut *model, dir.path(), &[]).unwrap();
    }
}

#[test]
fn magnitudes_without_use_dora() {
    let message = refusal_of("dora_seven", |config, _| config["use_dora"] = json!(false));
    let first = "model.layers.0.mlp.down_proj.lora_magnitude_vector";
    assert_eq!(message, tensor_error(first, "it", "none, as `use_dora` is false in adapter_config.json"));
}

#[test]
fn use_dora_without_magnitudes() {
    let message = refusal_of("lora_rslora", |config, _| config["use_dora"] = json!(true));
    let magnitude = format!("{Q}.lora_magnitude_vector");
    assert_eq!(message, tensor_error(&magnitude, "nothing", "it, as `use_dora` is true in adapter_config.json"));
    let gone = "model.layers.1.mlp.up_proj.lora_magnitude_vector";
    let message = refusal_of("dora_seven", |_, tensors| {
        tensors.remove(position(tensors, gone));
    });
    assert_eq!(message, tensor_error(gone, "nothing", "it, as `use_dora` is true in adapter_config.json"));
}

#[test]
fn a_factor_that_is_missing() {
    for (end, expected) in [("lora_A", "(r, in) = [1, 42]"), ("lora_B", "(out, r) = [60, 1]")] {
        let name = format!("{Q}.{end}.weight");
        let message = refusal_of("lora_rslora", |_, tensors| {
            tensors.remove(position(tensors, &name));
        });
        let expected = format!("{expected} for a target layer of the base model");
        assert_eq!(message, tensor_error(&name, "nothing", &expected));
    }
}

#[test]
fn a_rank_that_the_settings_do_not_say() {
    let by = "by adapter_config.json and the base model's layer";
    let message = refusal_of("dora_seven", |config, _| config["r"] = json!(4));
    let expected = format!("(r, in) = [4, 33] {by}");
    assert_eq!(message, tensor_error(&format!("{Q}.lora_A.weight"), "shape [5, 33]", &expected));
    // The B of another rank than its A.
    let name = format!("{Q}.lora_B.weight");
    let message = refusal_of("dora_seven", |_, tensors| {
        let at = position(tensors, &name);
        tensors[at].1 = Tensor::zeros(&[42, 6]);
    });
    assert_eq!(message, tensor_error(&name, "shape [42, 6]", &format!("(out, r) = [42, 5] {by}")));
    // As many elements in another shape are not the tensor.
    let name = format!("{Q}.lora_magnitude_vector");
    let message = refusal_of("dora_seven", |_, tensors| {
        let at = position(tensors, &name);
        tensors[at].1 = tensors[at].1.reshaped(&[1, 42]).unwrap();
    });
    assert_eq!(message, tensor_error(&name, "shape [1, 42]", &format!("(out) = [42] {by}")));
}

#[test]
fn an_adapter_for_a_base_of_other_sizes() {
    let message = refusal(&Case::open("lora_rslora").adapter_dir(), &Case::open("llama_tied_bias"));
    let expected = "(r, in) = [1, 33] by adapter_config.json and the base model's layer";
    assert_eq!(message, tensor_error(&format!("{Q}.lora_A.weight"), "shape [1, 42]", expected));
    let message = refusal(&Case::open("dora_zero_rows").adapter_dir(), &Case::open("llama_plain"));
    let expected = "(out) = [60] by adapter_config.json and the base model's layer";
    assert_eq!(message, tensor_error(&format!("{Q}.lora_magnitude_vector"), "shape [12]", expected));
}

#[test]
fn an_adapter_for_a_base_of_more_layers() {
    let message = refusal_of("dora_seven", |_, tensors| {
        let copy = |(name, tensor): &(String, Tensor)| (name.replace(".layers.1.", ".layers.2."), tensor.clone());
        let third: Vec<_> = tensors.iter().filter(|(name, _)| name.contains(".layers.1.")).map(copy).collect();
        tensors.extend(third);
    });
    let expected = "tensors of the base model's target layers only (is this adapter for another base model?)";
    assert_eq!(message, tensor_error("model.layers.2.mlp.down_proj.lora_A.weight", "it", expected));
}

#[test]
fn an_adapter_for_a_base_of_fewer_layers() {
    let message = refusal_of("lora_rslora", |_, tensors| tensors.retain(|(name, _)| !name.contains(".layers.1.")));
    let expected = "(r, in) = [7, 42] for a target layer of the base model";
    assert_eq!(message, tensor_error("model.layers.1.self_attn.q_proj.lora_A.weight", "nothing", expected));
}

#[test]
fn names_of_another_convention() {
    let message = refusal_of("lora_rslora", |_, tensors| {
        tensors.iter_mut().for_each(|(name, _)| *name = name.replace(PEFT_PREFIX, ""));
    });
    let expected = "(r, in) = [1, 42] for a target layer of the base model";
    assert_eq!(message, tensor_error(&format!("{Q}.lora_A.weight"), "nothing", expected));
}

#[test]
fn elements_that_are_not_finite() {
    for (end, value) in
        [("lora_A.weight", f32::NAN), ("lora_B.weight", f32::INFINITY), ("lora_magnitude_vector", f32::NEG_INFINITY)]
    {
        let name = format!("{Q}.{end}");
        let message = refusal_of("dora_seven", |_, tensors| {
            let tensor = &mut tensors.iter_mut().find(|(n, _)| n.ends_with(&name)).unwrap().1;
            let mut elements = tensor.to_vec();
            *elements.last_mut().unwrap() = value;
            *tensor = Tensor::from_vec(elements, tensor.shape()).unwrap();
        });
        assert_eq!(message, tensor_error(&name, "elements that are not finite", "finite numbers"));
    }
}

#[test]
fn a_base_that_is_trained_itself() {
    let case = Case::open("dora_seven");
    let mut model = load(
        &case.model_dir(),
        LoadOptions { weights: WeightOptions { dtype: None, nf4: None }, trained: true, device: Device::Cpu },
    );
    let message = match Adapter::load(&mut *model, &case.adapter_dir(), &[]) {
        Ok(_) => panic!("the adapter loads"),
        Err(error) => error.to_string(),
    };
    assert_eq!(message, format!("`{Q}` is trained itself, expected a frozen layer to adapt"));
}
