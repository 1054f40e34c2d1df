//! `dora generate`: continues a prompt, printing as it goes.

use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use dora_models::generate::{Sampling, Stop, generate};
use dora_tensor::Device;
use serde_json::json;

use super::eval::{WeightArgs, note_other_base, open, put_on};
use crate::base::Base;
use crate::console::Console;
use crate::failure::Usage;

/// Arguments of `dora generate`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the model
    #[arg(long)]
    model: PathBuf,
    /// Folder of an adapter to put on it
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Text to continue
    #[arg(long)]
    prompt: String,
    /// Most tokens to generate
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// Divides the logits before drawing; 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Draw from the K likeliest tokens only
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    weights: WeightArgs,
}

pub fn run(args: Args, device: Device, console: &Console) -> Result<ExitCode> {
    let sampling = args.sampling()?;
    let mut base = open(&args.model, &args.weights, device, console)?;
    if let Some(dir) = &args.adapter {
        put_on(dir, &mut base, &args.weights, console)?;
        note_other_base(dir, &base, console)?;
    }
    let show = |text: &str| {
        if !console.is_json() {
            let mut out = stdout();
            // A reader that went away does not stop the work; the result says so at the end.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    };
    let answer = continue_text(&base, &args.prompt, args.max_new_tokens, &sampling, show)?;
    let stop = match answer.stop {
        Stop::Eos => "eos",
        Stop::Length => "length",
        Stop::Context => "context",
        Stop::Watcher => unreachable!("showing the text ends nothing"),
    };
    if answer.stop == Stop::Context {
        console.note(format!("note: the model's context of {} tokens is full", base.model.context()));
    }
    let object = json!({
        "prompt": args.prompt, "text": answer.text, "prompt_tokens": answer.prompt_tokens, "new_tokens": answer.new_tokens, "stop": stop,
    });
    console.result("", &object)?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn sampling(&self) -> Result<Sampling> {
        let Args { temperature, top_k, top_p, seed, .. } = *self;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(Usage(format!("--temperature is {temperature}, expected a number of at least 0")).into());
        }
        if top_k == Some(0) {
            return Err(Usage("--top-k is 0, expected at least 1".into()).into());
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Usage(format!("--top-p is {top_p}, expected more than 0 and at most 1")).into());
        }
        if temperature == 0.0 && (top_k.is_some() || top_p < 1.0) {
            let found =
                "--top-k and --top-p draw from the likeliest tokens, but --temperature is 0, which draws nothing";
            return Err(Usage(found.into()).into());
        }
        Ok(Sampling { temperature, top_k, top_p, seed })
    }
}

/// What came of a prompt.
pub struct Answer {
    pub text: String,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    stop: Stop,
}

/// Continues a text; `show` sees the new text as it grows.
pub fn continue_text(
    base: &Base,
    prompt: &str,
    max_new_tokens: usize,
    sampling: &Sampling,
    mut show: impl FnMut(&str),
) -> Result<Answer> {
    let Some(tokenizer) = &base.tokenizer else {
        return Err(
            Usage(format!("{} has no tokenizer.json, expected one to read a prompt", base.dir.display())).into()
        );
    };
    let ids = tokenizer.encode_prompt(prompt)?;
    if ids.is_empty() {
        return Err(Usage("--prompt has no token, expected at least one".into()).into());
    }
    if ids.len() > base.model.context() {
        let context = base.model.context();
        return Err(Usage(format!("--prompt has {} tokens, expected at most the model's {context}", ids.len())).into());
    }
    let vocab_size = base.model.vocab_size();
    if let Some((at, id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= vocab_size) {
        let found = format!("--prompt has token id {id} at position {at}, beyond the embedding's {vocab_size} rows");
        return Err(Usage(format!("{found} (is tokenizer.json another model's?)")).into());
    }
    let (mut new, mut shown) = (Vec::new(), String::new());
    let (generated, stop) = generate(&*base.model, &ids, max_new_tokens, &base.eos_token_ids(), sampling, |token| {
        new.push(token);
        // A token may hold part of a character: text is shown once it is whole.
        if let Ok(text) = tokenizer.decode(&new, true)
            && !text.ends_with('\u{fffd}')
            && let Some(more) = text.strip_prefix(&shown)
        {
            show(more);
            shown = text;
        }
        ControlFlow::Continue(())
    })?;
    let text = tokenizer.decode(&generated, true)?;
    show(text.strip_prefix(&shown).unwrap_or_default());
    Ok(Answer { text, prompt_tokens: ids.len(), new_tokens: generated.len(), stop })
}
