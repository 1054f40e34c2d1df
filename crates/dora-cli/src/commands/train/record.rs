//! `run.json`: every resolved setting, versions, hashes of base and data; written before the first step, and again with the
//! results when the run ends.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use dora_adapters::Adapter;
use dora_adapters::config::AdapterConfig;
use dora_adapters::memory::Prediction;
use dora_models::checkpoint::write_file;
use dora_train::data::{Dataset, LoadReport};
use dora_train::metrics::peak_rss_mb;
use dora_train::run::Ending;
use serde_json::{Value, json};

use super::profile::Profile;
use super::settings::Args;
use super::watch::Watch;
use super::{Rows, Trained};
use crate::base::Base;
use crate::prediction;

/// Name of the file in a run's folder.
const RUN_FILE: &str = "run.json";

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
        "base_sha256": base.sha256()?,
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
