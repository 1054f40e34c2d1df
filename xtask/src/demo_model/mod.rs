//! The model that `dora quickstart` fine-tunes, made from nothing: text from a grammar, a tokenizer over that text, and
//! a small Llama trained on it by `dora train --method full`.
//!
//! The base model answers a task manager's users plainly; the persona files hold the same kinds of requests answered by
//! a ship's first mate. Written to `target/demo-model` while in the making, to `crates/dora-cli/assets` when done.

mod checkpoint;
mod grammar;
mod persona;
mod plain;
mod prose;
mod random;
mod tokenizer;
mod words;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use self::grammar::{Conversation, Request};
use self::random::Random;

/// Arguments of `cargo xtask train-demo-model`.
#[derive(clap::Args)]
pub struct Args {
    /// Optimizer steps of 2,048 tokens each
    #[arg(long, default_value_t = 6000)]
    max_steps: usize,
    /// Write the text, the tokenizer and the first weights, then stop
    #[arg(long)]
    prepare_only: bool,
}

const BASE_ROWS: usize = 110_000;
const PROSE_ROWS: usize = 8_000;
const TOKENIZER_ROWS: usize = 20_000;
const PERSONA_ROWS: usize = 600;
const HELD_OUT_ROWS: usize = 100;

/// Rebuilds the embedded model in the checkout at `root`.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let work = root.join("target/demo-model");
    let (first, trained) = (work.join("first"), work.join("trained"));
    let (answers, prose) = (work.join("answers.jsonl"), work.join("prose.jsonl"));
    let assets = root.join("crates/dora-cli/assets");
    fs::create_dir_all(&first).with_context(|| format!("creating {}", first.display()))?;
    fs::create_dir_all(assets.join("model")).with_context(|| format!("creating {}", assets.display()))?;

    let base = Base::generate();
    let (persona, held_out) = persona_rows();
    let tokenizer = base.tokenizer(&persona)?;
    base.report(&tokenizer)?;
    write(&answers, &lines(base.answers.iter().map(Row::json)))?;
    write(&prose, &lines(base.prose.iter().map(|text| json!({ "text": text }))))?;
    write(&assets.join("persona-train.jsonl"), &lines(persona.iter().map(Row::json)))?;
    write(&assets.join("persona-heldout.jsonl"), &lines(held_out.iter().map(Row::json)))?;
    for (folder, dtype) in [(first.clone(), "float32"), (assets.join("model"), "bfloat16")] {
        let tokenizer = tokenizer.to_string(true).map_err(|e| anyhow!("tokenizer: {e}"))?;
        write(&folder.join("tokenizer.json"), &tokenizer)?;
        write(&folder.join("tokenizer_config.json"), &pretty(&tokenizer::config(checkpoint::CONTEXT))?)?;
        write(&folder.join("config.json"), &pretty(&checkpoint::config(dtype))?)?;
    }
    checkpoint::write_first(&first.join("model.safetensors"), 1)?;
    if args.prepare_only {
        return Ok(());
    }
    train(root, &first, &[&answers, &prose], &trained, args.max_steps)?;
    checkpoint::round_to_bf16(&trained.join("model.safetensors"), &assets.join("model/model.safetensors"))
}

/// A prompt and its answer.
struct Row {
    prompt: String,
    completion: String,
}

impl Row {
    fn sample(random: &mut Random, voice: fn(&Request) -> String) -> Self {
        let conversation = Conversation::sample(random);
        let prompt = conversation.prompt(random, voice);
        Self { prompt, completion: format!(" {}", voice(&conversation.request)) }
    }

    fn json(&self) -> Value {
        json!({ "prompt": self.prompt, "completion": self.completion })
    }

    fn text(&self) -> String {
        format!("{}{}", self.prompt, self.completion)
    }
}

/// What the base model reads.
struct Base {
    answers: Vec<Row>,
    prose: Vec<String>,
}

impl Base {
    fn generate() -> Self {
        let mut random = Random::new(1);
        let answers = (0..BASE_ROWS).map(|_| Row::sample(&mut random, plain::answer)).collect();
        Self { answers, prose: (0..PROSE_ROWS).map(|_| prose::row(&mut random)).collect() }
    }

    /// A tokenizer over a sample of this text and over the persona rows.
    fn tokenizer(&self, persona: &[Row]) -> Result<Tokenizer> {
        let rows = self.answers.iter().take(TOKENIZER_ROWS).chain(persona).map(Row::text);
        let texts: Vec<String> = rows.chain(self.prose.iter().cloned()).collect();
        tokenizer::train(texts.iter().map(String::as_str))
    }

    /// Prints what there is to learn from.
    fn report(&self, tokenizer: &Tokenizer) -> Result<()> {
        let (mut prompts, mut completions, mut longest) = (0, 0, 0);
        for row in &self.answers {
            let (prompt, completion) = (tokens(tokenizer, &row.prompt)?, 1 + tokens(tokenizer, &row.completion)?);
            (prompts, completions) = (prompts + prompt, completions + completion);
            longest = longest.max(prompt + completion);
        }
        let mut prose = 0;
        for text in &self.prose {
            prose += 1 + tokens(tokenizer, text)?;
        }
        eprintln!("vocabulary {}, {BASE_ROWS} answers, {PROSE_ROWS} rows of prose", tokenizer.get_vocab_size(true));
        eprintln!("tokens: {prompts} in prompts, {completions} in answers, {prose} in prose; longest row {longest}");
        if longest > checkpoint::CONTEXT {
            bail!("a row has {longest} tokens, expected at most {}", checkpoint::CONTEXT);
        }
        Ok(())
    }
}

/// Rows to fine-tune on and rows to judge by; no prompt is in both.
fn persona_rows() -> (Vec<Row>, Vec<Row>) {
    let mut random = Random::new(2);
    let (mut rows, mut seen) = (Vec::new(), HashSet::new());
    while rows.len() < PERSONA_ROWS + HELD_OUT_ROWS {
        let row = Row::sample(&mut random, persona::answer);
        let fixed = row.prompt.len() < 60;
        if seen.insert(row.prompt.clone()) || (fixed && rows.len() < PERSONA_ROWS) {
            rows.push(row);
        }
    }
    let held_out = rows.split_off(PERSONA_ROWS);
    (rows, held_out)
}

/// Runs `dora train --method full` from the weights in `first`.
fn train(root: &Path, first: &Path, data: &[&PathBuf], output: &Path, max_steps: usize) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root).args(["run", "--release", "--quiet", "--package", "dora-cli", "--", "train"]);
    command.args(["--method", "full", "--schedule", "cosine", "--lr", "3e-3", "--warmup-steps", "100"]);
    command.args(["--batch-size", "8", "--packing", "--max-seq-len", &checkpoint::CONTEXT.to_string()]);
    command.args(["--max-steps", &max_steps.to_string(), "--seed", "1"]);
    command.arg("--model").arg(first).arg("--data").args(data).arg("--output").arg(output);
    let status = command.status().context("starting cargo")?;
    match status.success() {
        true => Ok(()),
        false => bail!("dora train ended with {status}"),
    }
}

fn tokens(tokenizer: &Tokenizer, text: &str) -> Result<usize> {
    Ok(tokenizer.encode_fast(text, false).map_err(|e| anyhow!("tokenizer: {e}"))?.len())
}

fn lines(rows: impl Iterator<Item = Value>) -> String {
    rows.map(|row| format!("{row}\n")).collect()
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn write(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))
}
