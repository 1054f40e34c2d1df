//! The peak memory that a run is predicted to have, said before it starts.

use dora_adapters::memory::{Prediction, Run, Trained as What, predict};
use dora_adapters::targets::Target;
use dora_models::shape::PassSize;
use dora_train::data::{Dataset, Plan};
use dora_train::metrics::peak_rss_mb;
use serde_json::{Map, Value, json};

use super::Trained;
use super::settings::Args;
use crate::base::Base;
use crate::commands::eval::BATCH_TOKENS;

/// Predicts the peak of a run of so many steps.
pub fn of_run(
    args: &Args,
    steps: usize,
    base: &Base,
    data: &Dataset,
    plan: &Plan,
    held_out: Option<&Dataset>,
    trained: &Trained,
) -> Prediction {
    let targets: Vec<Target> = trained.adapter.iter().flat_map(|adapter| adapter.targets().cloned()).collect();
    let what = trained.adapter.as_ref().map_or(What::Everything, |adapter| What::Adapter {
        targets: &targets,
        use_dora: adapter.config().use_dora,
        dropout: adapter.config().lora_dropout > 0.0,
    });
    predict(&Run {
        shape: base.model.shape(),
        dtype: base.dtype,
        nf4: base.nf4,
        trained: what,
        pass: plan.largest_pass(data, steps),
        accumulates: args.accumulates(),
        recompute_blocks: args.gradient_checkpointing,
        evaluation: held_out.map_or(PassSize::default(), |rows| rows.largest_evaluation(BATCH_TOKENS)),
        row_tokens: data.report.tokens + held_out.map_or(0, |rows| rows.report.tokens),
        threads: rayon::current_num_threads(),
    })
}

/// A number of bytes in MB (10^6 bytes).
pub fn mb(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

/// The prediction in a line.
pub fn line(prediction: &Prediction) -> String {
    let terms = prediction.terms.iter().filter(|(_, bytes)| *bytes > 0);
    let terms: Vec<String> = terms.map(|(name, bytes)| format!("{name} {:.0}", mb(*bytes))).collect();
    format!("predicted peak memory: {:.0} MB ({})", mb(prediction.peak()), terms.join(", "))
}

/// What was measured, beside what was predicted.
pub fn outcome(prediction: &Prediction) -> String {
    let measured = peak_rss_mb().map(|mb| format!("{mb:.0} MB, ")).unwrap_or_default();
    format!("peak memory {measured}predicted {:.0} MB", mb(prediction.peak()))
}

/// The terms in MB, under names of `run.json`.
pub fn terms_mb(prediction: &Prediction) -> Value {
    let term = |(name, bytes): &(&str, usize)| (name.replace(' ', "_"), json!(mb(*bytes)));
    Value::Object(prediction.terms.iter().map(term).collect::<Map<_, _>>())
}
