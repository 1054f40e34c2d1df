//! Options of `dora train`, checked before anything is loaded, and resolved into the libraries' own.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use dora_adapters::config::{AdapterConfig, Purpose};
use dora_train::data::{LoadOptions, LongRows, PlanOptions};
use dora_train::optimizer::OptimizerOptions;
use dora_train::run::RunOptions;
use dora_train::schedule::Schedule;

use super::variants::{Groups, VariantArgs};
use crate::adapter_args::{AdapterArgs, Method, Nf4Args};
use crate::base::{Base, Precision};
use crate::failure::Usage;

/// Arguments of `dora train`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folder of the base model
    #[arg(long)]
    pub model: PathBuf,
    /// Rows to train on: JSONL or a JSON array; several files are read one after another
    #[arg(long, num_args = 1.., required = true)]
    pub data: Vec<PathBuf>,
    /// Folder to write to
    #[arg(long)]
    pub output: PathBuf,
    #[command(flatten)]
    pub adapter: AdapterArgs,
    /// Start from this adapter and keep its settings
    #[arg(long, conflicts_with_all = crate::adapter_args::SETTLED)]
    pub init_adapter: Option<PathBuf>,
    #[command(flatten)]
    pub nf4: Nf4Args,
    #[command(flatten)]
    pub rows: DataArgs,
    /// Learning rate [default: 2e-4, or 2e-5 with --method full]
    #[arg(long, help_heading = "Training")]
    lr: Option<f64>,
    /// Learning rate of DoRA's magnitudes [default: as --lr; with --parameter-groups peft as B's]
    #[arg(long, help_heading = "Training")]
    lr_magnitude: Option<f64>,
    #[command(flatten)]
    pub variants: VariantArgs,
    /// Course of the learning rate after warm-up
    #[arg(long, value_enum, default_value_t = Course::Linear, help_heading = "Training")]
    schedule: Course,
    /// Steps over which the learning rate rises from 0
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    pub warmup_steps: usize,
    /// Weight decay of matrices; magnitudes, norms and biases have none
    #[arg(long, default_value_t = 0.0, help_heading = "Training")]
    weight_decay: f64,
    /// Norm that the gradients are clipped to; 0: off
    #[arg(long, default_value_t = 1.0, help_heading = "Training")]
    max_grad_norm: f64,
    /// Rows of a forward pass; with --packing, packs
    #[arg(long, default_value = "8", help_heading = "Training")]
    batch_size: NonZeroUsize,
    /// Forward passes of a step; it equals one pass over all of their rows
    #[arg(long, default_value = "1", help_heading = "Training")]
    grad_accum: NonZeroUsize,
    /// Lay short rows together up to --max-seq-len tokens; they don't see each other
    #[arg(long, help_heading = "Training")]
    packing: bool,
    /// Passes over the data
    #[arg(long, default_value = "3", help_heading = "Training")]
    epochs: NonZeroUsize,
    /// Steps to make, whatever --epochs says
    #[arg(long, help_heading = "Training")]
    max_steps: Option<NonZeroUsize>,
    /// Seed of the initial adapter, the order of rows, and dropout
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    pub seed: u64,
    /// Take the rows in the order of the files
    #[arg(long, help_heading = "Training")]
    no_shuffle: bool,
    /// Held-out rows, evaluated before the first step and after the last
    #[arg(long, num_args = 1.., help_heading = "Training")]
    pub eval_data: Vec<PathBuf>,
    /// Evaluate after every so many steps as well
    #[arg(long, requires = "eval_data", help_heading = "Training")]
    eval_every: Option<NonZeroUsize>,
    /// Compute activations again in the backward pass instead of keeping them: less memory, a third more time
    #[arg(long, help_heading = "Training")]
    pub gradient_checkpointing: bool,
    /// Precision of the frozen weights in memory [default: as stored, bf16 on a device]; the CPU computes in f32
    #[arg(long, value_enum, help_heading = "Training")]
    pub dtype: Option<Precision>,
    /// Say at the end where the time went, by operation
    #[arg(long)]
    pub profile: bool,
    /// Take options from a JSON object, {"rank": 16, …}; those on the command line go before
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Options of rows.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// Most tokens of a row, or of a pack [default: the model's context, but at most 2048]
    #[arg(long)]
    max_seq_len: Option<usize>,
    /// What to do with a longer row
    #[arg(long, value_enum, default_value_t = Long::Refuse)]
    long_rows: Long,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Course {
    Constant,
    Linear,
    Cosine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Long {
    /// Stop
    Refuse,
    /// Leave it out
    Drop,
    /// Keep its beginning
    Truncate,
}

impl Default for DataArgs {
    fn default() -> Self {
        DataArgs { max_seq_len: None, long_rows: Long::Refuse }
    }
}

impl DataArgs {
    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        self.max_seq_len.is_none() && self.long_rows == Long::Refuse
    }

    /// How rows are read for a model.
    pub fn options(&self, base: &Base) -> Result<LoadOptions> {
        let context = base.model.context();
        let max_seq_len = self.max_seq_len.unwrap_or(context.min(2048));
        if !(2..=context).contains(&max_seq_len) {
            let text = format!("--max-seq-len is {max_seq_len}, expected 2 to the model's context of {context}");
            return Err(Usage(text).into());
        }
        let long_rows = match self.long_rows {
            Long::Refuse => LongRows::Refuse,
            Long::Drop => LongRows::Drop,
            Long::Truncate => LongRows::Truncate,
        };
        Ok(LoadOptions { max_seq_len, long_rows, vocab_size: base.model.vocab_size(), eos_id: base.training_eos() })
    }
}

