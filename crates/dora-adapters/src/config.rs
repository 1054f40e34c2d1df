//! The settings of an adapter: rank, scale, dropout, initialisation and which layers it goes on, under PEFT's names and
//! with PEFT's defaults. [`crate::config_file`] reads and writes them as `adapter_config.json`.
//!
//! A layer's rank r is `rank_pattern`'s or `r`, its alpha `alpha_pattern`'s or `lora_alpha`, each on its own, and its scale
//! s = alpha / r, or alpha / sqrt(r) with `use_rslora`.

use crate::error::{Error, Result};
use crate::pattern::{LayerPattern, Overrides, PathPattern};

/// Settings of a LoRA or DoRA adapter.
#[derive(Debug, Clone)]
pub struct AdapterConfig {
    /// Rank of the update, at least 1.
    pub r: usize,
    /// Numerator of the scale: finite and not 0 (which would switch the adapter and its gradients off). PEFT takes negative
    /// values, and so does this.
    pub lora_alpha: f64,
    /// Divide alpha by sqrt(r) instead of r.
    pub use_rslora: bool,
    /// DoRA: train a magnitude per output row as well.
    pub use_dora: bool,
    /// Probability of dropping an input of the update in training, in [0, 1).
    pub lora_dropout: f64,
    /// How the matrices begin.
    pub init: Init,
    /// Layers that take the adapter.
    pub target_modules: TargetModules,
    /// Layers that don't, whatever `target_modules` says.
    pub exclude_modules: Option<Modules>,
    /// Block indexes to keep to. Names that spell a module's whole path are not subject to it, and an empty list keeps to
    /// nothing, both as in PEFT.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Names of the list of blocks, for `layers_to_transform`; none stands for any.
    pub layers_pattern: Vec<LayerPattern>,
    /// Ranks that differ from `r`.
    pub rank_pattern: Overrides<usize>,
    /// Alphas that differ from `lora_alpha`.
    pub alpha_pattern: Overrides<f64>,
    /// Where the base model came from.
    pub base_model_name_or_path: Option<String>,
    /// Which version of it.
    pub revision: Option<String>,
    /// How DoRA's magnitudes begin. Of training alone: not on file, where the trained magnitudes are.
    pub magnitude_init: MagnitudeInit,
    /// Whether DoRA's norm is differentiated too. Of training alone: not on file, and PEFT always holds it constant.
    pub exact_norm_gradient: bool,
}

/// How DoRA's magnitudes m (out) begin.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum MagnitudeInit {
    /// ‖W + sBA‖ of each row, so that the adapter changes nothing of what A and B make: PEFT's, and ‖W‖ where B is 0.
    #[default]
    UpdatedWeightNorm,
    /// ‖W‖ of each row (the paper's).
    WeightNorm,
    /// 1.
    Ones,
    /// This many times ‖W‖.
    Scaled(f64),
}

/// How A (r, in) and B (out, r) begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// `true`: A uniform in ±1/sqrt(in), B zero.
    Uniform,
    /// `"gaussian"`: A normal with standard deviation 1/r, B zero.
    Gaussian,
    /// `false`, `"orthogonal"` or `"eva"`: some other way that left the base weights alone, so that the tensors on file are
    /// all there is to know. An adapter can be loaded with it, not begun; it is written as `true`, as the tensors beside it
    /// replace whatever a reader initialises.
    OnFile,
}

/// What `target_modules` says.
#[derive(Debug, Clone)]
pub enum TargetModules {
    /// Nothing: the architecture's usual layers.
    Default,
    /// `all-linear`: every linear layer but the output embedding.
    AllLinear,
    /// These.
    Only(Modules),
}

/// A choice of modules.
#[derive(Debug, Clone)]
pub enum Modules {
    /// Modules whose path is one of these or ends with a dot and one of these.
    Names(Vec<String>),
    /// Modules whose whole path matches.
    Pattern(PathPattern),
}

