//! A plan as text: a column a method, a row a term.

use dora_adapters::count::thousands;

use super::quality;
use super::setup::{Request, Setup};

const LABEL: usize = 24;
const COLUMN: usize = 15;

/// Bytes in GB (10^9), to read.
pub fn gb(bytes: usize) -> String {
    let gb = bytes as f64 / 1e9;
    if gb < 10.0 { format!("{gb:.2}") } else { format!("{gb:.1}") }
}

/// The table, and what quality to expect.
pub fn text(request: &Request, name: &str, setups: &[Setup]) -> String {
    let Request { model, memory, seq_len, batch_size, rank, threads, .. } = request;
    let given = memory.map(|memory| format!("; {} GB of memory", gb(memory))).unwrap_or_default();
    let mut lines = vec![
        format!("{name}: {} parameters, frozen in {}", thousands(model.shape.parameters), request.dtype),
        format!(
            "{batch_size} rows of {seq_len} tokens a step; rank {rank} on all linear layers; {threads} threads{given}"
        ),
        String::new(),
    ];
    let mut row = |label: &str, cell: &dyn Fn(&Setup) -> String| {
        let cells: String = setups.iter().map(|setup| format!("{:>COLUMN$}", cell(setup))).collect();
        lines.push(format!("{label:<LABEL$}{cells}").trim_end().to_owned());
    };
    row("memory, GB", &|setup| setup.method.title().into());
    for (i, (term, _)) in setups[0].prediction.terms.iter().enumerate() {
        row(&format!("  {term}"), &|setup| match setup.prediction.terms[i].1 {
            0 => "-".into(),
            bytes => gb(bytes),
        });
    }
    row("  predicted peak", &|setup| gb(setup.prediction.peak()));
    if memory.is_some() {
        row("  fits", &|setup| if setup.fits { "yes".into() } else { "no".into() });
    }
    row("rows a pass x passes", &|setup| format!("{} x {}", setup.batch_size, setup.grad_accum));
    row("gradient checkpointing", &|setup| if setup.gradient_checkpointing { "yes".into() } else { "no".into() });
    row("time a token, LoRA = 1", &|setup| format!("{:.2}", setup.relative_time));
    row("trainable parameters", &|setup| thousands(setup.trainable));
    lines.push(String::new());
    lines.push("quality to expect".into());
    for &Setup { method, .. } in setups {
        lines.push(format!("  {:<6} {}", method.title(), quality::expected(method, model.shape.parameters, *rank)));
    }
    lines.extend(quality::SOURCES.map(|source| format!("  {source}")));
    lines.push(String::new());
    lines.extend(TIME.map(str::to_owned));
    lines.join("\n")
}

/// Where the times come from.
const TIME: [&str; 2] = [
    "time: floating-point operations, counted, over those of LoRA with all activations kept; that 4-bit",
    "weights are widened as they are used is not counted (measured times: benches/RESULTS.md)",
];
