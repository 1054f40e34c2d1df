//! `dora train`: fine-tunes a model on rows, and writes an adapter (or, with `--method full`, a model) with the run's record.

mod memory;
mod profile;
mod record;
mod settings;
mod variants;
mod watch;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use dora_adapters::Adapter;
use dora_adapters::config::AdapterConfig;
use dora_adapters::count::{Counts, count};
use dora_models::checkpoint::{CheckpointWriter, MAX_SHARD_BYTES, copy_side_files, ensure_writable_dir};
use dora_models::model::LoadOptions as ModelOptions;
use dora_models::nf4::WeightOptions;
use dora_tensor::{DType, Device, Parameter, Tensor};
use dora_train::data::{Dataset, LoadOptions, Plan};
use dora_train::objective::CausalLm;
use dora_train::run::{Ending, run as run_loop};
use serde_json::Value;

use super::eval::{BATCH_TOKENS, load};
use crate::adapter_args::Method;
use crate::base::Base;
use crate::console::Console;
use crate::failure::Usage;
use crate::interrupt::Interrupt;
use crate::prediction;
use profile::Profiling;
use record::Record;
pub use settings::{Args, DataArgs, name, option_names};
use watch::Watch;

pub fn run(args: Args, device: Device, console: &Console) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let outcome = train(&args, device, console, interrupt.clone())?;
    console.result(&outcome.text, &outcome.object)?;
    Ok(interrupt.exit_code().filter(|_| outcome.interrupted).unwrap_or(ExitCode::SUCCESS))
}

/// What came of a run.
pub struct Outcome {
    /// In words.
    pub text: String,
    /// `run.json`.
    pub object: Value,
    /// Whether a signal stopped it.
    pub interrupted: bool,
    /// Held-out loss before the first step and after the last, where there are held-out rows.
    pub held_out: Option<(f64, f64)>,
    /// The line that PEFT prints.
    pub counts: Counts,
}

/// The rows of a run, as its model reads them.
pub struct Rows {
    options: LoadOptions,
    data: Dataset,
    held_out: Option<Dataset>,
}

impl Rows {
    /// Loads them.
    pub fn load(args: &Args, base: &Base, console: &Console) -> Result<Self> {
        let options = args.rows.options(base)?;
        let data = load(&args.data, base, &options, console)?;
        let held_out = match args.eval_data.as_slice() {
            [] => None,
            files => Some(load(files, base, &options, console)?),
        };
        Ok(Rows { options, data, held_out })
    }

    /// Hash of the held-out ones.
    pub fn held_out_sha256(&self) -> Option<&str> {
        self.held_out.as_ref().map(|rows| rows.sha256.as_str())
    }

    /// The order in which they are trained on, and the number of steps.
    fn plan(&self, args: &Args) -> (Plan, usize) {
        let plan = Plan::new(&self.data, args.plan_options(&self.options));
        let steps = args.steps(plan.steps_per_epoch());
        (plan, steps)
    }
}

/// Trains and saves.
pub fn train(args: &Args, device: Device, console: &Console, interrupt: Interrupt) -> Result<Outcome> {
    let start = Instant::now();
    prepare(args, device)?;
    let mut base = load_base(args, device, console)?;
    let rows = Rows::load(args, &base, console)?;
    train_on(args, &mut base, &rows, start, console, interrupt)
}

/// Refuses what can be told before anything loads.
pub fn prepare(args: &Args, device: Device) -> Result<()> {
    args.check()?;
    if args.variants.exact_norm_gradient && device != Device::Cpu {
        let text = format!("--exact-norm-gradient is computed on the CPU, expected none with --device {device}");
        return Err(Usage(text).into());
    }
    ensure_writable_dir(&args.output).map_err(|e| Usage(format!("--output: {e}")))?;
    let read = [("base model", Some(&args.model)), ("initial adapter", args.init_adapter.as_ref())];
    for (what, folder) in read.into_iter().filter_map(|(what, folder)| Some((what, folder?))) {
        if args.output.canonicalize().ok() != folder.canonicalize().ok() {
            continue;
        }
        let found = args.output.display();
        return Err(Usage(format!("--output {found} is the {what}'s folder, expected one of its own")).into());
    }
    record::earlier(&args.output)?;
    Ok(())
}

/// The base model, held as a run wants it.
pub fn load_base(args: &Args, device: Device, console: &Console) -> Result<Base> {
    let nf4 = args.adapter.method.is_quantized().then(|| args.nf4.options()).transpose()?;
    let weights = WeightOptions { dtype: args.dtype.map(Into::into), nf4 };
    let options = ModelOptions { weights, trained: args.adapter.method == Method::Full, device };
    let base = Base::load(&args.model, options, console)?;
    args.nf4.check(&base)?;
    let method = args.adapter.method;
    if base.nf4.is_some() && !method.is_quantized() {
        let (path, method) = (base.dir.display(), name(method));
        return Err(Usage(format!("{path} holds 4-bit weights, expected --method qlora or qdora, not {method}")).into());
    }
    Ok(base)
}