/// What settings are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To begin an adapter: a setting without effect is a mistake, and an error.
    Begin,
    /// To load one that was trained: its tensors decide what is missing, so entries that match nothing pass.
    Load,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            use_rslora: false,
            use_dora: false,
            lora_dropout: 0.0,
            init: Init::Uniform,
            target_modules: TargetModules::Default,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            rank_pattern: Overrides::default(),
            alpha_pattern: Overrides::default(),
            base_model_name_or_path: None,
            revision: None,
            magnitude_init: MagnitudeInit::default(),
            exact_norm_gradient: false,
        }
    }
}

impl AdapterConfig {
    /// Rank of the layer at a path.
    pub fn rank(&self, path: &str) -> usize {
        self.rank_pattern.get(path).unwrap_or(self.r)
    }

    /// Alpha of the layer at a path. A rank of its own does not change it.
    pub fn alpha(&self, path: &str) -> f64 {
        self.alpha_pattern.get(path).unwrap_or(self.lora_alpha)
    }

    /// Scale s of the layer at a path.
    pub fn scaling(&self, path: &str) -> f64 {
        let rank = self.rank(path) as f64;
        self.alpha(path) / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Refuses values out of range and settings that contradict each other.
    pub fn check(&self, purpose: Purpose) -> Result<()> {
        check_rank("r", self.r)?;
        self.rank_pattern.iter().try_for_each(|(key, rank)| check_rank(&format!("rank_pattern[{key:?}]"), rank))?;
        check_alpha("lora_alpha", self.lora_alpha)?;
        self.alpha_pattern
            .iter()
            .try_for_each(|(key, alpha)| check_alpha(&format!("alpha_pattern[{key:?}]"), alpha))?;
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(setting("lora_dropout", self.lora_dropout, "a probability of at least 0 and below 1"));
        }
        if self.init == Init::OnFile && purpose == Purpose::Begin {
            let found = "of a kind that is known only when loading";
            return Err(setting("init_lora_weights", found, "true or \"gaussian\" to begin an adapter"));
        }
        if let MagnitudeInit::Scaled(factor) = self.magnitude_init
            && !(factor > 0.0 && factor.is_finite())
        {
            return Err(setting("magnitude_init", factor, "a factor above 0"));
        }
        if !self.use_dora && self.exact_norm_gradient {
            return Err(setting("exact_norm_gradient", true, "false without `use_dora`"));
        }
        if !self.use_dora && self.magnitude_init != MagnitudeInit::default() {
            return Err(setting("magnitude_init", "set", "nothing without `use_dora`"));
        }
        let named = matches!(self.target_modules, TargetModules::Default | TargetModules::Only(Modules::Names(_)));
        if self.layers_to_transform.is_some() && !named {
            return Err(setting("layers_to_transform", "set", "nothing unless `target_modules` is a list of names"));
        }
        if !self.layers_pattern.is_empty() && self.layers_to_transform.is_none() {
            return Err(setting("layers_pattern", "set", "nothing unless `layers_to_transform` is set too"));
        }
        Ok(())
    }
}

impl From<Modules> for TargetModules {
    fn from(modules: Modules) -> Self {
        TargetModules::Only(modules)
    }
}

impl Modules {
    /// Whether the module at a path is one of these.
    pub fn contains(&self, path: &str) -> bool {
        match self {
            Modules::Names(names) => names.iter().any(|name| name_matches(name, path)),
            Modules::Pattern(pattern) => pattern.is_match(path),
        }
    }
}

