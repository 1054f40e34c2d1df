//! The whole path on `Device::Cuda`, over the host driver, which runs the kernels on the processor: the model that `dora
//! quickstart` carries trains, is evaluated, generates, is saved and merged there, and all of it agrees with the CPU.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use dora_adapters::config::{AdapterConfig, TargetModules};
use dora_adapters::{Adapter, MergeBase, factors, merge};
use dora_kernels::host::HostDriver;
use dora_models::checkpoint::Checkpoint;
use dora_models::generate::{Sampling, generate};
use dora_models::llama::Llama;
use dora_models::model::{LoadOptions, Model};
use dora_models::nf4::WeightOptions;
use dora_models::tokenizer::Tokenizer;
use dora_tensor::ops::{Matrix, cross_entropy};
use dora_tensor::{Cuda, DType, Device, Nf4Options, Parameter, Role, Tensor};
use dora_train::data::{self, Batch, Dataset, LoadReport, LongRows, Plan, PlanOptions, Row};
use dora_train::metrics::{EvalRecord, StepRecord};
use dora_train::objective::{CausalLm, Objective};
use dora_train::optimizer::OptimizerOptions;
use dora_train::run::{Observer, RunOptions, run};
use dora_train::schedule::Schedule;

const STEPS: usize = 5;

const OPTIMIZER: OptimizerOptions = OptimizerOptions {
    lr: 2e-3,
    lr_b: 3e-3,
    lr_magnitude: 1e-3,
    weight_decay: 0.01,
    magnitudes_decay: false,
    max_grad_norm: 1.0,
};

const OPTIONS: RunOptions = RunOptions {
    steps: STEPS,
    optimizer: OPTIMIZER,
    schedule: Schedule::Constant,
    warmup_steps: 0,
    eval_every: 0,
    eval_batch_tokens: 256,
};

/// QDoRA, and DoRA with dropout in it, whose masks are the same on every device.
const METHODS: [(&str, bool, f64); 2] = [("qdora", true, 0.0), ("dora", false, 0.1)];

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/dora-cli/assets")
}

fn device(activations: DType, seed: u64) -> Device {
    let driver = Arc::new(HostDriver::new(seed).expect("a C++ compiler is on this machine"));
    Device::Cuda(Cuda::new(format!("host ({activations})"), driver, activations))
}

fn model(device: Device, nf4: bool) -> Llama {
    let weights = WeightOptions { dtype: None, nf4: nf4.then(Nf4Options::default) };
    Llama::load(&assets().join("model"), LoadOptions { weights, trained: false, device }).unwrap()
}

/// The shortest rows of a file of the quickstart, which a processor in place of a GPU gets through.
fn rows(file: &str, count: usize) -> Dataset {
    let tokenizer = Tokenizer::open(&assets().join("model")).unwrap();
    let options =
        data::LoadOptions { max_seq_len: 256, long_rows: LongRows::Refuse, vocab_size: 1536, eos_id: Some(0) };
    let mut data = Dataset::load(&[assets().join(file)], Some(&tokenizer), &options).unwrap();
    data.rows.sort_by_key(|row| row.input_ids.len());
    data.rows.truncate(count);
    data
}

/// What came of a run.
#[derive(Default)]
struct Outcome {
    losses: Vec<f64>,
    norms: Vec<f64>,
    held_out: Vec<f64>,
    tokens: Vec<u32>,
}

impl Observer for Outcome {
    fn step(&mut self, record: &StepRecord) -> dora_train::Result<()> {
        self.losses.push(record.loss);
        self.norms.push(record.grad_norm);
        Ok(())
    }

    fn evaluated(&mut self, record: &EvalRecord) -> dora_train::Result<()> {
        self.held_out.push(record.eval_loss);
        Ok(())
    }

    fn interrupted(&self) -> bool {
        false
    }
}

/// Trains an adapter on all linear layers, evaluates before and after, generates, and saves the adapter.
fn train(device: Device, (_, nf4, lora_dropout): (&str, bool, f64), output: &Path) -> Outcome {
    let mut model = model(device, nf4);
    let config = AdapterConfig {
        r: 4,
        use_dora: true,
        lora_dropout,
        target_modules: TargetModules::AllLinear,
        ..Default::default()
    };
    let adapter = Adapter::begin(&mut model, config, &[], 3).unwrap();
    let (train, held_out) = (rows("persona-train.jsonl", 2 * STEPS), rows("persona-heldout.jsonl", 2));
    let one = 1.try_into().unwrap();
    let plan =
        PlanOptions { batch_size: one, grad_accum: 2.try_into().unwrap(), pack_to: None, shuffle: true, seed: 1 };
    let objective = CausalLm { model: &model, seed: 7, recompute_blocks: false };
    let mut outcome = Outcome::default();
    let plan = Plan::new(&train, plan);
    run(&objective, &adapter.parameters(), &train, &plan, Some(&held_out), &OPTIONS, &mut outcome).unwrap();
    let each = |_| ControlFlow::Continue(());
    outcome.tokens = generate(&model, &held_out.rows[0].input_ids[..6], 8, &[], &Sampling::GREEDY, each).unwrap().0;
    adapter.save(output).unwrap();
    outcome
}

/// Holds numbers to others, relative to each.
#[track_caller]
fn close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / expected.abs();
        println!("{what} {i}: {found:.6}, {expected:.6} on the CPU, off by {error:.1e}");
        assert!(error <= tolerance, "{what} {i}: {found}, expected {expected}");
    }
}

