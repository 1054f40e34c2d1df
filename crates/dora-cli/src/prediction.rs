//! A prediction of memory in words and in JSON, in MB (10^6 bytes).

use dora_adapters::memory::Prediction;
use dora_train::metrics::peak_rss_mb;
use serde_json::{Map, Value, json};

/// Bytes in MB (10^6 bytes).
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
