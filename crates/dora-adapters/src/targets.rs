//! Which linear layers of a model an adapter goes on, by PEFT's rules. A module that `exclude_modules` matches is left out;
//! then a pattern must match the whole path, and a name the path or its end from behind a dot, the latter only inside
//! `layers_to_transform`. Unlike PEFT, which leaves them unsaid, entries without effect are errors when an adapter begins.

use crate::config::{AdapterConfig, Modules, Purpose, TargetModules, name_matches};
use crate::error::{Error, Result};
use crate::pattern::{Overrides, layer_index};
use dora_models::shape::{LinearShape, ModelShape};
use serde_json::json;
use std::collections::{BTreeSet, HashSet};

/// PEFT shortens lists of names from this length on.
const SHORTENED_FROM: usize = 20;

/// A linear layer that takes an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Its position in [`ModelShape::linears`].
    pub index: usize,
    /// The layer.
    pub linear: LinearShape,
    /// Rank r of its update.
    pub rank: usize,
    /// Its alpha.
    pub alpha: f64,
    /// Its scale s.
    pub scaling: f64,
}

/// The layers that `config` adapts, in the model's order and at least one. `defaults` are the names that the architecture
/// stands for when `target_modules` is not given.
pub fn resolve(config: &AdapterConfig, shape: &ModelShape, defaults: &[&str], purpose: Purpose) -> Result<Vec<Target>> {
    config.check(purpose)?;
    let modules = expand(&config.target_modules, shape, defaults)?;
    let mut targets = Vec::new();
    for (index, linear) in shape.linears.iter().enumerate() {
        let path = linear.path.as_str();
        if selects(config, &modules, path) {
            if linear.output_embedding {
                return Err(unadaptable(path, "the output embedding"));
            }
            let (rank, alpha, scaling) = (config.rank(path), config.alpha(path), config.scaling(path));
            targets.push(Target { index, linear: linear.clone(), rank, alpha, scaling });
        }
    }
    if let Some(path) = other_modules(shape).into_iter().find(|path| selects(config, &modules, path)) {
        return Err(unadaptable(path, "which is not a linear layer"));
    }
    if purpose == Purpose::Begin {
        check_names(config, shape, &targets)?;
    }
    if targets.is_empty() {
        return Err(nothing_targeted(config, shape));
    }
    if purpose == Purpose::Begin {
        check_effect(config, shape, &targets)?;
    }
    Ok(targets)
}

/// `target_modules` without its shorthands, as PEFT saves it: `all-linear` becomes the paths of all linear layers but the
/// output embedding, and a list of 20 names or more the shortest endings that select the same modules.
pub fn expand(target_modules: &TargetModules, shape: &ModelShape, defaults: &[&str]) -> Result<Modules> {
    let names = match target_modules {
        TargetModules::Only(Modules::Names(names)) => names.clone(),
        TargetModules::Only(pattern) => return Ok(pattern.clone()),
        TargetModules::Default if defaults.is_empty() => {
            let expected = "a choice, as this architecture has no usual layers";
            return Err(crate::config::setting("target_modules", "missing", expected));
        }
        TargetModules::Default => defaults.iter().map(|name| name.to_string()).collect(),
        TargetModules::AllLinear => {
            let adapted = shape.linears.iter().filter(|linear| !linear.output_embedding);
            adapted.map(|linear| linear.path.clone()).collect()
        }
    };
    let shortened = if names.len() >= SHORTENED_FROM { shorten(&names, shape) } else { Vec::new() };
    let names = if (1..names.len()).contains(&shortened.len()) { shortened } else { names };
    Ok(Modules::Names(names))
}

/// Whether the settings choose the module at `path`.
fn selects(config: &AdapterConfig, modules: &Modules, path: &str) -> bool {
    if config.exclude_modules.as_ref().is_some_and(|excluded| excluded.contains(path)) {
        return false;
    }
    match modules {
        Modules::Pattern(pattern) => pattern.is_match(path),
        Modules::Names(names) => names.iter().any(|name| name_selects(config, name, path)),
    }
}

/// `layers_to_transform` holds for the end of a path, not for a path that is spelled out.
fn name_selects(config: &AdapterConfig, name: &str, path: &str) -> bool {
    let layers = config.layers_to_transform.as_deref().unwrap_or_default();
    let in_layers = || layer_index(&config.layers_pattern, path).is_some_and(|index| layers.contains(&index));
    name == path || name_matches(name, path) && (layers.is_empty() || in_layers())
}

