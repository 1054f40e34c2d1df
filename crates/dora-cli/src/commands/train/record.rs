//! `run.json`: every resolved setting, versions, hashes of base and data; written before the first step, and again with the
//! results when the run ends.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use dora_adapters::memory::Prediction;
use dora_models::checkpoint::write_file;
use dora_train::data::{Dataset, LoadReport};
use dora_train::metrics::peak_rss_mb;
use dora_train::run::Ending;
use serde_json::{Value, json};

use super::profile::Profile;
use super::settings::Args;
use super::watch::Watch;
use super::{Trained, base_sha256};
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
        data: &Dataset,
        held_out: Option<&Dataset>,
        trained: &Trained,
        predicted: &Prediction,
    ) -> Result<Self> {
        let options = args.rows.options(base)?;
        let adapter = trained.adapter.as_ref().map(|a| serde_json::from_str::<Value>(&a.config().to_json()));
        let record = json!({
            "dora_version": env!("CARGO_PKG_VERSION"),
            "settings": args.resolved(steps, &options, base.nf4),
            "adapter_config": adapter.transpose()?,
            "trainable_params": trained.counts.trainable,
            "all_params": trained.counts.all,
            "base_sha256": base_sha256(base)?,
            "data": rows(data),
            "eval_data": held_out.map(rows),
            "predicted_peak_mb": prediction::mb(predicted.peak()),
            "predicted_terms_mb": prediction::terms_mb(predicted),
        });
        write(&args.output, &record)?;
        Ok(Record(record))
    }

    /// Adds what came of it, writes it, and gives it; no ending: the run failed. Times are from the start to the first step and
    /// to the end.
    pub fn finish(
        mut self,
        output: &Path,
        ending: Option<Ending>,
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

fn rows(data: &Dataset) -> Value {
    let LoadReport { read, dropped_long, truncated, dropped_unlabelled, tokens, labelled_tokens } = data.report;
    json!({
        "sha256": data.sha256, "read": read, "rows": data.rows.len(), "dropped_long": dropped_long, "truncated": truncated,
        "dropped_unlabelled": dropped_unlabelled, "tokens": tokens, "labelled_tokens": labelled_tokens,
    })
}

fn write(output: &Path, record: &Value) -> Result<()> {
    Ok(write_file(&output.join(RUN_FILE), format!("{record:#}\n").as_bytes())?)
}
