//! `adapter_config.json` as PEFT 0.21.2 defines it. Reading is strict: a field that would change the result and is not
//! implemented here must have a neutral value (null, false, empty), and so must a field that PEFT 0.21.2 does not have.
//! `peft_type`, `r` and `lora_alpha` must be there; another field that is missing has PEFT's default. Writing gives every
//! field of PEFT 0.21.2 in its order, the same bytes for the same settings.
//!
//! `init_lora_weights` says how training began. Where the base weights stayed as they were (true, false, gaussian,
//! orthogonal, eva) the tensors on file say everything. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA moved a part of the base
//! into the adapter, so that the adapter is wrong on the base as it is; PEFT's own conversion turns such an adapter into one
//! that says `true`. MiCA goes on to freeze B. All of these are refused.

use crate::config::{AdapterConfig, Init, Modules, Purpose, TargetModules, setting};
use crate::error::{Error, Result};
use crate::pattern::{LayerPattern, Overrides, PathPattern};
use dora_models::checkpoint::write_file;
use dora_models::json::object;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Name of the file in an adapter's folder.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// Fields that change nothing here: hints for finding the base model's class, the writer's version, PEFT's own run time, and
/// settings of features that other fields turn on (the last four belong to `init_lora_weights`).
const WITHOUT_EFFECT: [&str; 10] = [
    "auto_mapping",
    "peft_version",
    "inference_mode",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
];

impl AdapterConfig {
    /// Reads the settings of the adapter in folder `dir`, to load it.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let bytes = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let fields = object(&bytes, &path)?;
        Self::from_json(fields).map_err(|error| Error::InFile { path, error: Box::new(error) })
    }

    /// Settings from the fields of an `adapter_config.json`, to load the adapter beside it.
    pub fn from_json(fields: Map<String, Value>) -> Result<Self> {
        let mut fields = Fields(fields);
        fields.required("peft_type", "\"LORA\"", |value| (value == "LORA").then_some(()))?;
        fields.take("task_type", "\"CAUSAL_LM\" or null", |value| (value == "CAUSAL_LM").then_some(()))?;
        fields.take("bias", "\"none\"", |value| (value == "none").then_some(()))?;
        let integers = "an object of positive integers";
        let numbers = "an object of numbers";
        let config = Self {
            r: fields.required("r", "a positive integer", integer)?,
            lora_alpha: fields.required("lora_alpha", "a number", Value::as_f64)?,
            use_rslora: fields.take("use_rslora", "true or false", Value::as_bool)?.unwrap_or_default(),
            use_dora: fields.take("use_dora", "true or false", Value::as_bool)?.unwrap_or_default(),
            lora_dropout: fields.take("lora_dropout", "a number", Value::as_f64)?.unwrap_or_default(),
            init: fields.take("init_lora_weights", INIT, init)?.unwrap_or(Init::Uniform),
            target_modules: target_modules(&mut fields)?,
            exclude_modules: exclude_modules(&mut fields)?,
            layers_to_transform: fields.take("layers_to_transform", "block indexes", indexes)?,
            layers_pattern: layers_pattern(&mut fields)?,
            rank_pattern: overrides(&mut fields, "rank_pattern", integers, integer)?,
            alpha_pattern: overrides(&mut fields, "alpha_pattern", numbers, Value::as_f64)?,
            base_model_name_or_path: fields.take("base_model_name_or_path", "a string", string)?,
            revision: fields.take("revision", "a string", string)?,
            ..Self::default()
        };
        fields.rest_is_neutral()?;
        config.check(Purpose::Load)?;
        Ok(config)
    }

    /// The text of the `adapter_config.json` for these settings. Patterns keep their order, which decides between them.
    pub fn to_json(&self) -> String {
        let fields = json!({
            "alora_invocation_tokens": null,
            "alpha_pattern": entries(self.alpha_pattern.iter().map(|(key, alpha)| (key, number(alpha)))),
            "arrow_config": null,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": "none",
            "corda_config": null,
            "ensure_weight_tying": false,
            "eva_config": null,
            "exclude_modules": self.exclude_modules.as_ref().map(modules_json),
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": if self.init == Init::Gaussian { json!("gaussian") } else { json!(true) },
            "kasa_config": null,
            "layer_replication": null,
            "layers_pattern": layers_pattern_json(&self.layers_pattern),
            "layers_to_transform": self.layers_to_transform,
            "loftq_config": {},
            "lora_alpha": number(self.lora_alpha),
            "lora_bias": false,
            "lora_dropout": self.lora_dropout,
            "lora_ga_config": null,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": null,
            "monteclora_config": null,
            "peft_type": "LORA",
            "peft_version": "0.21.2",
            "qalora_group_size": 16,
            "r": self.r,
            "rank_pattern": entries(self.rank_pattern.iter().map(|(key, rank)| (key, json!(rank)))),
            "revision": self.revision,
            "target_modules": self.target_modules.to_json(),
            "target_parameters": null,
            "task_type": "CAUSAL_LM",
            "trainable_token_indices": null,
            "use_bdlora": null,
            "use_dora": self.use_dora,
            "use_qalora": false,
            "use_rslora": self.use_rslora,
            "velora_config": null,
        });
        format!("{fields:#}")
    }

    /// Writes the settings into folder `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        Ok(write_file(&dir.join(CONFIG_FILE), self.to_json().as_bytes())?)
    }
}

