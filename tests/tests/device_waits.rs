//! A training step on a device waits for it once, when the update is queued: for loss and norm together, however many passes it
//! accumulates. A driver that counts copies to the host shows it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dora_adapters::Adapter;
use dora_adapters::config::AdapterConfig;
use dora_kernels::host::HostDriver;
use dora_kernels::{Address, Arg, Driver, Event, Gemm, Result, Shape};
use dora_models::llama::Llama;
use dora_models::model::LoadOptions;
use dora_models::nf4::WeightOptions;
use dora_tensor::{Cuda, DType, Device, Nf4Options};
use dora_train::data::{Dataset, LoadReport, Plan, PlanOptions, Row};
use dora_train::metrics::{EvalRecord, StepRecord};
use dora_train::objective::CausalLm;
use dora_train::optimizer::OptimizerOptions;
use dora_train::run::{Observer, RunOptions, run};
use dora_train::schedule::Schedule;

/// The host driver, and how often it was waited for.
#[derive(Debug)]
struct Counting {
    host: HostDriver,
    waits: AtomicUsize,
}

impl Driver for Counting {
    fn device(&self) -> String {
        self.host.device()
    }

    fn alloc(&self, bytes: usize) -> Result<Address> {
        self.host.alloc(bytes)
    }

    unsafe fn free(&self, address: Address, bytes: usize) {
        // SAFETY: the caller's promise is the host driver's.
        unsafe { self.host.free(address, bytes) }
    }

    unsafe fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.host.upload(to, from) }
    }

    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { self.host.download(from, to) }
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.host.copy(to, from, bytes) }
    }

    unsafe fn zero(&self, to: Address, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.host.zero(to, bytes) }
    }

    unsafe fn launch(&self, module: &'static str, kernel: &str, shape: Shape, args: &[Arg]) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.host.launch(module, kernel, shape, args) }
    }

    unsafe fn gemm(&self, product: &Gemm) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.host.gemm(product) }
    }

    fn record(&self) -> Result<Event> {
        self.host.record()
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<Duration> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.host.elapsed(from, to)
    }

    fn synchronize(&self) -> Result<()> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.host.synchronize()
    }
}

/// Counts at the end of every step.
struct Watch {
    driver: Arc<Counting>,
    after_steps: Vec<usize>,
}

impl Observer for Watch {
    fn step(&mut self, _: &StepRecord) -> dora_train::Result<()> {
        self.after_steps.push(self.driver.waits.load(Ordering::Relaxed));
        Ok(())
    }

    fn evaluated(&mut self, _: &EvalRecord) -> dora_train::Result<()> {
        Ok(())
    }

    fn interrupted(&self) -> bool {
        false
    }
}

#[test]
fn a_step_waits_once() {
    for grad_accum in [1, 3] {
        assert_eq!(waits(grad_accum), [1; 4], "{grad_accum} passes a step");
    }
}

/// Waits of each of four steps.
fn waits(grad_accum: usize) -> Vec<usize> {
    let driver = Arc::new(Counting { host: HostDriver::new(1).unwrap(), waits: AtomicUsize::new(0) });
    let device = Device::Cuda(Cuda::new("counting".into(), driver.clone(), DType::BF16));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/dora-cli/assets/model");
    let weights = WeightOptions { dtype: None, nf4: Some(Nf4Options::default()) };
    let mut model = Llama::load(&dir, LoadOptions { weights, trained: false, device }).unwrap();
    let config = AdapterConfig { r: 4, use_dora: true, lora_dropout: 0.1, ..Default::default() };
    let adapter = Adapter::begin(&mut model, config, &["q_proj", "v_proj"], 0).unwrap();
    let row = |i: u32| Row { input_ids: vec![5 + i, 6, 7], labels: vec![-100, 6, 7] };
    let data = Dataset { rows: (0..6).map(row).collect(), report: LoadReport::default(), sha256: String::new() };
    let [batch_size, grad_accum] = [1, grad_accum].map(|n| n.try_into().unwrap());
    let plan = PlanOptions { batch_size, grad_accum, pack_to: None, shuffle: false, seed: 0 };
    let options = RunOptions {
        steps: 4,
        optimizer: OptimizerOptions {
            lr: 1e-3,
            lr_b: 1e-3,
            lr_magnitude: 1e-3,
            weight_decay: 0.0,
            magnitudes_decay: false,
            max_grad_norm: 1.0,
        },
        schedule: Schedule::Linear,
        warmup_steps: 1,
        eval_every: 0,
        eval_batch_tokens: 256,
    };
    let objective = CausalLm { model: &model, seed: 0, recompute_blocks: false };
    let mut watch = Watch { driver: driver.clone(), after_steps: vec![driver.waits.load(Ordering::Relaxed)] };
    let plan = Plan::new(&data, plan);
    run(&objective, &adapter.parameters(), &data, &plan, None, &options, &mut watch).unwrap();
    watch.after_steps.windows(2).map(|pair| pair[1] - pair[0]).collect()
}