/// Trains on a base that is loaded, in place of any adapter that is on it; the new one stays on it. The run began at `start`.
pub fn train_on(
    args: &Args,
    base: &mut Base,
    rows: &Rows,
    start: Instant,
    console: &Console,
    interrupt: Interrupt,
) -> Result<Outcome> {
    let trained = Trained::begin(args, base)?;
    let base = &*base;
    args.notes().into_iter().for_each(|note| console.note(note));
    console.note(trained.counts.to_string());
    for (path, rows) in trained.adapter.iter().flat_map(Adapter::zero_rows) {
        console.note(format!("note: {path} has {rows} rows that are zero; their magnitudes stay as they are"));
    }
    let (plan, steps) = rows.plan(args);
    if args.warmup_steps >= steps && args.warmup_steps > 0 {
        let warmup = args.warmup_steps;
        console.note(format!("note: the learning rate rises for {warmup} steps from 0, and the run has {steps}"));
    }
    let (data, held_out) = (&rows.data, rows.held_out.as_ref());
    // What the memory of a device will hold is not known beforehand.
    let predicted =
        (base.device == Device::Cpu).then(|| memory::of_run(args, steps, base, data, &plan, held_out, &trained));
    predicted.iter().for_each(|predicted| console.note(prediction::line(predicted)));
    let earlier = record::earlier(&args.output)?;
    if !earlier.is_empty() {
        console.note(format!("note: this run replaces what an earlier one left in {}", args.output.display()));
    }
    record::remove(&earlier)?;
    let record = Record::begin(args, steps, base, rows, &trained, predicted.as_ref())?;
    let mut watch = Watch::new(&args.output, steps, interrupt)?;
    let objective = CausalLm { model: &*base.model, seed: args.seed, recompute_blocks: args.gradient_checkpointing };
    let options = args.run_options(steps, BATCH_TOKENS);
    watch.profiling = args.profile.then(|| Profiling::start(base.device));
    let loop_start = Instant::now();
    let ended = run_loop(&objective, &trained.parameters, data, &plan, held_out, &options, &mut watch);
    let profile = watch.profiling.take().map(Profiling::finish).transpose();
    // What was trained is saved all the same.
    let profile = profile.unwrap_or_else(|error| {
        console.note(format!("no profile: {error:#}"));
        None
    });
    watch.finish();
    // What the steps handed on would lie beside the copies that saving makes.
    dora_tensor::cpu::release_buffers();
    if let Some(profile) = &profile {
        console.note(profile.table());
    }
    // The parameters are those of the last good step, also where the run stopped before a bad one; without a good step
    // there is nothing to save.
    let nothing = watch.steps() == 0;
    let saved = if nothing { Ok(()) } else { trained.save(args, base) };
    let good = ended.as_ref().ok().copied().filter(|_| saved.is_ok());
    let not_finite = ended.as_ref().is_err_and(dora_train::Error::is_not_finite);
    let object = record.finish(
        &args.output,
        (good, not_finite),
        &watch,
        profile.as_ref(),
        (loop_start - start, start.elapsed()),
    );
    let ending = ended.inspect_err(|_| match &saved {
        Ok(()) if nothing => {}
        Ok(()) => console.note(format!("saved the steps before it in {}", args.output.display())),
        Err(error) => console.note(format!("saved nothing: {error}")),
    })?;
    saved?;
    let object = object?;
    Ok(Outcome {
        text: [Some(watch.summary(&args.output, ending)), predicted.as_ref().map(prediction::outcome)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("; "),
        object,
        interrupted: matches!(ending, Ending::Interrupted(_)),
        held_out: watch.held_out(),
        counts: trained.counts,
    })
}

/// What `run.json` will say of a run before it begins, but for what only an adapter in place knows.
pub fn description(args: &Args, base: &Base, rows: &Rows) -> Result<Value> {
    let defaults = base.architecture.default_targets;
    let mut config = Adapter::settings(&*base.model, args.config()?, defaults)?;
    config.base_model_name_or_path = Some(args.model.display().to_string());
    let (_, steps) = rows.plan(args);
    record::description(args, steps, base, rows, Some(&config))
}

/// What is trained, and how it is saved.
struct Trained {
    adapter: Option<Adapter>,
    parameters: Vec<Parameter>,
    counts: Counts,
}

/// Refuses an adapter in folder `dir` that is not of the method's kind; with magnitudes `begun` anew it is DoRA whatever it was.
fn expect_kind(dir: &Path, begun: bool, method: Method) -> Result<()> {
    let is_dora = AdapterConfig::read(dir)?.use_dora;
    if (is_dora || begun) == method.is_dora() {
        return Ok(());
    }
    let (found, how) = match is_dora {
        true => ("dora", ""),
        false => ("lora", ", or --init-magnitude to go on as DoRA"),
    };
    let dir = dir.display();
    Err(Usage(format!("--init-adapter {dir} holds a {found} adapter, expected one of the kind of --method{how}"))
        .into())
}

impl Trained {
    fn begin(args: &Args, base: &mut Base) -> Result<Self> {
        if args.adapter.method == Method::Full {
            let all = base.model.shape().parameters;
            let parameters = base.model.parameters();
            return Ok(Trained { adapter: None, parameters, counts: Counts { trainable: all, all } });
        }
        let defaults = base.architecture.default_targets;
        Adapter::remove(&mut *base.model);
        let mut adapter = match &args.init_adapter {
            Some(dir) => {
                let (init, exact) =
                    (args.variants.init_magnitude.map(|init| init.0), args.variants.exact_norm_gradient);
                expect_kind(dir, init.is_some(), args.adapter.method)?;
                Adapter::resume(&mut *base.model, dir, defaults, init, exact)?
            }
            None => Adapter::begin(&mut *base.model, args.config()?, defaults, args.seed)?,
        };
        adapter.config_mut().base_model_name_or_path = Some(args.model.display().to_string());
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
    match tensor.to_device(Device::Cpu)?.to_vec().iter().all(|x| x.is_finite()) {
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
        let tensor = parameter.value().to_device(Device::Cpu)?.to_dtype(dtype);
        check_finite(parameter.name(), &tensor)?;
        writer.write(parameter.name(), &tensor)?;
    }
    writer.finish()?;
    Ok(copy_side_files(&base.dir, &args.output)?)
}