impl TargetModules {
    pub(crate) fn to_json(&self) -> Value {
        match self {
            TargetModules::Default => Value::Null,
            TargetModules::AllLinear => json!("all-linear"),
            TargetModules::Only(modules) => modules_json(modules),
        }
    }
}

/// Fields of the file that have not been looked at yet.
struct Fields(Map<String, Value>);

impl Fields {
    /// Takes a field out. `parse` gives `None` for a value that is not `expected`; null is as good as missing.
    fn take<T>(&mut self, field: &str, expected: &str, parse: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.0.shift_remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => parse(&value).map(Some).ok_or_else(|| setting(field, &value, expected)),
        }
    }

    fn required<T>(&mut self, field: &str, expected: &str, parse: impl Fn(&Value) -> Option<T>) -> Result<T> {
        self.take(field, expected, parse)?.ok_or_else(|| setting(field, "missing", expected))
    }

    fn rest_is_neutral(mut self) -> Result<()> {
        self.0.retain(|field, _| !WITHOUT_EFFECT.contains(&field.as_str()));
        match self.0.iter().find(|(_, value)| !is_neutral(value)) {
            Some((field, value)) => {
                Err(setting(field, value, "null, false or empty, as this setting is not supported"))
            }
            None => Ok(()),
        }
    }
}

fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

const INIT: &str = "true, false, \"gaussian\", \"orthogonal\" or \"eva\", as other ways change the base weights or the \
                    training; PEFT's save_pretrained converts such an adapter when it is given \
                    path_initial_model_for_weight_conversion";

fn init(value: &Value) -> Option<Init> {
    match value {
        Value::Bool(true) => Some(Init::Uniform),
        Value::Bool(false) => Some(Init::OnFile),
        Value::String(name) if name.eq_ignore_ascii_case("gaussian") => Some(Init::Gaussian),
        Value::String(name) if name == "orthogonal" || name == "eva" => Some(Init::OnFile),
        _ => None,
    }
}

fn target_modules(fields: &mut Fields) -> Result<TargetModules> {
    let modules = match fields.take("target_modules", "a string, a list of strings or null", one_or_many)? {
        None => return Ok(TargetModules::Default),
        Some(OneOrMany::One(text)) if text.eq_ignore_ascii_case("all-linear") => return Ok(TargetModules::AllLinear),
        Some(OneOrMany::One(text)) => Modules::Pattern(PathPattern::new("target_modules", &text)?),
        Some(OneOrMany::Many(names)) => Modules::Names(names),
    };
    Ok(TargetModules::Only(modules))
}

