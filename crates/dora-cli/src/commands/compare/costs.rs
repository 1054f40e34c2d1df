//! What two sides cost to train, and in which settings they differ.

use std::collections::BTreeSet;

use dora_adapters::count::thousands;
use serde_json::{Map, Value, json};

use super::shown;
use super::side::Side;
use crate::results::PLACES;

/// A cost: its name, its place in `run.json`, and its unit.
const COSTS: [(&str, &str, &str); 5] = [
    ("trainable parameters", "/trainable_params", ""),
    ("training steps", "/results/steps", ""),
    ("training time", "/results/wall_s", " s"),
    ("training speed", "/results/tokens_per_s", " tokens/s"),
    ("training memory (peak)", "/results/peak_rss_mb", " MB"),
];

/// Costs of both sides, means over their runs.
pub struct Costs {
    figures: [[Option<f64>; 2]; COSTS.len()],
    settings: Vec<(String, [String; 2])>,
}

impl Costs {
    /// Of all pairs.
    pub fn of<'a>(pairs: impl Iterator<Item = &'a (Side, Side)>) -> Self {
        let pairs: Vec<_> = pairs.collect();
        let arms = [pairs.iter().map(|p| &p.0).collect::<Vec<_>>(), pairs.iter().map(|p| &p.1).collect()];
        let mean = |arm: &Vec<&Side>, place: &str| {
            let figure = |side: &&Side| side.training.as_ref()?.pointer(place)?.as_f64();
            let figures = arm.iter().map(figure).collect::<Option<Vec<f64>>>()?;
            Some(figures.iter().sum::<f64>() / figures.len() as f64)
        };
        let figures = COSTS.map(|(_, place, _)| [0, 1].map(|i| mean(&arms[i], place)));
        Costs { figures, settings: differing(&pairs[0].0, &pairs[0].1) }
    }

    /// Lines of a table: name, A, B, and B over A.
    pub fn lines(&self) -> Vec<[String; 4]> {
        let all = COSTS.iter().zip(&self.figures);
        let known = all.filter(|(_, figures)| figures.iter().any(Option::is_some));
        let line = |((name, _, unit), [a, b]): (&(&str, &str, &str), &[Option<f64>; 2])| {
            let show =
                |x: &Option<f64>| x.map_or("no record".into(), |x| format!("{}{unit}", thousands(x.round() as usize)));
            let ratio = a.zip(*b).filter(|(a, _)| *a > 0.0).map_or(String::new(), |(a, b)| format!("× {:.2}", b / a));
            [(*name).to_owned(), show(a), show(b), ratio]
        };
        known.map(line).collect()
    }

    /// Settings that differ, a line each.
    pub fn settings(&self) -> impl Iterator<Item = String> {
        self.settings.iter().map(|(name, [a, b])| format!("{name}: {a} and {b}"))
    }

    pub fn json(&self) -> Value {
        let key = |place: &str| place.rsplit('/').next().unwrap_or(place).to_owned();
        let of = |i: usize| -> Map<String, Value> {
            COSTS.iter().zip(&self.figures).map(|((_, place, _), sides)| (key(place), json!(sides[i]))).collect()
        };
        json!({ "a": of(0), "b": of(1) })
    }

    pub fn settings_json(&self) -> Value {
        self.settings.iter().map(|(name, sides)| (name.clone(), json!(sides))).collect::<Map<_, _>>().into()
    }
}

/// Settings of the evaluation, of the training and of the adapter that two sides do not share; those of the training only where
/// both are known.
pub fn differing(a: &Side, b: &Side) -> Vec<(String, [String; 2])> {
    let mut settings = Vec::new();
    for name in ["dtype", "nf4"] {
        let values = [a, b].map(|side| side.held(name));
        if values[0] != values[1] {
            settings.push((format!("evaluated with {name}"), values.map(|value| shown(&value))));
        }
    }
    let (Some(a), Some(b)) = (&a.training, &b.training) else { return settings };
    for part in ["settings", "adapter_config"] {
        let none = Map::new();
        let [left, right] = [a, b].map(|run| run[part].as_object().unwrap_or(&none));
        let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        // The method says `use_dora`.
        for name in names.into_iter().filter(|name| !PLACES.contains(&name.as_str()) && *name != "use_dora") {
            let values = [left, right].map(|part| part.get(name).unwrap_or(&Value::Null));
            // Without an adapter on one side its settings say nothing more than the method.
            if values[0] != values[1] && !left.is_empty() && !right.is_empty() {
                settings.push((name.clone(), values.map(shown)));
            }
        }
    }
    if a["data"]["sha256"] != b["data"]["sha256"] {
        settings
            .push(("training data".into(), [a, b].map(|run| shown(&run["data"]["sha256"]).chars().take(12).collect())));
    }
    settings
}
