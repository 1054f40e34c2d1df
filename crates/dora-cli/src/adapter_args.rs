//! Options of an adapter, under PEFT's names.

use clap::{Parser, ValueEnum};
use dora_adapters::config::{AdapterConfig, Init, Modules, Purpose, TargetModules};
use dora_adapters::pattern::{Overrides, PathPattern};
use dora_tensor::Nf4Options;

use crate::base::Base;
use crate::failure::Usage;

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Low-rank update of frozen weights
    Lora,
    /// Low-rank update of their direction, and a magnitude per output row
    Dora,
    /// LoRA over 4-bit weights
    Qlora,
    /// DoRA over 4-bit weights
    Qdora,
    /// Every weight
    Full,
}

impl Method {
    /// Its name as people write it.
    pub fn title(self) -> &'static str {
        match self {
            Method::Lora => "LoRA",
            Method::Dora => "DoRA",
            Method::Qlora => "QLoRA",
            Method::Qdora => "QDoRA",
            Method::Full => "full",
        }
    }

    /// Whether there is a magnitude.
    pub fn is_dora(self) -> bool {
        matches!(self, Method::Dora | Method::Qdora)
    }

    /// Whether the frozen weights are in 4 bits.
    pub fn is_quantized(self) -> bool {
        matches!(self, Method::Qlora | Method::Qdora)
    }
}

/// Options of 4-bit weights.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "4-bit weights")]
pub struct Nf4Args {
    /// Elements that share a scale: 64, 128, 256, 512, 1024, 2048 or 4096 [default: 64, or as the model's folder has it]
    #[arg(long)]
    pub block_size: Option<usize>,
    /// Keep the scales in 32 bits instead of 8
    #[arg(long)]
    pub no_double_quant: bool,
}

impl Nf4Args {
    /// The library's options.
    pub fn options(&self) -> Result<Nf4Options, Usage> {
        match self.block_size.unwrap_or(Nf4Options::default().block_size) {
            block_size @ (64 | 128 | 256 | 512 | 1024 | 2048 | 4096) => {
                Ok(Nf4Options { block_size, double_quant: !self.no_double_quant })
            }
            size => Err(Usage(format!("--block-size is {size}, expected 64, 128, 256, 512, 1024, 2048 or 4096"))),
        }
    }
}

impl Nf4Args {
    /// Whether any is given.
    pub fn is_given(&self) -> bool {
        self.block_size.is_some() || self.no_double_quant
    }

    /// Refuses what is given where a folder holds its layers in 4 bits otherwise: nothing is quantised again.
    pub fn check(&self, base: &Base) -> Result<(), Usage> {
        let Some(Nf4Options { block_size, double_quant }) = base.nf4 else { return Ok(()) };
        if self.block_size.is_none_or(|size| size == block_size) && !(self.no_double_quant && double_quant) {
            return Ok(());
        }
        let (path, scales) = (base.dir.display(), if double_quant { "with" } else { "without" });
        Err(Usage(format!(
            "{path} is in 4 bits of --block-size {block_size} {scales} double quantisation, expected no other setting"
        )))
    }
}

