//! Writes the logits of a model with an adapter for some rows of a data file, for `tests/golden/parity.py`:
//! `cargo run --release -p dora-tests --example logits -- MODEL ADAPTER ROWS.jsonl OUT.safetensors 0 1 2` writes `row_0`
//! (tokens, vocabulary), …

use std::error::Error;
use std::path::Path;

use dora_adapters::Adapter;
use dora_models::checkpoint::write_safetensors;
use dora_models::linear::Pass;
use dora_models::model::{Architecture, LoadOptions};
use dora_tensor::no_grad;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, adapter, rows, out, wanted @ ..] = arguments.as_slice() else {
        return Err("usage: logits MODEL ADAPTER ROWS.jsonl OUT.safetensors ROW...".into());
    };
    let architecture = Architecture::of(Path::new(model))?;
    let mut model = architecture.load(Path::new(model), LoadOptions::default())?;
    Adapter::load(&mut *model, Path::new(adapter), architecture.default_targets)?;
    let text = std::fs::read_to_string(rows)?;
    let mut tensors = Vec::new();
    for row in wanted {
        let line = text.lines().nth(row.parse()?).ok_or_else(|| format!("{rows} has no row {row}"))?;
        let record: serde_json::Value = serde_json::from_str(line)?;
        let ids: Vec<u32> = serde_json::from_value(record["input_ids"].clone())?;
        let logits = no_grad(|| {
            let hidden = model.hidden(&ids, &Pass::new(&[ids.len()]))?;
            model.head().apply(&hidden)
        })?;
        tensors.push((format!("row_{row}"), logits));
    }
    write_safetensors(Path::new(out), &tensors, &[])?;
    Ok(())
}