/// Paths of everything that is not a linear layer: those that the model lists, and the modules that hold others.
fn other_modules(shape: &ModelShape) -> BTreeSet<&str> {
    let linears = shape.linears.iter().map(|linear| linear.path.as_str());
    let listed = shape.other_modules.iter().map(String::as_str);
    let holders = linears.chain(listed.clone()).flat_map(|path| path.match_indices('.').map(|(dot, _)| &path[..dot]));
    listed.chain(holders).collect()
}

/// Endings of `names`, each as short as it can be without also being an ending of a module that `names` leaves out.
fn shorten(names: &[String], shape: &ModelShape) -> Vec<String> {
    let chosen = Modules::Names(names.to_vec());
    let linears = shape.linears.iter().map(|linear| linear.path.as_str());
    let others = linears.chain(other_modules(shape)).filter(|path| !chosen.contains(path));
    let taken: HashSet<&str> = others.flat_map(endings).collect();
    let mut names: Vec<Vec<&str>> = names.iter().map(|name| endings(name)).collect();
    names.sort();
    let mut shortest: BTreeSet<&str> = BTreeSet::new();
    for endings in &names {
        let covered = endings.iter().any(|ending| shortest.contains(ending));
        let free = endings.iter().find(|ending| !taken.contains(**ending));
        if let (false, Some(ending)) = (covered, free) {
            shortest.insert(ending);
        }
    }
    shortest.into_iter().map(str::to_string).collect()
}

/// A path's last component, last two, …, and the whole path.
fn endings(path: &str) -> Vec<&str> {
    path.rmatch_indices('.').map(|(dot, _)| &path[dot + 1..]).chain([path]).collect()
}

fn unadaptable(path: &str, what: &'static str) -> Error {
    Error::Unadaptable { path: path.to_string(), what }
}

/// Every name given by the user must choose a layer.
fn check_names(config: &AdapterConfig, shape: &ModelShape, targets: &[Target]) -> Result<()> {
    let TargetModules::Only(Modules::Names(names)) = &config.target_modules else { return Ok(()) };
    let useless = |name: &&String| !targets.iter().any(|target| name_selects(config, name, &target.linear.path));
    match names.iter().find(useless) {
        None => Ok(()),
        Some(name) if shape.linears.iter().any(|linear| name_matches(name, &linear.path)) => {
            Err(Error::LeftOut { entry: name.clone() })
        }
        Some(name) => Err(Error::NoSuchTarget { entry: name.clone(), nearest: nearest(name, shape) }),
    }
}

/// Every entry of the other settings must concern a module.
fn check_effect(config: &AdapterConfig, shape: &ModelShape, targets: &[Target]) -> Result<()> {
    let paths = || targets.iter().map(|target| target.linear.path.as_str());
    let linears = shape.linears.iter().map(|linear| linear.path.as_str());
    let all: Vec<&str> = linears.chain(other_modules(shape)).collect();
    let excluded = match &config.exclude_modules {
        None => Vec::new(),
        Some(Modules::Pattern(pattern)) if all.iter().any(|path| pattern.is_match(path)) => Vec::new(),
        Some(Modules::Pattern(pattern)) => vec![pattern.source()],
        Some(Modules::Names(names)) => {
            names.iter().map(String::as_str).filter(|name| !all.iter().any(|path| name_matches(name, path))).collect()
        }
    };
    if let Some(entry) = excluded.first() {
        return Err(no_effect("exclude_modules", entry, "module of the model"));
    }
    let indexes: HashSet<usize> = paths().filter_map(|path| layer_index(&config.layers_pattern, path)).collect();
    if let Some(index) = config.layers_to_transform.iter().flatten().find(|index| !indexes.contains(index)) {
        return Err(no_effect("layers_to_transform", index, "targeted layer"));
    }
    check_overrides("rank_pattern", &config.rank_pattern, paths())?;
    check_overrides("alpha_pattern", &config.alpha_pattern, paths())
}

fn check_overrides<'a, T: Copy>(
    setting: &'static str,
    overrides: &Overrides<T>,
    paths: impl Iterator<Item = &'a str>,
) -> Result<()> {
    let used: HashSet<usize> = paths.filter_map(|path| overrides.deciding(path)).collect();
    match overrides.iter().enumerate().find(|(index, _)| !used.contains(index)) {
        None => Ok(()),
        Some((_, (key, _))) => Err(no_effect(setting, key, "targeted layer that an earlier pattern does not")),
    }
}

fn no_effect(setting: &'static str, entry: impl serde::Serialize, of: &'static str) -> Error {
    Error::NoEffect { setting, entry: json!(entry).to_string(), of }
}