fn exclude_modules(fields: &mut Fields) -> Result<Option<Modules>> {
    Ok(match fields.take("exclude_modules", "a string, a list of strings or null", one_or_many)? {
        None => None,
        Some(value) if value.is_empty() => None,
        Some(OneOrMany::One(text)) => Some(Modules::Pattern(PathPattern::new("exclude_modules", &text)?)),
        Some(OneOrMany::Many(names)) => Some(Modules::Names(names)),
    })
}

fn layers_pattern(fields: &mut Fields) -> Result<Vec<LayerPattern>> {
    match fields.take("layers_pattern", "a string, a list of strings or null", one_or_many)? {
        None => Ok(Vec::new()),
        Some(value) if value.is_empty() => Ok(Vec::new()),
        Some(OneOrMany::One(text)) => Ok(vec![LayerPattern::new(&text)?]),
        Some(OneOrMany::Many(texts)) => texts.iter().map(|text| LayerPattern::new(text)).collect(),
    }
}

fn overrides<T: Copy>(
    fields: &mut Fields,
    field: &'static str,
    expected: &str,
    parse: fn(&Value) -> Option<T>,
) -> Result<Overrides<T>> {
    let entries = fields.take(field, expected, |value| {
        value.as_object()?.iter().map(|(key, value)| Some((key.clone(), parse(value)?))).collect::<Option<Vec<_>>>()
    })?;
    Overrides::new(field, entries.iter().flatten().map(|(key, value)| (key.as_str(), *value)))
}

enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn is_empty(&self) -> bool {
        match self {
            OneOrMany::One(text) => text.is_empty(),
            OneOrMany::Many(texts) => texts.is_empty(),
        }
    }
}

fn one_or_many(value: &Value) -> Option<OneOrMany> {
    match value {
        Value::String(text) => Some(OneOrMany::One(text.clone())),
        Value::Array(items) => items.iter().map(string).collect::<Option<_>>().map(OneOrMany::Many),
        _ => None,
    }
}

fn indexes(value: &Value) -> Option<Vec<usize>> {
    match value {
        Value::Array(items) => items.iter().map(integer).collect(),
        _ => integer(value).map(|index| vec![index]),
    }
}

fn integer(value: &Value) -> Option<usize> {
    value.as_u64()?.try_into().ok()
}

fn string(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

fn modules_json(modules: &Modules) -> Value {
    match modules {
        Modules::Names(names) => json!(names),
        Modules::Pattern(pattern) => json!(pattern.source()),
    }
}

fn layers_pattern_json(patterns: &[LayerPattern]) -> Value {
    match patterns {
        [] => Value::Null,
        _ => patterns.iter().map(LayerPattern::source).collect(),
    }
}

fn entries<'a>(entries: impl Iterator<Item = (&'a str, Value)>) -> Value {
    entries.map(|(key, value)| (key.to_string(), value)).collect::<Map<_, _>>().into()
}

