//! `dora analyze`: how far training moved the magnitudes and directions of each linear layer's output rows, and how the two
//! go together over the layers (DoRA paper, arXiv 2402.09353, §3.2: a negative correlation for full fine-tuning and DoRA, a
//! positive one for LoRA).

mod scatter;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use dora_adapters::analysis::{LayerChange, Tuned, analyze};
use dora_adapters::factors;
use dora_models::checkpoint::write_file;
use dora_models::model::Architecture;
use dora_stats::{Correlation, correlation};
use serde_json::{Value, json};

use super::merge::trained_over_nf4;
use crate::base::blake3;
use crate::console::Console;
use crate::failure::Usage;
use crate::output::check_file;
use crate::results::OtherBase;

/// Arguments of `dora analyze`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the base model
    #[arg(long)]
    model: PathBuf,
    /// Folder of a LoRA or DoRA adapter that was trained on it
    #[arg(long, conflicts_with = "tuned", required_unless_present = "tuned")]
    adapter: Option<PathBuf>,
    /// Folder of a model whose weights were all trained from it
    #[arg(long)]
    tuned: Option<PathBuf>,
    /// File for a scatter plot
    #[arg(long)]
    svg: Option<PathBuf>,
}

pub fn run(args: Args, console: &Console) -> Result<ExitCode> {
    if let Some(svg) = &args.svg {
        let read: Vec<PathBuf> = [&args.model].into_iter().chain(&args.adapter).chain(&args.tuned).cloned().collect();
        check_file("--svg", svg, &read)?;
    }
    let (what, layers) = args.changes(console)?;
    let groups = groups(&layers);
    let overall = correlation(&pairs(layers.iter()));
    if let Some(svg) = &args.svg {
        write_file(svg, scatter::draw(&what, &groups, overall)?.as_bytes())?;
    }
    for layer in layers.iter().filter(|layer| layer.zero_rows > 0) {
        let LayerChange { path, zero_rows, .. } = layer;
        console
            .note(format!("note: {zero_rows} rows of {path} are zero and have no direction; they are left out of ΔD"));
    }
    let object = json!({
        "tuned": what, "axis": "output rows", "layers": layers.iter().map(layer_json).collect::<Vec<_>>(),
        "projections": groups.iter().map(Group::json).collect::<Vec<_>>(),
        "overall": { "n": layers.len(), "r": overall.map(|c| c.r), "p": overall.map(|c| c.p) }, "svg": args.svg,
    });
    console.result(&report(&what, &layers, &groups, overall), &object)?;
    Ok(ExitCode::SUCCESS)
}

/// Layers that end in one name.
pub struct Group<'a> {
    /// The name.
    pub projection: &'a str,
    /// Its layers, in the model's order.
    pub layers: Vec<&'a LayerChange>,
    /// Of ΔM and ΔD over them.
    pub correlation: Option<Correlation>,
}

impl Args {
    /// What was trained, in words, and how it changed each layer.
    fn changes(&self, console: &Console) -> Result<(String, Vec<LayerChange>)> {
        let architecture = Architecture::of(&self.model)?;
        let shape = architecture.read(&self.model)?.shape;
        let Some(dir) = &self.adapter else {
            let dir = self.tuned.as_ref().expect("clap asks for one of the two");
            if dir.canonicalize().ok() == self.model.canonicalize().ok() {
                return Err(Usage(format!("--tuned {} is the base model, expected another", dir.display())).into());
            }
            let layers = analyze(&self.model, &shape, &Tuned::Weights(dir), None)?;
            return Ok(("full fine-tune".into(), layers));
        };
        let (config, layers) = factors::read(dir, &shape, architecture.default_targets)?;
        let other = OtherBase::of(dir, &self.model, || blake3(&self.model))?;
        other.iter().for_each(|other| console.note(other.note()));
        let nf4 = trained_over_nf4(dir)?;
        if nf4.is_some() {
            console.note("note: this adapter was trained over 4-bit weights; the base is what these stand for");
        }
        let method = if config.use_dora { "DoRA" } else { "LoRA" };
        let changes = analyze(&self.model, &shape, &Tuned::Adapter(&layers), nf4)?;
        Ok((format!("{method}, rank {}", config.r), changes))
    }
}

fn projection(layer: &LayerChange) -> &str {
    layer.path.rsplit('.').next().unwrap_or(&layer.path)
}

fn groups(layers: &[LayerChange]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for layer in layers {
        match groups.iter_mut().find(|group| group.projection == projection(layer)) {
            Some(group) => group.layers.push(layer),
            None => groups.push(Group { projection: projection(layer), layers: vec![layer], correlation: None }),
        }
    }
    for group in &mut groups {
        group.correlation = correlation(&pairs(group.layers.iter().copied()));
    }
    groups
}

fn pairs<'a>(layers: impl Iterator<Item = &'a LayerChange>) -> Vec<(f64, f64)> {
    layers.map(|layer| (layer.direction, layer.magnitude)).collect()
}

impl Group<'_> {
    fn mean(&self, of: fn(&LayerChange) -> f64) -> f64 {
        self.layers.iter().map(|layer| of(layer)).sum::<f64>() / self.layers.len() as f64
    }

    fn json(&self) -> Value {
        json!({
            "projection": self.projection, "n": self.layers.len(), "delta_m": self.mean(|l| l.magnitude),
            "delta_d": self.mean(|l| l.direction), "r": self.correlation.map(|c| c.r), "p": self.correlation.map(|c| c.p),
        })
    }
}

fn layer_json(layer: &LayerChange) -> Value {
    json!({
        "path": layer.path, "projection": projection(layer), "delta_m": layer.magnitude, "delta_d": layer.direction,
        "zero_rows": layer.zero_rows,
    })
}

fn report(what: &str, layers: &[LayerChange], groups: &[Group], overall: Option<Correlation>) -> String {
    let width = layers.iter().map(|layer| layer.path.len()).max().unwrap_or(0).max("all".len());
    let line = |name: &str, m: f64, d: f64| format!("{name:width$}  {m:>10.3e}  {d:>10.3e}");
    let mut text = format!(
        "{what}: mean change of magnitude ΔM and direction ΔD over output rows, and their correlation over layers\n\n\
         {:width$}  {:>10}  {:>10}  correlation\n",
        "", "ΔM", "ΔD"
    );
    for group in groups {
        let figures = line(group.projection, group.mean(|l| l.magnitude), group.mean(|l| l.direction));
        text.push_str(&format!("{figures}  {}\n", in_words(group.correlation, group.layers.len())));
    }
    let n = layers.len() as f64;
    let mean = |of: fn(&LayerChange) -> f64| layers.iter().map(of).sum::<f64>() / n;
    let figures = line("all", mean(|l| l.magnitude), mean(|l| l.direction));
    text.push_str(&format!("{figures}  {}\n", in_words(overall, layers.len())));
    for layer in layers {
        text.push_str(&format!("\n{}", line(&layer.path, layer.magnitude, layer.direction)));
    }
    text
}

/// A correlation over n layers.
fn in_words(correlation: Option<Correlation>, n: usize) -> String {
    match correlation {
        Some(Correlation { r, p }) => format!("{r:+.2} (p = {p:.2e}, {n} layers)"),
        None => format!("none ({n} layers, too few or alike)"),
    }
}
