//! The page: what stands where.

use anyhow::Result;
use askama::Template;

use super::comparisons::{self, Comparison};
use super::curves::{Curve, Style, chart, smoothed};
use super::inputs::Inputs;
use super::run::{Line, Run};
use super::run_view::{RunView, held_out, rounded, time};
use super::sweep::Sweep;
use super::table::{Column, Figure, Table, or_dash, picture};
use super::{evaluations, name};
use crate::plot::css_colour;

#[derive(Template)]
#[template(path = "report/page.html")]
struct Page {
    title: String,
    /// (id, name) of the sections.
    contents: Vec<(String, String)>,
    overview: Option<String>,
    overlays: Vec<Figure>,
    /// (colour, name) of the overlays' curves.
    key: Vec<(String, String)>,
    comparisons: Vec<Comparison>,
    evaluations: Option<String>,
    sweeps: Vec<SweepView>,
    pictures: Vec<String>,
    runs: Vec<String>,
    version: &'static str,
}

struct SweepView {
    id: String,
    name: String,
    path: String,
    pictures: Vec<String>,
    notes: Vec<String>,
    table: String,
}

/// The page as HTML, and how many comparisons it has.
pub fn render(inputs: Inputs) -> Result<(String, usize)> {
    let Inputs { runs, sweeps, .. } = &inputs;
    let ids: Vec<String> = (1..=runs.len()).map(|i| format!("run-{i}")).collect();
    let several = runs.len() > 1;
    let comparisons = comparisons::all(&inputs)?;
    let page = Page {
        title: title(&inputs),
        contents: Vec::new(),
        overview: if several { Some(overview(runs).render()?) } else { None },
        overlays: if several { overlays(runs)? } else { Vec::new() },
        key: runs.iter().enumerate().map(|(i, run)| (css_colour(i), name(&run.path))).collect(),
        comparisons,
        evaluations: evaluations::table(&inputs.evaluations).map(|table| table.render()).transpose()?,
        sweeps: sweeps.iter().enumerate().map(sweep).collect::<Result<_>>()?,
        pictures: inputs.pictures.iter().map(picture).collect::<Result<_>>()?,
        runs: runs.iter().zip(&ids).map(|(run, id)| Ok(RunView::of(run, id)?.render()?)).collect::<Result<_>>()?,
        version: env!("CARGO_PKG_VERSION"),
    };
    let contents = page.contents(runs);
    let page = Page { contents, ..page };
    Ok((page.render()?, page.comparisons.len()))
}

impl Page {
    /// Sections that are there, in their order.
    fn contents(&self, runs: &[Run]) -> Vec<(String, String)> {
        let fixed = [
            (self.overview.is_some(), "runs", "Runs side by side"),
            (!self.comparisons.is_empty(), "comparisons", "Comparisons"),
            (self.evaluations.is_some(), "evaluations", "Evaluations"),
        ];
        let mut all: Vec<(String, String)> =
            fixed.into_iter().filter(|part| part.0).map(|(_, id, name)| (id.to_owned(), name.to_owned())).collect();
        all.extend(self.sweeps.iter().map(|sweep| (sweep.id.clone(), format!("Sweep {}", sweep.name))));
        all.extend((!self.pictures.is_empty()).then(|| ("plots".to_owned(), "Plots".to_owned())));
        all.extend(runs.iter().enumerate().map(|(i, run)| (format!("run-{}", i + 1), name(&run.path))));
        all
    }
}

fn title(inputs: &Inputs) -> String {
    match (inputs.runs.as_slice(), inputs.sweeps.as_slice()) {
        ([run], []) => format!("Report of {}", name(&run.path)),
        ([], [sweep]) => format!("Report of the sweep {}", name(&sweep.path)),
        ([], []) => "Report".into(),
        (runs, []) => format!("Report of {} runs", runs.len()),
        ([], sweeps) => format!("Report of {} sweeps", sweeps.len()),
        (runs, sweeps) => format!("Report of {} and {}", counted(runs.len(), "run"), counted(sweeps.len(), "sweep")),
    }
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn overview(runs: &[Run]) -> Table {
    let columns = [
        "Run",
        "Method",
        "Trainable",
        "Steps",
        "Held-out loss",
        "Last loss",
        "Time",
        "Tokens/s",
        "Peak memory",
        "Predicted",
        "Seed",
        "Ended",
    ];
    let row = |run: &Run| {
        vec![
            name(&run.path),
            run.method(),
            or_dash(rounded(run, "/trainable_params", "")),
            or_dash(rounded(run, "/results/steps", "")),
            or_dash(held_out(run)),
            or_dash(run.number("/results/final_loss").map(|loss| format!("{loss:.4}"))),
            or_dash(time(run)),
            or_dash(rounded(run, "/results/tokens_per_s", "")),
            or_dash(rounded(run, "/results/peak_rss_mb", " MB")),
            or_dash(rounded(run, "/predicted_peak_mb", " MB")),
            or_dash(rounded(run, "/settings/seed", "")),
            run.ending().to_owned(),
        ]
    };
    let caption = "Results and costs of all runs".into();
    Table { caption, columns: Column::of(columns, 2), rows: runs.iter().map(row).collect() }
}

/// Curves of all runs together.
fn overlays(runs: &[Run]) -> Result<Vec<Figure>> {
    let curves = |of: fn(&Line) -> Option<f64>, style: Style| {
        let curve = |(colour, run): (usize, &Run)| {
            let points = run.curve(of);
            let points = if style == Style::Line { smoothed(&points).0 } else { points };
            Curve { colour, points, style }
        };
        runs.iter().enumerate().map(curve).collect::<Vec<_>>()
    };
    let all = [
        (
            chart("Training loss of all runs over steps", "loss", false, curves(|l| l.loss, Style::Line))?,
            "Training loss, mean over neighbouring steps",
        ),
        (
            chart("Held-out loss of all runs over steps", "loss", false, curves(|l| l.eval_loss, Style::Points))?,
            "Held-out loss",
        ),
    ];
    Ok(all.into_iter().filter_map(|(svg, caption)| Some(Figure { svg: svg?, caption: caption.into() })).collect())
}

fn sweep((i, sweep): (usize, &Sweep)) -> Result<SweepView> {
    Ok(SweepView {
        id: format!("sweep-{}", i + 1),
        name: name(&sweep.path),
        path: sweep.path.display().to_string(),
        pictures: sweep.pictures.iter().map(picture).collect::<Result<_>>()?,
        notes: sweep.notes(),
        table: sweep.table().render()?,
    })
}
