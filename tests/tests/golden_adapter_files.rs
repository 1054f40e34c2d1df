//! Adapters as files and as weights: a fresh one changes nothing, a saved one is PEFT's to the byte, a merged one computes
//! the same.

use std::fs;
use std::path::Path;

use dora_adapters::config::{AdapterConfig, Init, Modules, TargetModules};
use dora_adapters::{Adapter, MergeBase, factors, merge};
use dora_models::checkpoint::{Checkpoint, read_safetensors};
use dora_models::model::LoadOptions;
use dora_models::nf4::WeightOptions;
use dora_tensor::{DType, Device};
use dora_tests::{Case, PEFT_PREFIX, assert_close, assert_same, load, load_frozen, logits};

const CASES: [&str; 3] = ["lora_rslora", "dora_seven", "dora_zero_rows"];
const SEVEN: [&str; 7] = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"];

/// Fresh settings on all seven projections.
fn seven(use_dora: bool) -> AdapterConfig {
    let names = SEVEN.map(str::to_owned).to_vec();
    AdapterConfig {
        r: 5,
        lora_alpha: 7.0,
        use_rslora: true,
        use_dora,
        target_modules: TargetModules::Only(Modules::Names(names)),
        ..Default::default()
    }
}

#[test]
fn fresh_magnitudes_are_those_of_peft() {
    let case = Case::open("dora_init");
    let mut model = load_frozen(&case.model_dir());
    let adapter = Adapter::begin(&mut *model, seven(true), &[], 1).unwrap();
    let magnitudes: Vec<_> = adapter.parameters().into_iter().filter(|p| p.name().contains("magnitude")).collect();
    assert_eq!(magnitudes.len(), case.names("magnitude.").len());
    for magnitude in magnitudes {
        let module = magnitude.name().strip_suffix(".lora_magnitude_vector").unwrap();
        let (found, expected) = (magnitude.value().to_vec(), case.expected(&format!("magnitude.{module}")).to_vec());
        assert_eq!(found.len(), expected.len());
        // Each against itself, not the largest: a small norm is as good as a large one, and that of a zero row is 0.
        for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() <= 1e-6 * expected, "{module} row {row}: {found} is not {expected}");
        }
    }
    let expected = [("model.layers.0.self_attn.k_proj", 2), ("model.layers.0.self_attn.o_proj", 3)];
    assert_eq!(adapter.zero_rows(), [&expected[..], &[("model.layers.1.self_attn.o_proj", 1)]].concat());
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    let bases = ["llama_plain", "llama_tied_bias", "llama_linear_rope_sharded_bf16", "llama_f16", "dora_zero_rows"];
    for name in bases {
        let case = Case::open(name);
        let batch = case.batch();
        let base = logits(&*load_frozen(&case.model_dir()), &batch);
        for (use_dora, init) in
            [(false, Init::Uniform), (false, Init::Gaussian), (true, Init::Uniform), (true, Init::Gaussian)]
        {
            let mut model = load_frozen(&case.model_dir());
            let adapter = Adapter::begin(&mut *model, AdapterConfig { init, ..seven(use_dora) }, &[], 1).unwrap();
            let what = format!("{name}, dora {use_dora}, {init:?}");
            let a = |p: &dora_tensor::Parameter| p.name().ends_with("lora_A.weight");
            let random =
                adapter.parameters().into_iter().filter(a).all(|p| p.value().to_vec().iter().any(|&x| x != 0.0));
            assert!(random, "{what}: A is zero");
            // Twice: with norms as they come, and as they are remembered.
            for _ in 0..2 {
                match use_dora {
                    false => assert_same(&what, &logits(&*model, &batch), &base),
                    true => assert_close(&what, &logits(&*model, &batch), &base, 1e-6),
                }
            }
        }
    }
}

#[test]
fn a_seed_decides_what_a_fresh_adapter_is() {
    let case = Case::open("llama_plain");
    let first = |seed| {
        let mut model = load_frozen(&case.model_dir());
        let adapter = Adapter::begin(&mut *model, seven(false), &[], seed).unwrap();
        adapter.parameters().iter().flat_map(|p| p.value().to_vec()).collect::<Vec<f32>>()
    };
    assert_eq!(first(1), first(1));
    assert_ne!(first(1), first(2));
}

