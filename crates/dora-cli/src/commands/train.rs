//! `dora train`: fine-tunes a model on rows, and writes an adapter (or, with `--method full`, a model) with the run's record.

mod memory;
mod profile;
mod record;
mod settings;
mod watch;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use dora_adapters::Adapter;
use dora_adapters::count::{Counts, count};
use dora_models::checkpoint::{CheckpointWriter, MAX_SHARD_BYTES, copy_side_files, ensure_writable_dir};
use dora_models::model::LoadOptions;
use dora_models::nf4::WeightOptions;
use dora_tensor::{DType, Parameter, Tensor};
use dora_train::data::Plan;
use dora_train::objective::CausalLm;
use dora_train::run::{Ending, run as run_loop};
use serde_json::Value;

use super::eval::{BATCH_TOKENS, load};
use crate::adapter_args::Method;
use crate::base::{self, Base};
use crate::console::Console;
use crate::failure::Usage;
use crate::interrupt::Interrupt;
use crate::prediction;
use profile::Profile;
use record::Record;
pub use settings::{Args, DataArgs, name};
use watch::Watch;

pub fn run(args: Args, console: &Console) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let outcome = train(&args, console, interrupt.clone())?;
    console.result(&outcome.text, &outcome.object)?;
    Ok(interrupt.exit_code().filter(|_| outcome.interrupted).unwrap_or(ExitCode::SUCCESS))
}

/// What came of a run.
pub struct Outcome {
    text: String,
    object: Value,
    interrupted: bool,
    /// Held-out loss before the first step and after the last, where there are held-out rows.
    pub held_out: Option<(f64, f64)>,
    /// The line that PEFT prints.
    pub counts: Counts,
}

/// Trains and saves.
pub fn train(args: &Args, console: &Console, interrupt: Interrupt) -> Result<Outcome> {
    let start = Instant::now();
    args.check()?;
    ensure_writable_dir(&args.output).map_err(|e| Usage(format!("--output: {e}")))?;
    if args.output.canonicalize().ok() == args.model.canonicalize().ok() {
        let found = args.output.display();
        return Err(Usage(format!("--output {found} is the base model's folder, expected one of its own")).into());
    }
    let full = args.adapter.method == Method::Full;
    let nf4 = args.adapter.method.is_quantized().then(|| args.nf4.options()).transpose()?;
    let weights = WeightOptions { dtype: args.dtype.map(Into::into), nf4 };
    let options = LoadOptions { weights, trained: full };
    let mut base = Base::load(&args.model, options, console)?;
    args.nf4.check(&base)?;
    let data_options = args.rows.options(&base)?;
    let data = load(&args.data, &base, &data_options, console)?;
    let held_out = match args.eval_data.as_slice() {
        [] => None,
        files => Some(load(files, &base, &data_options, console)?),
    };
    let trained = Trained::begin(args, &mut base)?;
    console.note(trained.counts.to_string());
    for (path, rows) in trained.adapter.iter().flat_map(Adapter::zero_rows) {
        console.note(format!("note: {path} has {rows} rows that are zero; their magnitudes stay as they are"));
    }
    let plan = Plan::new(&data, args.plan_options(&data_options));
    let steps = args.steps(plan.steps_per_epoch());
    let predicted = memory::of_run(args, steps, &base, &data, &plan, held_out.as_ref(), &trained);
    console.note(prediction::line(&predicted));
    let record = Record::begin(args, steps, &base, &data, held_out.as_ref(), &trained, &predicted)?;
    let mut watch = Watch::new(&args.output, steps, interrupt)?;
    let objective = CausalLm { model: &*base.model, seed: args.seed, recompute_blocks: args.gradient_checkpointing };
    let options = args.run_options(steps, BATCH_TOKENS);
    if args.profile {
        dora_tensor::profile::start();
    }
    let loop_start = Instant::now();
    let ended = run_loop(&objective, &trained.parameters, &data, &plan, held_out.as_ref(), &options, &mut watch);
    let profile = args.profile.then(|| Profile::take(loop_start.elapsed().as_secs_f64()));
    watch.finish();
    // What the steps handed on would lie beside the copies that saving makes.
    dora_tensor::cpu::release_buffers();
    if let Some(profile) = &profile {
        console.note(profile.table());
    }
    // The parameters are those of the last good step, also where the run stopped before a bad one; without a good step
    // there is nothing to save.
    let nothing = watch.steps() == 0;
    let saved = if nothing { Ok(()) } else { trained.save(args, &base) };
    let good = ended.as_ref().ok().copied().filter(|_| saved.is_ok());
    let object = record.finish(&args.output, good, &watch, profile.as_ref(), (loop_start - start, start.elapsed()));
    let ending = ended.inspect_err(|_| match &saved {
        Ok(()) if nothing => {}
        Ok(()) => console.note(format!("saved the steps before it in {}", args.output.display())),
        Err(error) => console.note(format!("saved nothing: {error}")),
    })?;
    saved?;
    let object = object?;
    Ok(Outcome {
        text: format!("{}; {}", watch.summary(&args.output, ending), prediction::outcome(&predicted)),
        object,
        interrupted: matches!(ending, Ending::Interrupted(_)),
        held_out: watch.held_out(),
        counts: trained.counts,
    })
}

