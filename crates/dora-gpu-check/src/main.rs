//! `dora-gpu-check`: checks and measures the kernels on this machine's GPU, prints what it found, and writes it to `gpu-check.json`. Exits
//! with 1 where a check fails or a floor is missed. Needs the NVIDIA driver and cuBLAS, and beside itself `dora` and `peft_steps.py`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use dora_gpu_check::checks::{self, Check, Size};
use dora_gpu_check::floors::{self, Floor};
use dora_gpu_check::speed::{self, Ceilings, Sizes, Speed};
use dora_gpu_check::steps::{METHODS, Programs, SETUPS, Setup, Step};
use dora_kernels::Driver;
use dora_kernels::cuda::CudaDriver;
use serde_json::{Value, json};

/// Check and measure the kernels of dora on a GPU
#[derive(Parser)]
struct Args {
    /// Number of the GPU
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Folder for models and runs, and for gpu-check.json
    #[arg(long, default_value = "gpu-check-work")]
    work: PathBuf,
    /// Shapes whose training steps are timed
    #[arg(long, value_delimiter = ',', default_value = "llama-3.2-1b,llama-3-8b")]
    steps: Vec<String>,
    /// Methods whose training steps are timed
    #[arg(long, value_delimiter = ',', default_value = "lora,dora,qlora,qdora")]
    methods: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    fs::create_dir_all(&args.work).with_context(|| format!("creating {}", args.work.display()))?;
    let beside = std::env::current_exe()?.parent().context("a program lies in a folder")?.to_owned();
    let programs = Programs {
        dora: beside.join("dora"),
        peft: beside.join("peft_steps.py"),
        work: args.work.clone(),
        device: format!("cuda:{}", args.device),
    };
    let known = |name: &String| SETUPS.iter().any(|setup| setup.shape == name);
    if let Some(unknown) = args.steps.iter().find(|name| !known(name)) {
        let names: Vec<&str> = SETUPS.iter().map(|setup| setup.shape).collect();
        bail!("--steps: no shape is called {unknown}, expected {}", names.join(" or "));
    }
    if let Some(unknown) = args.methods.iter().find(|name| !METHODS.contains(&name.as_str())) {
        bail!("--methods: no method is called {unknown}, expected {}", METHODS.join(" or "));
    }
    let methods: Vec<&str> =
        METHODS.into_iter().filter(|name| args.methods.iter().any(|asked| asked == name)).collect();
    let driver: Arc<dyn Driver> = Arc::new(CudaDriver::open(args.device)?);
    println!("{}", driver.device());
    let path = args.work.join("gpu-check.json");
    // Written after every stage, so that one that is cut short keeps what came before.
    let mut record = json!({ "device": driver.device() });
    let mut add = |key: &str, value: Value| {
        record[key] = value;
        fs::write(&path, format!("{record:#}\n")).with_context(|| format!("writing {}", path.display()))
    };
    println!("\n{:<44} {:<6} {:>9} {:>9}", "against the CPU", "in", "off by", "allowed");
    let mut checked = checks::all(&driver, Size::SMALL, 1, print_check)?;
    checked.extend(checks::all(&driver, Size::LARGE, 2, print_check)?);
    add("checks", json!(checked))?;
    let (ceilings, speeds) = speed::all(&driver, &Sizes::LARGE)?;
    print_speeds(&ceilings, &speeds);
    add("ceilings", json!(ceilings))?;
    add("speeds", json!(speeds))?;
    let setups: Vec<&Setup> = SETUPS.iter().filter(|setup| args.steps.iter().any(|name| name == setup.shape)).collect();
    let mut steps = Vec::new();
    for setup in &setups {
        print_setup(setup);
        steps.extend(programs.measure(setup, &methods, print_step)?);
        add("steps", json!(steps))?;
    }
    let floors = floors::all(&speeds, &steps, &setups.iter().map(|setup| setup.shape).collect::<Vec<_>>());
    print_floors(&floors);
    add("floors", json!(floors))?;
    // PEFT may be absent; our own steps may not.
    let ran = steps.iter().all(|step| step.program != "dora" || step.seconds.is_some());
    let held = checked.iter().all(Check::passed) && ran && !floors.iter().any(Floor::missed);
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_check(check: &Check) {
    let verdict = if check.passed() { "" } else { "  FAILED" };
    let Check { name, activations, error, tolerance } = check;
    println!("{name:<44} {activations:<6} {error:>9.1e} {tolerance:>9.1e}{verdict}");
}

fn print_speeds(ceilings: &Ceilings, speeds: &[Speed]) {
    let Ceilings { copy_gb_s, product_tflop_s } = ceilings;
    println!("\ncopy within the device {copy_gb_s:.0} GB/s, bf16 product {product_tflop_s:.0} TFLOP/s");
    println!("{:<44} {:>9} {:>9} {:>9} {:>7}", "kernel", "µs", "GB/s", "TFLOP/s", "share");
    for Speed { kernel, us, gb_s, tflop_s, share } in speeds {
        let number = |x: &Option<f64>| x.map_or(String::new(), |x| format!("{x:.0}"));
        println!("{kernel:<44} {us:>9.1} {:>9} {:>9} {:>6.1}%", number(gb_s), number(tflop_s), 100.0 * share);
    }
}

fn print_setup(setup: &Setup) {
    let Setup { shape, batch_size, tokens, checkpointing } = setup;
    let again = if *checkpointing { ", activations computed again" } else { "" };
    println!("\n{shape}, {batch_size} rows of {tokens} tokens, rank 16, all linear layers{again}");
}

fn print_step(Step { program, method, seconds, tokens_per_s, reason, .. }: &Step) {
    match (seconds, tokens_per_s, reason) {
        (Some(seconds), Some(speed), _) => {
            println!("{program:<5} {method:<6} {seconds:>8.3} s {speed:>9.0} tokens/s")
        }
        (_, _, reason) => println!("{program:<5} {method:<6} not measured: {}", reason.as_deref().unwrap_or("")),
    }
}

fn print_floors(floors: &[Floor]) {
    println!();
    for floor in floors {
        let Floor { name, found, bound, at_most } = floor;
        let wanted = format!("{} {bound:.2}", if *at_most { "at most" } else { "at least" });
        match found {
            Some(found) => println!("{name}: {found:.2}, {wanted}{}", if floor.missed() { "  MISSED" } else { "" }),
            None => println!("{name}: not measured, {wanted}"),
        }
    }
}