#[test]
fn a_saved_adapter_is_the_one_that_peft_saved() {
    for name in CASES {
        let case = Case::open(name);
        let mut model = load_frozen(&case.model_dir());
        let adapter = Adapter::load(&mut *model, &case.adapter_dir(), &[]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        adapter.save(dir.path()).unwrap();
        assert_eq!(entries(dir.path()), ["adapter_config.json", "adapter_model.safetensors"]);
        assert_same_tensors(dir.path(), &case.adapter_dir());
        assert_eq!(config_text(dir.path()), config_text(&case.adapter_dir()));
        assert_eq!(config_text(dir.path()), AdapterConfig::read(dir.path()).unwrap().to_json());
    }
}

#[test]
fn a_fresh_adapter_is_saved_as_peft_saves_it() {
    let case = Case::open("dora_seven");
    let mut model = load_frozen(&case.model_dir());
    let mut adapter = Adapter::begin(&mut *model, seven(true), &[], 1).unwrap();
    adapter.config_mut().base_model_name_or_path = Some("llama_tied_bias".into());
    let dir = tempfile::tempdir().unwrap();
    adapter.save(dir.path()).unwrap();
    assert_eq!(config_text(dir.path()), config_text(&case.adapter_dir()));
    let [found, expected] = [dir.path(), &case.adapter_dir()]
        .map(|dir: &Path| read_safetensors(&dir.join("adapter_model.safetensors")).unwrap());
    assert!(found.names().eq(expected.names()));
    for name in expected.names() {
        let (found, expected) = (found.tensor(name).unwrap(), expected.tensor(name).unwrap());
        assert_eq!((found.shape(), found.dtype()), (expected.shape(), expected.dtype()), "{name}");
    }
}

#[test]
fn what_was_saved_loads_as_it_was() {
    for name in CASES {
        let case = Case::open(name);
        let mut model = load_frozen(&case.model_dir());
        let adapter = Adapter::load(&mut *model, &case.adapter_dir(), &[]).unwrap();
        // Numbers that take all their bits.
        let third = |values: &mut [f32]| values.iter_mut().for_each(|x| *x /= 3.0);
        adapter.parameters().iter().for_each(|p| p.update(third));
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        adapter.save(first.path()).unwrap();
        let mut again = load_frozen(&case.model_dir());
        let loaded = Adapter::load(&mut *again, first.path(), &[]).unwrap();
        assert_eq!(loaded.parameters().len(), adapter.parameters().len());
        for (found, expected) in loaded.parameters().iter().zip(adapter.parameters()) {
            assert_eq!((found.name(), found.role()), (expected.name(), expected.role()));
            assert_same(found.name(), &found.value(), &expected.value());
        }
        assert_same(name, &logits(&*again, &case.batch()), &logits(&*model, &case.batch()));
        loaded.save(second.path()).unwrap();
        for file in entries(first.path()) {
            assert!(
                fs::read(first.path().join(&file)).unwrap() == fs::read(second.path().join(&file)).unwrap(),
                "{name} {file}"
            );
        }
    }
}

#[test]
fn merged_weights_are_those_of_peft_and_compute_the_same() {
    for name in CASES {
        let case = Case::open(name);
        let batch = case.batch();
        let mut model = load_frozen(&case.model_dir());
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path();
        let (_, layers) = factors::read(&case.adapter_dir(), model.shape(), &[]).unwrap();
        merge(
            &case.model_dir(),
            load_frozen(&case.model_dir()).shape(),
            &layers,
            output,
            MergeBase::Stored,
            Device::Cpu,
        )
        .unwrap();

        let [merged, base] = [output, &case.model_dir()].map(|dir: &Path| Checkpoint::open(dir).unwrap());
        assert!(merged.names().eq(base.names()));
        let targets: Vec<String> = case.names("merged.").iter().map(|module| format!("{module}.weight")).collect();
        assert!(targets.iter().all(|name| base.contains(name)));
        for tensor in base.names() {
            let found = merged.tensor(tensor).unwrap();
            match targets.iter().any(|target| target == tensor) {
                true => {
                    let expected = case.expected(&format!("merged.{}", tensor.strip_suffix(".weight").unwrap()));
                    assert_close(&format!("{name} {tensor}"), &found, &expected, 1e-6);
                }
                false => assert_same(tensor, &found, &base.tensor(tensor).unwrap()),
            }
        }
        assert_eq!(entries(output), ["config.json", "model.safetensors"]);
        let plain = load_frozen(output);
        assert_close(&format!("{name} against PEFT"), &logits(&*plain, &batch), &case.expected("logits"), 5e-6);
        let _adapter = Adapter::load(&mut *model, &case.adapter_dir(), &[]).unwrap();
        assert_close(&format!("{name} unmerged"), &logits(&*plain, &batch), &logits(&*model, &batch), 5e-6);
    }
}

#[test]
fn zero_rows_merge_to_zero_rows() {
    let case = Case::open("dora_zero_rows");
    let dir = tempfile::tempdir().unwrap();
    let (_, layers) = factors::read(&case.adapter_dir(), load_frozen(&case.model_dir()).shape(), &[]).unwrap();
    merge(
        &case.model_dir(),
        load_frozen(&case.model_dir()).shape(),
        &layers,
        dir.path(),
        MergeBase::Stored,
        Device::Cpu,
    )
    .unwrap();
    let merged = Checkpoint::open(dir.path()).unwrap();
    for (module, rows) in case.json["zero_rows"].as_object().unwrap() {
        let weight = merged.tensor(&format!("{module}.weight")).unwrap();
        for row in rows.as_array().unwrap() {
            let row = weight.rows(row.as_u64().unwrap() as usize, 1).unwrap();
            assert!(row.to_vec().iter().all(|&x| x == 0.0), "{module}");
        }
    }
}

#[test]
fn a_fresh_adapter_merges_to_the_base_in_its_own_types() {
    for (name, dtype) in [("llama_linear_rope_sharded_bf16", DType::BF16), ("llama_f16", DType::F16)] {
        let case = Case::open(name);
        for use_dora in [false, true] {
            let mut model = load_frozen(&case.model_dir());
            let adapter = Adapter::begin(&mut *model, seven(use_dora), &[], 1).unwrap();
            let (saved, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            adapter.save(saved.path()).unwrap();
            let (_, layers) = factors::read(saved.path(), model.shape(), &[]).unwrap();
            merge(
                &case.model_dir(),
                load_frozen(&case.model_dir()).shape(),
                &layers,
                output.path(),
                MergeBase::Stored,
                Device::Cpu,
            )
            .unwrap();
            let [merged, base] = [output.path(), &case.model_dir()].map(|dir| Checkpoint::open(dir).unwrap());
            for tensor in base.names() {
                assert_eq!(base.tensor(tensor).unwrap().dtype(), dtype);
                assert_same(
                    &format!("{name} {tensor}"),
                    &merged.tensor(tensor).unwrap(),
                    &base.tensor(tensor).unwrap(),
                );
            }
            let trained =
                LoadOptions { weights: WeightOptions { dtype: None, nf4: None }, trained: true, device: Device::Cpu };
            assert_eq!(load(output.path(), trained).parameters().len(), base.names().count());
        }
    }
}

/// Names of a folder's files, sorted.
fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn config_text(dir: &Path) -> String {
    fs::read_to_string(dir.join("adapter_config.json")).unwrap().trim_end().to_owned()
}

/// Fails unless the adapters in two folders hold the same tensors, to the byte, under PEFT's names and metadata.
fn assert_same_tensors(found: &Path, expected: &Path) {
    let [found, expected] =
        [found, expected].map(|dir| read_safetensors(&dir.join("adapter_model.safetensors")).unwrap());
    assert!(found.names().eq(expected.names()) && found.names().all(|name| name.starts_with(PEFT_PREFIX)));
    assert_eq!(found.metadata(), expected.metadata());
    for name in expected.names() {
        assert_eq!(found.raw(name).unwrap(), expected.raw(name).unwrap(), "{name}");
    }
}