/// PEFT's rule for one name: the whole path, or its end from behind a dot.
pub(crate) fn name_matches(name: &str, path: &str) -> bool {
    path.strip_suffix(name).is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

pub(crate) fn setting(setting: &str, found: impl ToString, expected: &str) -> Error {
    Error::Setting { setting: setting.to_string(), found: found.to_string(), expected: expected.to_string() }
}

/// More than any layer is wide.
const MAX_RANK: usize = 1 << 18;

fn check_rank(name: &str, rank: usize) -> Result<()> {
    match rank {
        0 => Err(setting(name, rank, "a rank of at least 1")),
        1..=MAX_RANK => Ok(()),
        _ => Err(setting(name, rank, &format!("a rank of at most {MAX_RANK}"))),
    }
}

fn check_alpha(name: &str, alpha: f64) -> Result<()> {
    let usable = alpha.is_finite() && alpha != 0.0;
    if usable { Ok(()) } else { Err(setting(name, alpha, "a finite number other than 0")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_follows_the_overridden_rank_and_alpha() {
        let mut config = AdapterConfig { r: 4, lora_alpha: 6.0, ..Default::default() };
        config.rank_pattern = Overrides::new("rank_pattern", [("q", 9)]).unwrap();
        config.alpha_pattern = Overrides::new("alpha_pattern", [(r"b\.q", 0.5)]).unwrap();
        assert_eq!([config.scaling("a.v"), config.scaling("a.q"), config.scaling("b.q")], [1.5, 6.0 / 9.0, 0.5 / 9.0]);
        config.use_rslora = true;
        assert_eq!([config.scaling("a.v"), config.scaling("a.q"), config.scaling("b.q")], [3.0, 2.0, 0.5 / 3.0]);
    }

    #[test]
    fn a_name_matches_whole_or_from_behind_a_dot() {
        assert!(name_matches("q_proj", "q_proj") && name_matches("a.q_proj", "x.a.q_proj"));
        assert!(!name_matches("proj", "q_proj") && !name_matches("x.q_proj", "q_proj") && !name_matches("x", "x.q"));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let message = |change: fn(&mut AdapterConfig), purpose| {
            let mut config = AdapterConfig::default();
            change(&mut config);
            config.check(purpose).unwrap_err().to_string()
        };
        let load = |change| message(change, Purpose::Load);
        assert_eq!(load(|c| c.r = 0), "`r` is 0, expected a rank of at least 1");
        for alpha in [0.0, -0.0, f64::NAN, f64::INFINITY] {
            let config = AdapterConfig { lora_alpha: alpha, ..Default::default() };
            assert!(config.check(Purpose::Load).is_err(), "{alpha}");
        }
        for dropout in [1.0, -0.1, f64::NAN] {
            let config = AdapterConfig { lora_dropout: dropout, ..Default::default() };
            assert!(config.check(Purpose::Load).is_err(), "{dropout}");
        }
        let rank_pattern = load(|c| c.rank_pattern = Overrides::new("rank_pattern", [("q", 0)]).unwrap());
        assert_eq!(rank_pattern, "`rank_pattern[\"q\"]` is 0, expected a rank of at least 1");
        let layers = load(|c| (c.target_modules, c.layers_to_transform) = (TargetModules::AllLinear, Some(vec![0])));
        assert!(layers.starts_with("`layers_to_transform` is set, expected nothing unless"), "{layers}");
        assert!(
            load(|c| c.layers_pattern = vec![LayerPattern::new("h").unwrap()]).starts_with("`layers_pattern` is set")
        );
        let factor = |c: &mut AdapterConfig| (c.use_dora, c.magnitude_init) = (true, MagnitudeInit::Scaled(0.0));
        assert_eq!(load(factor), "`magnitude_init` is 0, expected a factor above 0");
        let exact = load(|c| c.exact_norm_gradient = true);
        assert_eq!(exact, "`exact_norm_gradient` is true, expected false without `use_dora`");
        assert_eq!(
            load(|c| c.magnitude_init = MagnitudeInit::Ones),
            "`magnitude_init` is set, expected nothing without `use_dora`"
        );
        assert!(message(|c| c.init = Init::OnFile, Purpose::Begin).starts_with("`init_lora_weights` is"));
        assert!(
            AdapterConfig { init: Init::OnFile, lora_alpha: -1.0, ..Default::default() }.check(Purpose::Load).is_ok()
        );
    }
}