/// What is trained, and how it is saved.
struct Trained {
    adapter: Option<Adapter>,
    parameters: Vec<Parameter>,
    counts: Counts,
}

impl Trained {
    fn begin(args: &Args, base: &mut Base) -> Result<Self> {
        if args.adapter.method == Method::Full {
            let all = base.model.shape().parameters;
            let parameters = base.model.parameters();
            return Ok(Trained { adapter: None, parameters, counts: Counts { trainable: all, all } });
        }
        let defaults = base.architecture.default_targets;
        let mut adapter = match &args.init_adapter {
            Some(dir) => Adapter::load(&mut *base.model, dir, defaults)?,
            None => Adapter::begin(&mut *base.model, args.adapter.config()?, defaults, args.seed)?,
        };
        let config = adapter.config_mut();
        if config.use_dora != args.adapter.method.is_dora() {
            let found = if config.use_dora { "dora" } else { "lora" };
            let text = format!("--init-adapter holds a {found} adapter, expected one of the kind of --method");
            return Err(Usage(text).into());
        }
        config.base_model_name_or_path = Some(args.model.display().to_string());
        let targets: Vec<_> = adapter.targets().cloned().collect();
        let counts = count(&targets, adapter.config().use_dora, base.model.shape());
        Ok(Trained { parameters: adapter.parameters(), adapter: Some(adapter), counts })
    }

    fn save(&self, args: &Args, base: &Base) -> Result<()> {
        match &self.adapter {
            Some(adapter) => {
                self.parameters.iter().try_for_each(|p| check_finite(p.name(), &p.value()))?;
                Ok(adapter.save(&args.output)?)
            }
            None => save_model(&self.parameters, base, args),
        }
    }
}

/// A last step can still spoil what no loss has seen.
fn check_finite(name: &str, tensor: &Tensor) -> Result<()> {
    match tensor.to_vec().iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => bail!(
            "after the last step {name} has elements that are not finite in {}, expected finite numbers (a lower \
             learning rate may help)",
            tensor.dtype()
        ),
    }
}

/// Every parameter in the type that the base has it in, and the base's other files.
fn save_model(parameters: &[Parameter], base: &Base, args: &Args) -> Result<()> {
    let checkpoint = dora_models::checkpoint::Checkpoint::open(&base.dir)?;
    let dtype = |p: &Parameter| Ok(checkpoint.tensor(p.name())?.dtype());
    let dtypes: Vec<DType> = parameters.iter().map(dtype).collect::<Result<_>>()?;
    let plan = parameters.iter().zip(&dtypes).map(|(p, d)| (p.name().to_owned(), *d, p.value().shape().to_vec()));
    let mut writer = CheckpointWriter::create(&args.output, plan.collect(), MAX_SHARD_BYTES)?;
    for (parameter, dtype) in parameters.iter().zip(dtypes) {
        let tensor = parameter.value().to_dtype(dtype);
        check_finite(parameter.name(), &tensor)?;
        writer.write(parameter.name(), &tensor)?;
    }
    writer.finish()?;
    Ok(copy_side_files(&base.dir, &args.output)?)
}

/// The hash of the base, where it can be read.
fn base_sha256(base: &Base) -> Result<String> {
    base::sha256(&base.dir)
}