/// A whole number is written without a point, as PEFT's integers are.
fn number(value: f64) -> Value {
    let whole = value.fract() == 0.0 && value.abs() < 1e15;
    if whole { json!(value as i64) } else { json!(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: Value) -> Result<AdapterConfig> {
        let mut all = json!({ "peft_type": "LORA", "r": 3, "lora_alpha": 6 });
        let given = fields.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(given);
        AdapterConfig::from_json(all.as_object().unwrap().clone())
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let config = read(json!({
            "lora_alpha": 2.5, "use_rslora": true, "use_dora": true, "lora_dropout": 0.05,
            "init_lora_weights": "gaussian", "target_modules": ["q_proj", "v_proj"], "exclude_modules": ".*\\.0\\..*",
            "layers_to_transform": 1, "layers_pattern": "layers", "rank_pattern": { "z": 5, "a": 7 },
            "alpha_pattern": { "z": 1e20, "a": -3 }, "base_model_name_or_path": "base", "revision": "main",
        }))
        .unwrap();
        let text = config.to_json();
        assert!(
            text.find("\"z\": 5").unwrap() < text.find("\"a\": 7").unwrap(),
            "order decides between patterns: {text}"
        );
        let again = AdapterConfig::from_json(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(again.to_json(), text);
        assert_eq!((again.lora_alpha, again.rank("x.a"), again.alpha("z"), again.alpha("x.a")), (2.5, 7, 1e20, -3.0));
        assert_eq!((again.init, again.layers_to_transform), (Init::Gaussian, Some(vec![1])));
    }

    #[test]
    fn every_field_that_changes_the_result_is_refused_by_name() {
        let others = json!({
            "alora_invocation_tokens": [1, 2], "arrow_config": { "top_k": 3 }, "bias": "lora_only",
            "ensure_weight_tying": true, "fan_in_fan_out": true, "kasa_config": { "beta": 1e-4 },
            "layer_replication": [[0, 2]], "lora_bias": true, "megatron_config": { "x": 1 },
            "modules_to_save": ["lm_head"], "monteclora_config": { "num_samples": 8 }, "peft_type": "ADALORA",
            "target_parameters": ["w"], "task_type": "SEQ_CLS", "trainable_token_indices": [0],
            "use_bdlora": { "nblocks": 2 }, "use_qalora": true, "velora_config": { "scale": 1.0 }, "newer": 1,
            "r": 0, "lora_alpha": "16", "lora_dropout": 1.0, "use_dora": 1, "layers_to_transform": [-1],
            "rank_pattern": { "q": 1.5 }, "target_modules": 7, "init_lora_weights": "pissa_niter_4",
        });
        for (field, value) in others.as_object().unwrap() {
            let error = read(json!({ field: value })).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}` is ")), "{field}: {error}");
        }
        for init in ["pissa", "olora", "corda", "loftq", "lora_ga", "mica", "of a later day"] {
            assert!(read(json!({ "init_lora_weights": init })).is_err(), "{init}");
        }
    }

    #[test]
    fn neutral_values_and_settings_of_absent_features_pass() {
        let config = read(json!({
            "newer": null, "newer_still": false, "newest": {}, "bias": "none", "task_type": null, "lora_bias": false,
            "modules_to_save": [], "megatron_core": "megatron.core", "qalora_group_size": 16, "peft_version": "0.99.0",
            "auto_mapping": { "base_model_class": "LlamaForCausalLM" }, "corda_config": { "corda_method": "kpm" },
            "init_lora_weights": false, "exclude_modules": [], "layers_pattern": "", "target_modules": "All-Linear",
        }))
        .unwrap();
        assert!(matches!(config.target_modules, TargetModules::AllLinear));
        assert!(config.exclude_modules.is_none() && config.layers_pattern.is_empty());
        assert_eq!((config.init, config.lora_dropout), (Init::OnFile, 0.0));
    }

    #[test]
    fn missing_fields_are_named() {
        for field in ["peft_type", "r", "lora_alpha"] {
            let mut fields = json!({ "peft_type": "LORA", "r": 3, "lora_alpha": 6 });
            fields.as_object_mut().unwrap().remove(field);
            let error = AdapterConfig::from_json(fields.as_object().unwrap().clone()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}` is missing, expected ")), "{error}");
        }
    }

    #[test]
    fn a_file_is_named_with_what_is_wrong_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONFIG_FILE);
        let message = || AdapterConfig::read(dir.path()).unwrap_err().to_string();
        assert!(message().starts_with(&format!("{}: cannot be read: ", path.display())));
        for (text, wrong) in [
            ("", ":1:0: EOF while parsing a value"),
            ("[]", ":1:1: expected a JSON object"),
            (r#"{"r": 3, "r": 4}"#, ":1:12: duplicate key \"r\""),
            ("{}", ": `peft_type` is missing, expected \"LORA\""),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(message(), format!("{}{wrong}", path.display()));
        }
        read(json!({})).unwrap().write(dir.path()).unwrap();
        assert_eq!(AdapterConfig::read(dir.path()).unwrap().r, 3);
        let error = AdapterConfig::default().write(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(error.starts_with("cannot create ") && error.contains("absent"), "{error}");
    }
}
