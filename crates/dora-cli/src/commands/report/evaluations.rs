//! A table of the results of `dora eval --output`.

use dora_adapters::count::thousands;
use serde_json::Value;

use super::inputs::Evaluation;
use super::table::{Column, Table, or_dash};

/// A row a result, where there is any.
pub fn table(evaluations: &[Evaluation]) -> Option<Table> {
    if evaluations.is_empty() {
        return None;
    }
    let columns = ["Result", "Of", "Right answers", "95 % interval", "Guessing", "No answer", "Loss", "Items"];
    Some(Table {
        caption: "What was measured on held-out items".into(),
        columns: Column::of(columns, 2),
        rows: evaluations.iter().map(row).collect(),
    })
}

fn row(evaluation: &Evaluation) -> Vec<String> {
    let Evaluation { side, summary } = evaluation;
    let number = |name: &str| summary.get(name).and_then(Value::as_f64);
    let percent = |name: &str| number(name).map(|share| format!("{:.1} %", 100.0 * share));
    let interval = number("accuracy_low").zip(number("accuracy_high"));
    let items = number("questions").or(number("rows"));
    vec![
        side.path.display().to_string(),
        if side.training.is_some() { side.label() } else { "a model without a record of training".into() },
        or_dash(percent("accuracy")),
        or_dash(interval.map(|(low, high)| format!("{:.1} to {:.1} %", 100.0 * low, 100.0 * high))),
        or_dash(percent("guessing")),
        or_dash(percent("unparsed_share")),
        or_dash(number("loss").map(|loss| format!("{loss:.4}"))),
        or_dash(items.map(|n| thousands(n as usize))),
    ]
}
