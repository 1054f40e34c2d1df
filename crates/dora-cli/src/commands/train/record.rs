//! `run.json`: every resolved setting, versions, hashes of base and data; written before the first step, and again with the
//! results when the run ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use dora_adapters::Adapter;
use dora_adapters::config::AdapterConfig;
use dora_adapters::memory::Prediction;
use dora_models::checkpoint::write_file;
use dora_train::data::{Dataset, LoadReport};
use dora_train::metrics::{METRICS_FILE, peak_rss_mb};
use dora_train::run::Ending;
use serde_json::{Value, json};

use super::profile::Profile;
use super::settings::Args;
use super::watch::Watch;
use super::{Rows, Trained};
use crate::base::Base;
use crate::failure::Usage;
use crate::prediction;
use crate::results::{adapter_files, run_record};

/// Name of the file in a run's folder.
const RUN_FILE: &str = "run.json";

/// What an earlier run left in a folder: adapter, steps, and the model where all weights were trained. A model that no run
/// made is refused, since a run's record beside it would be taken for its own.
pub fn earlier(output: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |e| Usage(format!("cannot read {}: {e}", output.display()));
    let mut models = Vec::new();
    for entry in fs::read_dir(output).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) {
            models.push(path);
        }
    }
    if let Some(model) = models.first()
        && run_record(output)?.is_none_or(|run| run["settings"]["method"] != "full")
    {
        let (output, model) = (output.display(), model.display());
        let text = format!("--output {output} holds {model}, which no run made, expected a folder of its own");
        return Err(Usage(text).into());
    }
    let of_adapter = adapter_files(output).into_iter().chain([output.join(METRICS_FILE)]);
    Ok(of_adapter.filter(|path| path.exists()).chain(models).collect())
}

/// Removes it before a new record is written, so that a run that is killed leaves nothing of another one beside its record.
pub fn remove(earlier: &[PathBuf]) -> Result<()> {
    earlier.iter().try_for_each(|path| fs::remove_file(path).with_context(|| format!("removing {}", path.display())))
}

/// The record as known before the first step.
pub struct Record(Value);

impl Record {
    /// Collects it and writes it.
    pub fn begin(
        args: &Args,
        steps: usize,
        base: &Base,
        rows: &Rows,
        trained: &Trained,
        predicted: Option<&Prediction>,
    ) -> Result<Self> {
        let mut record = description(args, steps, base, rows, trained.adapter.as_ref().map(Adapter::config))?;
        record["trainable_params"] = trained.counts.trainable.into();
        record["all_params"] = trained.counts.all.into();
        record["predicted_peak_mb"] = predicted.map(|p| prediction::mb(p.peak())).into();
        record["predicted_terms_mb"] = predicted.map(prediction::terms_mb).into();
        write(&args.output, &record)?;
        Ok(Record(record))
    }

    /// Adds what came of it, writes it, and gives it; no ending: the run failed, by what is `not_finite` or otherwise. Times are
    /// from the start to the first step and to the end.
    pub fn finish(
        mut self,
        output: &Path,
        (ending, not_finite): (Option<Ending>, bool),
        watch: &Watch,
        profile: Option<&Profile>,
        (ready, time): (Duration, Duration),
    ) -> Result<Value> {
        let ending = match ending {
            Some(Ending::Finished) => "finished",
            Some(Ending::Interrupted(_)) => "interrupted",
            None => "failed",
        };
        self.0["results"] = json!({
            "ending": ending,
            "not_finite": not_finite,
            "steps": watch.steps(),
            "final_loss": watch.last_loss(),
            "eval_loss_before": watch.held_out().map(|(before, _)| before),
            "eval_loss_after": watch.held_out().map(|(_, after)| after),
            "tokens": watch.tokens(),
            "tokens_per_s": watch.tokens_per_s(),
            "start_s": ready.as_secs_f64(),
            "wall_s": time.as_secs_f64(),
            "peak_rss_mb": peak_rss_mb(),
            "profile": profile.map(Profile::json),
        });
        write(output, &self.0)?;
        Ok(self.0)
    }
}

/// What settles a run: the program's version, every resolved setting, and the hashes of base and data.
pub fn description(
    args: &Args,
    steps: usize,
    base: &Base,
    rows: &Rows,
    config: Option<&AdapterConfig>,
) -> Result<Value> {
    let adapter = config.map(|config| serde_json::from_str::<Value>(&config.to_json()));
    Ok(json!({
        "dora_version": env!("CARGO_PKG_VERSION"),
        "settings": args.resolved(steps, &rows.options, base),
        "notes": args.notes(),
        "adapter_config": adapter.transpose()?,
        "base_blake3": base.blake3()?,
        "data": of_data(&rows.data),
        "eval_data": rows.held_out.as_ref().map(of_data),
    }))
}

fn of_data(data: &Dataset) -> Value {
    let LoadReport { read, dropped_long, truncated, dropped_unlabelled, tokens, labelled_tokens } = data.report;
    json!({
        "sha256": data.sha256, "read": read, "rows": data.rows.len(), "dropped_long": dropped_long, "truncated": truncated,
        "dropped_unlabelled": dropped_unlabelled, "tokens": tokens, "labelled_tokens": labelled_tokens,
    })
}

fn write(output: &Path, record: &Value) -> Result<()> {
    Ok(write_file(&output.join(RUN_FILE), format!("{record:#}\n").as_bytes())?)
}
