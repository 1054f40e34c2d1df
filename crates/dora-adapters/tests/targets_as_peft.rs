//! Targets, ranks, alphas, scales and counts are PEFT's, case by case, and so is `adapter_config.json`.
//! `tests/golden/targets.py` made the cases and describes their file.

use dora_adapters::config::{AdapterConfig, Modules, Purpose};
use dora_adapters::count::count;
use dora_adapters::error::Result;
use dora_adapters::targets::{Target, expand, resolve};
use dora_models::shape::{LinearShape, ModelShape};
use serde_json::{Value, json};

/// What PEFT takes `target_modules: null` for on a Llama.
const DEFAULTS: [&str; 2] = ["q_proj", "v_proj"];

/// PEFT adapts these; here they are refused.
const REFUSED: [&str; 2] = ["output embedding", "input embedding"];

/// PEFT accepts entries without effect; here they are refused when an adapter begins.
const REFUSED_TO_BEGIN: [&str; 9] = [
    "name is not a part of a word",
    "name of nothing beside one of something",
    "exclude pattern matches whole paths only",
    "exclude what is not there",
    "layer that is not there",
    "24 shortened paths in layers",
    "rank: not a part of a word",
    "rank: anchored",
    "rank: no target",
];

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/targets.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn shape(model: &Value) -> ModelShape {
    let size = |value: &Value| value.as_u64().unwrap() as usize;
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let linear = |linear: &Value| LinearShape {
        path: text(&linear[0]),
        in_features: size(&linear[1]),
        out_features: size(&linear[2]),
        bias: linear[3] == true,
        output_embedding: linear[4] == true,
    };
    ModelShape {
        linears: model["linears"].as_array().unwrap().iter().map(linear).collect(),
        other_modules: model["other_modules"].as_array().unwrap().iter().map(text).collect(),
        parameters: size(&model["parameters"]),
        ..Default::default()
    }
}

fn targets(case: &Value, shape: &ModelShape, purpose: Purpose) -> Result<(AdapterConfig, Vec<Target>)> {
    let config = AdapterConfig::from_json(case["config"].as_object().unwrap().clone())?;
    let targets = resolve(&config, shape, &DEFAULTS, purpose)?;
    Ok((config, targets))
}

#[test]
fn every_case_agrees() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 60);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let shape = shape(&golden["models"][case["model"].as_str().unwrap()]);
        let loaded = targets(case, &shape, Purpose::Load);
        let begun = targets(case, &shape, Purpose::Begin);
        let peft_refuses = case.get("error").is_some();
        if peft_refuses || REFUSED.contains(&name) {
            assert!(loaded.is_err() && begun.is_err(), "{name}: {loaded:?}");
            continue;
        }
        assert_eq!(begun.is_err(), REFUSED_TO_BEGIN.contains(&name), "{name}: {begun:?}");

        let (config, targets) = loaded.unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = case["targets"].as_object().unwrap();
        assert_eq!(targets.len(), expected.len(), "{name}");
        for target in &targets {
            let of_peft = expected[&target.linear.path].as_array().unwrap();
            let of_peft: Vec<f64> = of_peft.iter().map(|value| value.as_f64().unwrap()).collect();
            assert_eq!(
                vec![target.rank as f64, target.alpha, target.scaling],
                of_peft,
                "{name}: {}",
                target.linear.path
            );
            assert_eq!(target.linear, shape.linears[target.index], "{name}");
        }

        let saved = match expand(&config.target_modules, &shape, &DEFAULTS).unwrap() {
            Modules::Names(mut names) => {
                names.sort();
                json!(names)
            }
            Modules::Pattern(pattern) => json!(pattern.source()),
        };
        assert_eq!(saved, case["saved"], "{name}");

        let counts = count(&targets, config.use_dora, &shape);
        assert_eq!(
            (json!(counts.trainable), json!(counts.all)),
            (case["trainable"].clone(), case["all"].clone()),
            "{name}"
        );
        assert_eq!(counts.to_string(), case["line"].as_str().unwrap(), "{name}");
    }
    for name in REFUSED.iter().chain(&REFUSED_TO_BEGIN) {
        assert!(cases.iter().any(|case| case["name"] == *name), "{name} is no case");
    }
}

#[test]
fn the_file_is_written_as_peft_writes_it() {
    let golden = golden();
    let text = golden["written"].as_str().unwrap();
    let config = AdapterConfig::from_json(serde_json::from_str(text).unwrap()).unwrap();
    assert_eq!(config.to_json(), text);
}
