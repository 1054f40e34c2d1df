//! A run's part of the page.

use anyhow::Result;
use askama::Template;
use dora_adapters::count::thousands;
use serde_json::Value;

use super::curves::{Curve, Style, chart, smoothed};
use super::name;
use super::run::{Run, Sample};
use super::table::{BarRow, Bars, Figure, or_dash, picture};

/// Settings of the adapter that are shown, where they say something; the rest of PEFT's list is neutral.
const ADAPTER: [&str; 11] = [
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "rank_pattern",
    "alpha_pattern",
];

/// What is known of rows, in `data` and `eval_data`.
const ROWS: [&str; 7] =
    ["rows", "tokens", "labelled_tokens", "truncated", "dropped_long", "dropped_unlabelled", "sha256"];

/// The part.
#[derive(Template)]
#[template(path = "report/run.html")]
pub struct RunView<'a> {
    id: &'a str,
    name: String,
    path: String,
    ending: &'a str,
    /// A class: good, bad or none.
    mood: &'static str,
    tiles: Vec<Tile>,
    figures: Vec<Figure>,
    pictures: Vec<String>,
    notes: Vec<String>,
    samples: &'a [Sample],
    bars: Vec<Bars>,
    settings: Captioned,
}

/// A figure to see at once.
struct Tile {
    name: &'static str,
    value: String,
    beside: String,
}

impl<'a> RunView<'a> {
    pub fn of(run: &'a Run, id: &'a str) -> Result<Self> {
        let ending = run.ending();
        let mood = match ending {
            "finished" => "good",
            "failed" => "bad",
            _ => "",
        };
        Ok(RunView {
            id,
            name: name(&run.path),
            path: run.path.display().to_string(),
            ending,
            mood,
            tiles: tiles(run),
            figures: figures(run)?,
            pictures: run.pictures.iter().map(picture).collect::<Result<_>>()?,
            notes: run.stale.iter().map(|name| stale(name)).collect(),
            samples: &run.samples,
            bars: [memory(run), profile(run)].into_iter().flatten().collect(),
            settings: settings(run),
        })
    }
}

/// Instead of a result's figures.
fn stale(name: &str) -> String {
    format!(
        "{name} was measured on another adapter than this folder's, such as an earlier run's; dora eval measures anew."
    )
}

/// Held-out loss before the first step and after the last.
pub fn held_out(run: &Run) -> Option<String> {
    let [before, after] = ["before", "after"].map(|when| run.number(&format!("/results/eval_loss_{when}")));
    Some(format!("{:.4} → {:.4}", before?, after?))
}

/// A number of the record, rounded, with its unit.
pub fn rounded(run: &Run, place: &str, unit: &str) -> Option<String> {
    Some(format!("{}{unit}", thousands(run.number(place)?.round() as usize)))
}

/// Wall time of the whole run.
pub fn time(run: &Run) -> Option<String> {
    let seconds = run.number("/results/wall_s")?;
    let minutes = (seconds / 60.0) as usize;
    Some(match minutes {
        0 | 1 => format!("{seconds:.1} s"),
        2..120 => format!("{minutes} min {:.0} s", seconds % 60.0),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    })
}

fn tiles(run: &Run) -> Vec<Tile> {
    let tile = |name, value, beside: Option<String>| {
        let beside = beside.unwrap_or_default();
        Tile { name, value: or_dash(value), beside }
    };
    let share = run.number("/trainable_params").zip(run.number("/all_params"));
    let predicted = rounded(run, "/predicted_peak_mb", " MB").map(|mb| format!("{mb} predicted"));
    vec![
        tile("Method", Some(run.method()), None),
        tile(
            "Trainable parameters",
            rounded(run, "/trainable_params", ""),
            share.map(|(some, all)| format!("{:.4} % of all", 100.0 * some / all)),
        ),
        tile(
            "Held-out loss",
            held_out(run),
            run.number("/results/eval_loss_after").map(|loss| format!("perplexity {:.3}", loss.exp())),
        ),
        tile(
            "Loss of the last step",
            run.number("/results/final_loss").map(|loss| format!("{loss:.4}")),
            rounded(run, "/results/steps", " steps"),
        ),
        tile("Time", time(run), rounded(run, "/results/tokens_per_s", " tokens/s")),
        tile("Peak memory", rounded(run, "/results/peak_rss_mb", " MB"), predicted),
    ]
}