/// `dora train`'s line, to be parsed as a user's.
#[derive(clap::Parser)]
#[command(no_binary_name = true, args_override_self = true)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Names of all options of `dora train`.
pub fn option_names() -> Vec<String> {
    let train = <Args as clap::Args>::augment_args(clap::Command::new("train"));
    train.get_arguments().filter_map(|option| option.get_long().map(str::to_owned)).collect()
}

impl Args {
    /// The options that stand behind `dora train`.
    pub fn of_line<S: Into<OsString> + Clone>(line: impl IntoIterator<Item = S>) -> Result<Self, Usage> {
        let parsed = Line::try_parse_from(line).map_err(|e| {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default();
            Usage(first.strip_prefix("error: ").unwrap_or(first).to_owned())
        });
        Ok(parsed?.args)
    }

    /// Refuses what can be told from the options alone.
    pub fn check(&self) -> Result<()> {
        let number = |option: &str, value: f64, least: &str, good: bool| match good && value.is_finite() {
            true => Ok(()),
            false => Err(Usage(format!("{option} is {value}, expected a number {least}"))),
        };
        number("--lr", self.lr(), "above 0", self.lr() > 0.0)?;
        number("--lr-magnitude", self.lr_magnitude(), "of at least 0", self.lr_magnitude() >= 0.0)?;
        number("--weight-decay", self.weight_decay, "of at least 0", self.weight_decay >= 0.0)?;
        number("--max-grad-norm", self.max_grad_norm, "of at least 0", self.max_grad_norm >= 0.0)?;
        let method = self.adapter.method;
        if self.lr_magnitude.is_some() && !method.is_dora() {
            return Err(
                Usage("--lr-magnitude is for --method dora or qdora, which alone have magnitudes".into()).into()
            );
        }
        self.variants.check(method, self.lr_magnitude.is_some())?;
        self.nf4.options()?;
        if !method.is_quantized() && self.nf4.is_given() {
            let text = "--block-size and --no-double-quant are for --method qlora or qdora, which alone quantise";
            return Err(Usage(text.into()).into());
        }
        if method == Method::Full {
            self.adapter.check_full()?;
            if self.init_adapter.is_some() {
                return Err(Usage("--init-adapter is for adapters, expected none with --method full".into()).into());
            }
            if self.dtype.is_some() {
                return Err(Usage("--dtype is for frozen weights, expected none with --method full".into()).into());
            }
        } else if self.init_adapter.is_none() {
            self.config()?;
        }
        Ok(())
    }