/// Options that make an adapter's settings.
#[derive(Debug, Clone, PartialEq, clap::Args)]
#[command(next_help_heading = "Adapter")]
pub struct AdapterArgs {
    /// What to train
    #[arg(long, value_enum, default_value_t = Method::Dora)]
    pub method: Method,
    /// Rank r of the update
    #[arg(long, default_value_t = 16)]
    pub rank: usize,
    /// lora_alpha: the update is scaled by alpha / rank [default: twice the rank]
    #[arg(long)]
    pub alpha: Option<f64>,
    /// Layers to adapt: names separated by commas, all-linear, or a regular expression for whole paths
    #[arg(long, default_value = "all-linear")]
    pub target_modules: String,
    /// Layers to leave out: names separated by commas, or a regular expression
    #[arg(long)]
    pub exclude_modules: Option<String>,
    /// Keep to the blocks of these numbers
    #[arg(long, value_delimiter = ',')]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Probability of dropping an input of the update in training
    #[arg(long, default_value_t = 0.0)]
    pub dropout: f64,
    /// Scale the update by alpha / sqrt(rank)
    #[arg(long)]
    pub use_rslora: bool,
    /// How A begins (B begins at 0): true is uniform in ±1/sqrt(in)
    #[arg(long, default_value = "true", value_parser = ["true", "gaussian"])]
    pub init_lora_weights: String,
    /// Another rank for layers whose path ends in PATTERN; may be given again
    #[arg(long, value_name = "PATTERN=RANK")]
    pub rank_pattern: Vec<String>,
    /// Another alpha for layers whose path ends in PATTERN; may be given again
    #[arg(long, value_name = "PATTERN=ALPHA")]
    pub alpha_pattern: Vec<String>,
}

/// Options above that an adapter on file settles, so that they can't be given beside it.
pub const SETTLED: [&str; 10] = [
    "rank",
    "alpha",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "dropout",
    "use_rslora",
    "init_lora_weights",
    "rank_pattern",
    "alpha_pattern",
];

/// The options above as they are when none is given.
#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    adapter: AdapterArgs,
}

impl AdapterArgs {
    /// Refuses settings of an adapter where every weight is trained, as there is none then.
    pub fn check_full(&self) -> Result<(), Usage> {
        match *self == Defaults::parse_from(["dora", "--method=full"]).adapter {
            true => Ok(()),
            false => Err(Usage("--rank and its like are for adapters, expected none with --method full".into())),
        }
    }

    /// The settings of a new adapter.
    pub fn config(&self) -> anyhow::Result<AdapterConfig> {
        let rank_pattern = pairs::<usize>("--rank-pattern", "a rank", &self.rank_pattern)?;
        let alpha_pattern = pairs::<f64>("--alpha-pattern", "a number", &self.alpha_pattern)?;
        let config = AdapterConfig {
            r: self.rank,
            lora_alpha: self.alpha.unwrap_or(2.0 * self.rank as f64),
            use_rslora: self.use_rslora,
            use_dora: self.method.is_dora(),
            lora_dropout: self.dropout,
            init: if self.init_lora_weights == "gaussian" { Init::Gaussian } else { Init::Uniform },
            target_modules: match self.target_modules.as_str() {
                "all-linear" => TargetModules::AllLinear,
                text => TargetModules::Only(modules("target_modules", text)?),
            },
            exclude_modules: self.exclude_modules.as_deref().map(|t| modules("exclude_modules", t)).transpose()?,
            layers_to_transform: self.layers_to_transform.clone(),
            rank_pattern: Overrides::new("rank_pattern", rank_pattern)?,
            alpha_pattern: Overrides::new("alpha_pattern", alpha_pattern)?,
            ..Default::default()
        };
        config.check(Purpose::Begin)?;
        Ok(config)
    }
}

/// Names separated by commas or, where a character says so, a regular expression.
fn modules(setting: &'static str, text: &str) -> anyhow::Result<Modules> {
    if text.contains(['*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '\\', '^', '$']) {
        return Ok(Modules::Pattern(PathPattern::new(setting, text)?));
    }
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().any(String::is_empty) {
        true => Err(Usage(format!("`{setting}` is {text:?}, expected names separated by commas")).into()),
        false => Ok(Modules::Names(names)),
    }
}

fn pairs<'a, T: std::str::FromStr>(
    option: &str,
    expected: &str,
    given: &'a [String],
) -> Result<Vec<(&'a str, T)>, Usage> {
    let pair = |text: &'a String| {
        let (key, value) = text.rsplit_once('=')?;
        Some((key, value.parse().ok()?))
    };
    let error = |text: &String| Usage(format!("{option} is {text:?}, expected PATTERN=VALUE with {expected}"));
    given.iter().map(|text| pair(text).ok_or_else(|| error(text))).collect()
}
