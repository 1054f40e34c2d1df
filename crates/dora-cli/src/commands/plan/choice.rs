//! Which method to take, and why. The tree is that of the course this project starts from: quality first, DoRA where its memory
//! is there, else QDoRA; a proven configuration, LoRA; memory first, QLoRA. Its figures (16 GB for DoRA, 8 to 10 GB for QDoRA)
//! are for a 7B; what fits is decided by the prediction.

use anyhow::Result;
use clap::ValueEnum;
use dora_models::published;

use super::setup::{Request, Setup};
use super::table::gb;
use crate::adapter_args::Method;

/// What matters most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Priority {
    /// The best model
    Quality,
    /// The least memory
    Memory,
    /// The least time
    Speed,
    /// What every tool and server knows
    Compatibility,
}

/// A recommendation.
pub struct Choice {
    /// The setting, unless nothing fits.
    pub setup: Option<Setup>,
    /// Why, a sentence each.
    pub reasons: Vec<String>,
}

/// Chooses among the settings of all methods.
pub fn choose(request: &Request, priority: Priority, setups: &[Setup]) -> Result<Choice> {
    let of = |method: Method| setups.iter().find(|setup| setup.method == method);
    let order: &[Method] = match priority {
        Priority::Quality => &[Method::Dora, Method::Qdora],
        Priority::Compatibility => &[Method::Lora, Method::Qlora],
        Priority::Memory => &[Method::Qlora],
        Priority::Speed => &[Method::Lora, Method::Dora, Method::Qlora, Method::Qdora],
    };
    let offered: Vec<&Setup> = order.iter().filter_map(|&method| of(method)).collect();
    let fitting = || offered.iter().filter(|setup| setup.fits).copied();
    let chosen = match priority {
        Priority::Speed => fitting().min_by(|a, b| a.relative_time.total_cmp(&b.relative_time)),
        _ => fitting().next(),
    };
    let Some(chosen) = chosen else { return smaller(request, priority) };
    let mut reasons = vec![why(request, priority, chosen)];
    if priority != Priority::Speed {
        let passed_over = offered.iter().take_while(|setup| setup.method != chosen.method);
        reasons.extend(passed_over.map(|setup| too_large(request, setup)));
    }
    reasons.extend(rule_of_thumb(request, priority, chosen));
    reasons.extend(how(request, chosen));
    Ok(Choice { setup: Some(chosen.clone()), reasons })
}

fn why(request: &Request, priority: Priority, chosen: &Setup) -> String {
    let (name, dtype) = (chosen.method.title(), request.dtype);
    match (priority, chosen.method) {
        (Priority::Quality, Method::Dora) => {
            format!("Quality comes first, and there is memory for weights in {dtype}: DoRA.")
        }
        (Priority::Quality, _) => "Quality comes first, in the memory that 4-bit weights take: QDoRA.".into(),
        (Priority::Compatibility, Method::Lora) => {
            "A proven configuration comes first: every trainer and server knows LoRA.".into()
        }
        (Priority::Compatibility, _) => "A proven configuration comes first; over 4-bit weights that is QLoRA.".into(),
        (Priority::Memory, _) => {
            "Memory comes first: 4-bit weights, and the fewest parameters that train on them.".into()
        }
        (Priority::Speed, _) => {
            let time = chosen.relative_time;
            format!("Time comes first: of what fits {name} has the fewest operations, {time:.2} of LoRA's.")
        }
    }
}

/// What the course's figures for a 7B would have said, where the prediction says otherwise.
fn rule_of_thumb(request: &Request, priority: Priority, chosen: &Setup) -> Option<String> {
    let memory = request.memory.filter(|_| priority == Priority::Quality && request.stored_nf4.is_none())?;
    let rule = if memory >= 16_000_000_000 { Method::Dora } else { Method::Qdora };
    let name = rule.title();
    let text = "The rule for a 7B (DoRA from 16 GB, QDoRA from 8 to 10 GB) says";
    (rule != chosen.method).then(|| format!("{text} {name}; the prediction decides."))
}

fn too_large(request: &Request, setup: &Setup) -> String {
    let (name, peak) = (setup.method.title(), gb(setup.prediction.peak()));
    format!("{name} does not fit: {peak} GB predicted at its smallest, {} GB given.", gb(request.memory.unwrap_or(0)))
}

/// How a setting was made to fit.
fn how(request: &Request, chosen: &Setup) -> Vec<String> {
    let mut reasons = Vec::new();
    if chosen.grad_accum > 1 {
        let (passes, rows) = (chosen.grad_accum, chosen.batch_size);
        reasons.push(format!(
            "A step's rows go in {passes} passes of {rows}, which trains as one pass over all of them does."
        ));
    }
    if chosen.gradient_checkpointing {
        reasons.push(
            "Activations are computed again in the backward pass, which takes a third to a half more time.".into(),
        );
    }
    if let Some(memory) = request.memory.filter(|&memory| chosen.prediction.peak() > memory - memory / 10) {
        let (peak, memory) = (gb(chosen.prediction.peak()), gb(memory));
        reasons.push(format!("It is tight: {peak} of {memory} GB, and the prediction is good to 10 %."));
    }
    reasons
}

/// What would fit where nothing fits as asked: shorter rows of this model, and smaller models.
fn smaller(request: &Request, priority: Priority) -> Result<Choice> {
    let methods: &[Method] = match priority {
        Priority::Quality => &[Method::Qdora, Method::Qlora],
        _ => &[Method::Qlora],
    };
    let (mut setup, mut reasons) = (None, Vec::new());
    for &method in methods {
        reasons.push(too_large(request, &request.setup(method, request.seq_len)?));
    }
    for &method in methods {
        if let Some(shorter) = shorter(request, method)? {
            let (name, tokens, peak) = (method.title(), shorter.seq_len, gb(shorter.prediction.peak()));
            reasons.push(format!("{name} fits with rows of at most {tokens} tokens: {peak} GB."));
            setup.get_or_insert(shorter);
        }
    }
    let mut model = None;
    for shape in published::all() {
        let smaller = Request { model: shape.description(), ..request.clone() };
        let found = smaller.setup(Method::Qlora, request.seq_len)?;
        if found.fits && smaller.model.shape.parameters < request.model.shape.parameters {
            model = Some((shape.name, gb(found.prediction.peak())));
        }
    }
    match model {
        Some((name, peak)) => {
            reasons.push(format!("{name} fits at {} tokens with QLoRA: {peak} GB.", request.seq_len));
        }
        None if setup.is_none() => reasons.push("Neither shorter rows nor a smaller built-in shape fits.".into()),
        None => {}
    }
    Ok(Choice { setup, reasons })
}

/// The longest rows, in steps of 64 tokens, that a method fits with.
fn shorter(request: &Request, method: Method) -> Result<Option<Setup>> {
    const STEP: usize = 64;
    let (mut best, mut fitting, mut too_long) = (None, 0, request.seq_len.div_ceil(STEP));
    while too_long - fitting > 1 {
        let middle = (fitting + too_long) / 2;
        let setup = request.setup(method, middle * STEP)?;
        match setup.fits {
            true => (best, fitting) = (Some(setup), middle),
            false => too_long = middle,
        }
    }
    Ok(best)
}
