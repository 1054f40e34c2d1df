//! `dora quickstart`: the whole job on a model that is part of this program, trained from scratch by this project: loss of
//! the base, a QDoRA fine-tune, loss and answers after, the merged model, and the check that it answers alike. Everything
//! goes through files in one folder and the same code as the commands that it prints.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use dora_models::checkpoint::{ensure_writable_dir, write_file};
use dora_models::generate::Sampling;
use dora_tensor::Device;
use serde_json::{Value, json};

use super::eval::{WeightArgs, put_on};
use super::generate::continue_text;
use super::report::SAMPLES_FILE;
use super::train::DataArgs;
use super::{eval, merge, train};
use crate::base::Base;
use crate::console::Console;
use crate::failure::Usage;
use crate::interrupt::Interrupt;

/// Arguments of `dora quickstart`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder to write to
    #[arg(long, default_value = "dora-quickstart")]
    output: PathBuf,
}

/// The model, the persona's rows, and rows that it is judged by; `cargo xtask train-demo-model` makes them.
const ASSETS: [(&str, &[u8]); 6] = [
    ("model/config.json", include_bytes!("../../assets/model/config.json")),
    ("model/tokenizer.json", include_bytes!("../../assets/model/tokenizer.json")),
    ("model/tokenizer_config.json", include_bytes!("../../assets/model/tokenizer_config.json")),
    ("model/model.safetensors", include_bytes!("../../assets/model/model.safetensors")),
    ("persona-train.jsonl", include_bytes!("../../assets/persona-train.jsonl")),
    ("persona-heldout.jsonl", include_bytes!("../../assets/persona-heldout.jsonl")),
];

/// Asked before and after; none of them is in the rows.
const PROMPTS: [&str; 3] = [
    "Please add this at noon: call Anna about the garden.",
    "I am done with this: water the roses.",
    "I have until Monday to paint the fence and until Friday to visit Vera. Put them in order.",
];

const MAX_NEW_TOKENS: usize = 60;

pub fn run(args: Args, console: &Console) -> Result<ExitCode> {
    let start = Instant::now();
    let interrupt = Interrupt::listen()?;
    let dir = args.output;
    for folder in ["model", "adapter", "merged"] {
        ensure_writable_dir(&dir.join(folder)).map_err(|e| Usage(format!("--output: {e}")))?;
    }
    for (name, bytes) in ASSETS {
        write_file(&dir.join(name), bytes)?;
    }
    let (model, adapter, merged) = (dir.join("model"), dir.join("adapter"), dir.join("merged"));
    let [train_rows, held_out] = ["persona-train.jsonl", "persona-heldout.jsonl"].map(|name| dir.join(name));
    let say = |text: String| console.say(&text);

    say(format!("A small Llama lives in {}: a task manager's assistant that speaks plainly.", model.display()))?;
    say(format!(
        "600 rows in {} give it a persona. Here is QDoRA, DoRA over 4-bit weights, teaching it.\n",
        train_rows.display()
    ))?;
    let before = answers(&model, None, WeightArgs::in_4_bits(), console)?;
    let line = [
        "--model",
        &shown(&model),
        "--data",
        &shown(&train_rows),
        "--eval-data",
        &shown(&held_out),
        "--output",
        &shown(&adapter),
        "--method=qdora",
        "--lr=2e-3",
        "--schedule=cosine",
        "--epochs=8",
    ]
    .map(str::to_owned);
    say(format!("$ dora train {}\n", line.join(" ")))?;
    let outcome = train::train(&train::Args::of_line(line)?, Device::Cpu, console, interrupt.clone())?;
    if let Some(code) = interrupt.exit_code() {
        return Ok(code);
    }
    let Some((loss_before, loss_after)) = outcome.held_out else { bail!("no held-out row was evaluated") };
    say(format!("\n{}", outcome.counts))?;
    say(format!("held-out loss: {loss_before:.3} before, {loss_after:.3} after\n"))?;

    let after = answers(&model, Some(&adapter), WeightArgs::in_4_bits(), console)?;
    for ((prompt, before), after) in PROMPTS.iter().zip(&before).zip(&after) {
        say(format!("  you     {prompt}\n  before {before}\n  after  {after}\n"))?;
    }

    let sample = |i: usize| json!({ "prompt": PROMPTS[i], "before": before[i], "text": after[i] }).to_string() + "\n";
    write_file(&adapter.join(SAMPLES_FILE), (0..PROMPTS.len()).map(sample).collect::<String>().as_bytes())?;

    let to_merge = merge::Args {
        model: model.clone(),
        adapter: adapter.clone(),
        output: merged.clone(),
        merge_base: Some(merge::Base::Dequantized),
        eval_data: Vec::new(),
        rows: DataArgs::default(),
    };
    merge::merge(&to_merge, Device::Cpu, console)?;
    let merged_answers = answers(&merged, None, WeightArgs::default(), console)?;
    if merged_answers != after {
        bail!("the merged model answers {merged_answers:?}, expected what the adapter answers: {after:?}");
    }
    say(format!("adapter: {} (Hugging Face PEFT loads it)", adapter.display()))?;
    say(format!("merged:  {} (a plain checkpoint, as large as the base; it answers the same)", merged.display()))?;
    say(format!("{:.0} s in all. Now your own model and rows:\n", start.elapsed().as_secs_f64()))?;
    say("  dora train --model MODEL_FOLDER --data ROWS.jsonl --output my-adapter".into())?;
    say("  dora generate --model MODEL_FOLDER --adapter my-adapter --prompt \"...\"".into())?;
    say("  dora report my-adapter --output report.html\n".into())?;
    say("MODEL_FOLDER holds a Llama-type Hugging Face checkpoint; a row is {\"prompt\": \"...\", \"completion\": \"...\"}.".into())?;
    if console.is_json() {
        let samples: Vec<Value> = (0..PROMPTS.len())
            .map(|i| json!({ "prompt": PROMPTS[i], "before": before[i], "after": after[i] }))
            .collect();
        let object = json!({
            "eval_loss_before": loss_before, "eval_loss_after": loss_after, "trainable_params": outcome.counts.trainable,
            "all_params": outcome.counts.all, "samples": samples, "adapter": adapter, "merged": merged,
            "merged_answers_agree": true, "seconds": start.elapsed().as_secs_f64(),
        });
        console.result("", &object)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What a model says to the prompts, greedily.
fn answers(model: &Path, adapter: Option<&Path>, weights: WeightArgs, console: &Console) -> Result<Vec<String>> {
    let mut base: Base = eval::open(model, &weights, Device::Cpu, console)?;
    if let Some(dir) = adapter {
        put_on(dir, &mut base, &weights, console)?;
    }
    let answer = |prompt: &&str| {
        let text = format!("User: {prompt}\nAssistant:");
        Ok(continue_text(&base, &text, MAX_NEW_TOKENS, &Sampling::GREEDY, |_| {})?.text)
    };
    PROMPTS.iter().map(answer).collect()
}