    fn lr(&self) -> f64 {
        self.lr.unwrap_or(if self.adapter.method == Method::Full { 2e-5 } else { 2e-4 })
    }

    fn lr_b(&self) -> f64 {
        self.lr() * self.variants.ratio()
    }

    fn lr_magnitude(&self) -> f64 {
        let with_b = self.variants.parameter_groups == Groups::Peft;
        self.lr_magnitude.unwrap_or(if with_b { self.lr_b() } else { self.lr() })
    }

    /// The settings of a new adapter.
    pub fn config(&self) -> Result<AdapterConfig> {
        let config = AdapterConfig {
            magnitude_init: self.variants.init_magnitude.map(|init| init.0).unwrap_or_default(),
            exact_norm_gradient: self.variants.exact_norm_gradient,
            ..self.adapter.config()?
        };
        config.check(Purpose::Begin)?;
        Ok(config)
    }

    /// What the user should know of the variants, and what PEFT does otherwise.
    pub fn notes(&self) -> Vec<String> {
        self.variants.notes(self.adapter.method, self.init_adapter.is_some())
    }

    /// How rows become steps.
    pub fn plan_options(&self, data: &LoadOptions) -> PlanOptions {
        PlanOptions {
            batch_size: self.batch_size,
            grad_accum: self.grad_accum,
            pack_to: self.packing.then_some(data.max_seq_len),
            shuffle: !self.no_shuffle,
            seed: self.seed,
        }
    }

    /// Whether a step has several passes.
    pub fn accumulates(&self) -> bool {
        self.grad_accum.get() > 1
    }

    /// Number of steps.
    pub fn steps(&self, per_epoch: usize) -> usize {
        self.max_steps.map_or(self.epochs.get() * per_epoch, NonZeroUsize::get)
    }

    /// How the loop runs.
    pub fn run_options(&self, steps: usize, eval_batch_tokens: usize) -> RunOptions {
        RunOptions {
            steps,
            optimizer: OptimizerOptions {
                lr: self.lr(),
                lr_b: self.lr_b(),
                lr_magnitude: self.lr_magnitude(),
                weight_decay: self.weight_decay,
                magnitudes_decay: self.variants.parameter_groups == Groups::Peft,
                max_grad_norm: self.max_grad_norm,
            },
            schedule: match self.schedule {
                Course::Constant => Schedule::Constant,
                Course::Linear => Schedule::Linear,
                Course::Cosine => Schedule::Cosine,
            },
            warmup_steps: self.warmup_steps,
            eval_every: self.eval_every.map_or(0, NonZeroUsize::get),
            eval_batch_tokens,
        }
    }

    /// Every option of training, resolved, for the record.
    pub fn resolved(&self, steps: usize, data: &LoadOptions, base: &Base) -> serde_json::Value {
        let nf4 =
            base.nf4.map(|nf4| serde_json::json!({ "block_size": nf4.block_size, "double_quant": nf4.double_quant }));
        serde_json::json!({
            "model": self.model, "data": self.data, "output": self.output, "eval_data": self.eval_data,
            "method": name(self.adapter.method), "init_adapter": self.init_adapter, "max_seq_len": data.max_seq_len,
            "long_rows": name(self.rows.long_rows), "lr": self.lr(), "lr_magnitude": self.lr_magnitude(),
            "loraplus_lr_ratio": self.variants.ratio(), "parameter_groups": name(self.variants.parameter_groups),
            "init_magnitude": self.variants.init_magnitude_json(),
            "exact_norm_gradient": self.variants.exact_norm_gradient, "schedule": name(self.schedule), "warmup_steps": self.warmup_steps, "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm, "batch_size": self.batch_size, "grad_accum": self.grad_accum,
            "packing": self.packing, "max_steps": steps, "seed": self.seed, "no_shuffle": self.no_shuffle,
            "eval_every": self.eval_every, "gradient_checkpointing": self.gradient_checkpointing,
            "dtype": self.dtype.map(name), "device": base.device.to_string(), "nf4": nf4, "threads": rayon::current_num_threads(),
        })
    }
}

/// A choice as the command line spells it.
pub fn name(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).expect("no choice is hidden")
}