fn figures(run: &Run) -> Result<Vec<Figure>> {
    let losses = run.curve(|line| line.loss);
    let (smooth, over) = smoothed(&losses);
    let mut curves = Vec::new();
    let mut caption = "Training loss of each step".to_owned();
    if over > 1 {
        curves.push(Curve { colour: 0, points: losses, style: Style::Faint });
        caption.push_str(&format!(" (faint) and its mean over {over} steps"));
    }
    curves.push(Curve { colour: 0, points: smooth, style: Style::Line });
    let evaluations = run.curve(|line| line.eval_loss);
    if !evaluations.is_empty() {
        caption.push_str("; held-out loss with points (orange)");
    }
    curves.push(Curve { colour: 1, points: evaluations, style: Style::Points });
    let one = |points, colour| vec![Curve { colour, points, style: Style::Line }];
    let all = [
        (chart("Loss over steps", "loss", false, curves)?, caption),
        (
            chart("Learning rate over steps", "learning rate", true, one(run.curve(|line| line.lr), 2))?,
            "Learning rate".into(),
        ),
        (
            chart("Norm of the gradient over steps", "norm", true, one(run.curve(|line| line.grad_norm), 3))?,
            "Norm of all gradients, before clipping".into(),
        ),
        (
            chart("Speed over steps", "tokens/s", true, one(run.curve(|line| line.tokens_per_s), 4))?,
            "Speed: tokens over the step's whole time".into(),
        ),
    ];
    Ok(all.into_iter().filter_map(|(svg, caption)| Some(Figure { svg: svg?, caption })).collect())
}

/// Predicted memory, term by term, and what was measured.
fn memory(run: &Run) -> Option<Bars> {
    let terms = run.record["predicted_terms_mb"].as_object()?;
    let predicted = run.number("/predicted_peak_mb")?;
    let measured = run.number("/results/peak_rss_mb");
    let most = measured.unwrap_or(0.0).max(predicted);
    let row = |name: String, mb: f64| {
        BarRow::new(vec![name, thousands(mb.round() as usize)], (most > 0.0).then_some(mb / most))
    };
    let term = |(name, mb): (&String, &Value)| Some(row(name.replace('_', " "), mb.as_f64().filter(|mb| *mb > 0.0)?));
    let mut rows: Vec<BarRow> = terms.iter().filter_map(term).collect();
    rows.push(row("all, predicted".into(), predicted));
    rows.extend(measured.map(|mb| row("measured".into(), mb)));
    let off = measured.map(|mb| 100.0 * (mb / predicted - 1.0));
    let off = off.map_or(String::new(), |percent| {
        let word = if percent < 0.0 { "less" } else { "more" };
        format!("; measured {:.1} % {word}", percent.abs())
    });
    Some(Bars { caption: format!("Peak memory as predicted{off}"), columns: vec!["Memory for", "MB"], rows })
}

/// Where the time of the steps went.
fn profile(run: &Run) -> Option<Bars> {
    let profile = run.record.pointer("/results/profile").filter(|profile| profile.is_object())?;
    let all = profile["seconds"].as_f64().filter(|seconds| *seconds > 0.0)?;
    let row = |operation: &Value| {
        let seconds = operation["seconds"].as_f64()?;
        let rate = |amount: &Value| match amount.as_f64() {
            Some(amount) if amount > 0.0 && seconds > 0.0 => format!("{:.1}", amount / seconds / 1e9),
            _ => String::new(),
        };
        let cells = vec![
            operation["operation"].as_str()?.to_owned(),
            format!("{:.1} %", 100.0 * seconds / all),
            format!("{seconds:.2}"),
            rate(&operation["flops"]),
            rate(&operation["bytes"]),
        ];
        Some(BarRow::new(cells, Some(seconds / all)))
    };
    let rows = profile["operations"].as_array()?.iter().filter_map(row).collect();
    let columns = vec!["Operation", "Share", "s", "GFLOP/s", "GB/s"];
    Some(Bars { caption: format!("Where the {all:.1} s of the steps went"), columns, rows })
}

/// Names and values under captions.
type Captioned = Vec<(&'static str, Vec<(String, String)>)>;

fn settings(run: &Run) -> Captioned {
    let lines = |part: &Value, names: &[&str], before: &str| -> Vec<(String, String)> {
        let line = |name: &&str| Some((format!("{before}{}", name.replace('_', " ")), shown(&part[*name])?));
        names.iter().filter_map(line).collect()
    };
    let record = &run.record;
    let of_training: Vec<&str> =
        record["settings"].as_object().into_iter().flatten().map(|(name, _)| &**name).collect();
    let mut data = lines(&record["data"], &ROWS, "");
    data.extend(lines(&record["eval_data"], &ROWS, "held-out "));
    data.extend(lines(record, &["base_blake3", "dora_version"], ""));
    vec![
        ("Settings", lines(&record["settings"], &of_training, "")),
        ("Adapter", lines(&record["adapter_config"], &ADAPTER, "")),
        ("Data, base and version", data),
    ]
}

/// A setting as a person reads it; `None` where it says nothing.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(yes) => Some(if *yes { "yes" } else { "no" }.into()),
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => Some(items.iter().filter_map(shown).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) if fields.is_empty() => None,
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| Some(format!("{name}: {}", shown(value)?));
            Some(fields.iter().filter_map(field).collect::<Vec<_>>().join(", "))
        }
        Value::Number(number) => Some(number.to_string()),
    }
}