#[test]
fn training_evaluation_generation_and_merging_agree_with_the_cpu() {
    // f32 sums in another order; bf16 keeps 8 bits of every activation, and two units of the last one are allowed.
    let devices = [(DType::F32, 1e-4), (DType::BF16, 1.0 / 128.0)];
    thread::scope(|scope| {
        for method in METHODS {
            scope.spawn(move || {
                let dir = tempfile::tempdir().unwrap();
                let path = |name: &str| dir.path().join(name);
                let (name, nf4, _) = method;
                let want = train(Device::Cpu, method, &path("cpu"));
                assert!(want.losses.iter().all(|loss| loss.is_finite()) && want.held_out.len() == 2);
                for (seed, (dtype, tolerance)) in (1..).zip(devices) {
                    let what = |part: &str| format!("{name} {dtype} {part}");
                    let start = std::time::Instant::now();
                    let device = device(dtype, seed);
                    let found = train(device, method, &path(&what("adapter")));
                    println!("{}", what(&format!("trained in {:.1} s", start.elapsed().as_secs_f64())));
                    close(&what("loss"), &found.losses, &want.losses, tolerance);
                    close(&what("held-out loss"), &found.held_out, &want.held_out, tolerance);
                    close(&what("norm"), &found.norms, &want.norms, 5.0 * tolerance);
                    if dtype == DType::F32 {
                        assert_eq!(found.tokens, want.tokens, "{}", what("tokens"));
                    }
                    merged_models_agree(device, nf4, &path(&what("adapter")));
                    println!("{}", what(&format!("done in {:.1} s", start.elapsed().as_secs_f64())));
                }
            });
        }
    });
}

/// Logits of ±3e38: the loss of the lower one is beyond f32 from micro-step 2 on, and its gradient is 2.
struct Overflowing {
    hidden: Parameter,
    head: Matrix,
}

impl Objective for Overflowing {
    fn loss(&self, _: &Batch, _: usize, micro_step: u64) -> dora_tensor::Result<Tensor> {
        cross_entropy(&self.hidden.tensor(), &self.head, &[i32::from(micro_step >= 2)], 1.0)
    }

    fn token_losses(&self, _: &Batch) -> dora_tensor::Result<Vec<f32>> {
        Ok(Vec::new())
    }
}

#[test]
fn a_loss_that_overflows_alone_changes_nothing() {
    for device in [Device::Cpu, device(DType::F32, 1)] {
        let on = |values: Vec<f32>| {
            let rows = values.len();
            Tensor::from_vec(values, &[rows, 1]).unwrap().to_device(device).unwrap()
        };
        let hidden = Parameter::new("hidden", Role::Matrix, on(vec![3e38])).unwrap();
        let objective = Overflowing { hidden: hidden.clone(), head: Matrix::Trained(on(vec![1.0, -1.0])) };
        let row = Row { input_ids: vec![0, 1], labels: vec![-100, 1] };
        let data = Dataset { rows: vec![row; 4], report: LoadReport::default(), sha256: String::new() };
        let one = 1.try_into().unwrap();
        let plan = PlanOptions { batch_size: one, grad_accum: one, pack_to: None, shuffle: false, seed: 0 };
        // A step of this size would show.
        let optimizer = OptimizerOptions { lr: 1e37, weight_decay: 0.0, ..OPTIMIZER };
        let options = RunOptions { steps: 4, optimizer, ..OPTIONS };
        let mut outcome = Outcome::default();
        let plan = Plan::new(&data, plan);
        let ran = run(&objective, std::slice::from_ref(&hidden), &data, &plan, None, &options, &mut outcome);
        let expected =
            "training stopped before step 3, which changed nothing: the loss is inf, expected a finite number";
        assert!(ran.unwrap_err().to_string().starts_with(expected), "{device}");
        assert_eq!(
            (outcome.losses, hidden.value().to_device(Device::Cpu).unwrap().to_vec()),
            (vec![0.0; 2], vec![3e38])
        );
    }
}

/// Merges an adapter on a device and on the CPU, and compares every tensor.
fn merged_models_agree(device: Device, nf4: bool, adapter: &Path) {
    let base = assets().join("model");
    let shape = model(Device::Cpu, false).shape().clone();
    let (_, layers) = factors::read(adapter, &shape, &[]).unwrap();
    let merge_base = if nf4 { MergeBase::Dequantized(Nf4Options::default()) } else { MergeBase::Stored };
    let folders = [Device::Cpu, device].map(|device| {
        let output = tempfile::tempdir().unwrap();
        merge(&base, &shape, &layers, output.path(), merge_base, device).unwrap();
        output
    });
    let merged = folders.each_ref().map(|folder| Checkpoint::open(folder.path()).unwrap());
    let mut changed = 0;
    for name in merged[0].names() {
        let [want, found] = [0, 1].map(|i| merged[i].tensor(name).unwrap().to_vec());
        changed += usize::from(want != Checkpoint::open(&base).unwrap().tensor(name).unwrap().to_vec());
        let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        // Both round to bf16, where another order of summation may decide.
        let error = want.iter().zip(&found).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
        assert!(error <= 1.0 / 128.0, "{name}: off by {error} of {largest}");
        let different = want.iter().zip(&found).filter(|(a, b)| a != b).count();
        assert!(different * 100 <= want.len(), "{name}: {different} of {} elements differ", want.len());
    }
    assert_eq!(changed, layers.len());
}