fn nothing_targeted(config: &AdapterConfig, shape: &ModelShape) -> Error {
    let filters = match (&config.exclude_modules, &config.layers_to_transform) {
        (None, None) => "",
        (Some(_), None) => " less `exclude_modules`",
        (None, Some(_)) => " within `layers_to_transform`",
        (Some(_), Some(_)) => " less `exclude_modules`, within `layers_to_transform`",
    };
    Error::NothingTargeted { targets: config.target_modules.to_json().to_string(), filters, names: names(shape, 1) }
}

/// The three endings of linear layers' paths that are spelled most like `entry`.
fn nearest(entry: &str, shape: &ModelShape) -> Vec<String> {
    let mut names = names(shape, endings(entry).len());
    names.sort_by_key(|name| strsim::damerau_levenshtein(name, entry));
    names.truncate(3);
    names
}

/// The different last `components` components of the paths of the layers that can be adapted, in the model's order.
fn names(shape: &ModelShape, components: usize) -> Vec<String> {
    let mut seen = HashSet::new();
    let adaptable = shape.linears.iter().filter(|linear| !linear.output_embedding);
    let ending = |linear: &LinearShape| {
        let endings = endings(&linear.path);
        endings.get(components.min(endings.len()) - 1).map(|ending| ending.to_string())
    };
    adaptable.filter_map(ending).filter(|name| seen.insert(name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::PathPattern;

    /// `layers` blocks of the seven projections, and an output embedding.
    fn llama(layers: usize) -> ModelShape {
        let names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
        let names = names.into_iter().chain(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]);
        let paths = (0..layers).flat_map(|layer| names.clone().map(move |name| format!("model.layers.{layer}.{name}")));
        let linear = |path: String| LinearShape {
            output_embedding: path == "lm_head",
            path,
            in_features: 3,
            out_features: 5,
            bias: false,
        };
        let linears = paths.chain(["lm_head".to_string()]).map(linear).collect();
        ModelShape {
            linears,
            other_modules: vec!["model.embed_tokens".into(), "model.norm".into()],
            ..Default::default()
        }
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn on(names: &[&str]) -> AdapterConfig {
        let target_modules = TargetModules::Only(Modules::Names(strings(names)));
        AdapterConfig { target_modules, ..Default::default() }
    }

    fn matching(pattern: &str) -> AdapterConfig {
        let pattern = PathPattern::new("target_modules", pattern).unwrap();
        AdapterConfig { target_modules: TargetModules::Only(Modules::Pattern(pattern)), ..Default::default() }
    }

    fn begin(config: &AdapterConfig) -> Result<Vec<Target>> {
        resolve(config, &llama(3), &["q_proj", "v_proj"], Purpose::Begin)
    }

    fn refused(config: AdapterConfig) -> String {
        begin(&config).unwrap_err().to_string()
    }

    #[test]
    fn a_target_carries_its_layer_and_scale() {
        let config = AdapterConfig { r: 4, lora_alpha: 2.0, use_rslora: true, ..on(&["layers.2.mlp.up_proj"]) };
        let linear = llama(3).linears[19].clone();
        assert_eq!(begin(&config).unwrap(), [Target { index: 19, linear, rank: 4, alpha: 2.0, scaling: 1.0 }]);
    }

    #[test]
    fn a_name_without_a_layer_is_an_error_with_the_nearest() {
        let message = "target module `q_prj` matches no linear layer; nearest: q_proj, k_proj, v_proj";
        assert_eq!(refused(on(&["v_proj", "q_prj"])), message);
        let message = "target module `mpl.up_proj` matches no linear layer; nearest: mlp.up_proj, ";
        assert!(refused(on(&["mpl.up_proj"])).starts_with(message));
        assert!(refused(on(&[""])).starts_with("target module `` matches no linear layer"));
        let targets = resolve(&on(&["v_proj", "q_prj"]), &llama(3), &[], Purpose::Load).unwrap();
        assert_eq!(targets.iter().map(|target| target.index).collect::<Vec<_>>(), [2, 9, 16]);
    }

    #[test]
    fn choices_that_leave_nothing_are_errors_when_loading_too() {
        let load = |config| resolve(&config, &llama(1), &[], Purpose::Load).unwrap_err().to_string();
        let names = "the model has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj";
        let message = format!("`target_modules` \".*attn.qproj\" matches no linear layer; {names}");
        assert_eq!(load(matching(".*attn.qproj")), message);
        let exclude_modules = Some(Modules::Names(strings(&["q_proj"])));
        let message = format!("`target_modules` [\"q_proj\"] less `exclude_modules` matches no linear layer; {names}");
        assert_eq!(load(AdapterConfig { exclude_modules: exclude_modules.clone(), ..on(&["q_proj"]) }), message);
        let message =
            "target module `q_proj` matches only layers that `exclude_modules` or `layers_to_transform` leave out";
        assert_eq!(refused(AdapterConfig { exclude_modules, ..on(&["v_proj", "q_proj"]) }), message);
        assert!(load(on(&[])).starts_with("`target_modules` [] matches no linear layer"));
        let message = "`target_modules` is missing, expected a choice, as this architecture has no usual layers";
        assert_eq!(load(AdapterConfig::default()), message);
        let empty = ModelShape::default();
        let all = AdapterConfig { target_modules: TargetModules::AllLinear, ..Default::default() };
        assert!(resolve(&all, &empty, &[], Purpose::Load).is_err());
    }

    #[test]
    fn modules_that_take_no_adapter_are_named() {
        let rest = "expected linear layers of the decoder's blocks only";
        for (config, what) in [
            (on(&["q_proj", "lm_head"]), "`lm_head`, the output embedding"),
            (matching(".*(proj|head)"), "`lm_head`, the output embedding"),
            (on(&["embed_tokens"]), "`model.embed_tokens`, which is not a linear layer"),
            (on(&["norm", "q_proj"]), "`model.norm`, which is not a linear layer"),
            (matching(r"model\.layers\.1\..*"), "`model.layers.1.mlp`, which is not a linear layer"),
            (on(&["1"]), "`model.layers.1`, which is not a linear layer"),
        ] {
            assert_eq!(refused(config), format!("`target_modules` matches {what}; {rest}"));
        }
    }

    #[test]
    fn entries_without_effect_are_errors_when_an_adapter_begins() {
        let exclude_modules = Some(Modules::Names(strings(&["embed_tokens", "k_prj"])));
        let ranks = |keys: &[&'static str]| Overrides::new("rank_pattern", keys.iter().map(|key| (*key, 5))).unwrap();
        let alpha_pattern = Overrides::new("alpha_pattern", [("v_proj", 2.0)]).unwrap();
        let q = || on(&["q_proj"]);
        for (config, message) in [
            (AdapterConfig { exclude_modules, ..q() }, "`exclude_modules` holds \"k_prj\", which matches no module"),
            (
                AdapterConfig { layers_to_transform: Some(vec![2, 3]), ..q() },
                "`layers_to_transform` holds 3, which matches no targeted layer",
            ),
            (
                AdapterConfig { rank_pattern: ranks(&["v_proj"]), ..q() },
                "`rank_pattern` holds \"v_proj\", which matches",
            ),
            (
                AdapterConfig { rank_pattern: ranks(&["q_proj", "layers.0.*"]), ..q() },
                "`rank_pattern` holds \"layers.0.*\", which matches no targeted layer that an earlier pattern does not",
            ),
            (
                AdapterConfig { alpha_pattern, ..q() },
                "`alpha_pattern` holds \"v_proj\", which matches no targeted layer",
            ),
        ] {
            assert!(resolve(&config, &llama(3), &[], Purpose::Load).is_ok(), "{message}");
            let error = refused(config);
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn the_shortest_endings_select_the_same_modules() {
        let expanded = |config: AdapterConfig, shape: &ModelShape| match expand(&config.target_modules, shape, &[]) {
            Ok(Modules::Names(names)) => names,
            other => panic!("{other:?}"),
        };
        let all = AdapterConfig { target_modules: TargetModules::AllLinear, ..Default::default() };
        assert_eq!(expanded(all.clone(), &llama(2)).len(), 14);
        let seven = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"];
        assert_eq!(expanded(all, &llama(3)), seven);

        let paths: Vec<String> = llama(9).linears.iter().map(|linear| linear.path.clone()).collect();
        let most: Vec<&str> = paths.iter().map(String::as_str).filter(|path| !path.contains("8.self_attn.q")).collect();
        let config = on(&most[..most.len() - 1]);
        let short = expanded(config.clone(), &llama(9));
        assert!(
            short.contains(&"7.self_attn.q_proj".to_string()) && short.contains(&"v_proj".to_string()),
            "{short:?}"
        );
        let short: Vec<&str> = short.iter().map(String::as_str).collect();
        let select = |config: &AdapterConfig| resolve(config, &llama(9), &[], Purpose::Begin).unwrap();
        assert_eq!(select(&config).len(), 62);
        assert_eq!(select(&config), select(&on(&short)));
    }
}
