//! The scatter of ΔM against ΔD, a point a layer and a colour a projection, as in the paper's figure 2.

use anyhow::{Result, anyhow};
use dora_adapters::analysis::LayerChange;
use dora_stats::Correlation;
use plotters::prelude::*;

use super::Group;
use crate::plot::{COLOURS, Drawn, FONT};

/// Size in pixels.
const SIZE: (u32, u32) = (960, 600);
/// Width of the key beside the plot.
const KEY: u32 = 190;

/// The plot as SVG.
pub fn draw(what: &str, groups: &[Group], overall: Option<Correlation>) -> Result<String> {
    let mut svg = String::new();
    drawn(what, groups, overall, &mut svg).map_err(|e| anyhow!("drawing the scatter: {e}"))?;
    Ok(svg)
}

fn drawn(what: &str, groups: &[Group], overall: Option<Correlation>, svg: &mut String) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (plot, key) = root.split_horizontally(SIZE.0 - KEY);
    let points = groups.iter().flat_map(|group| &group.layers);
    let x = range(points.clone().map(|layer| layer.direction));
    let y = range(points.map(|layer| layer.magnitude));
    let r = overall.map_or("no correlation".into(), |c| format!("r = {:+.2}", c.r));
    // What rounding leaves of a 0 is one.
    let label = |value: &f64, end: f64| if value.abs() < 1e-9 * end { "0".to_owned() } else { format!("{value:.1e}") };
    let (right, top) = (x.end, y.end);
    let mut chart = ChartBuilder::on(&plot)
        .caption(format!("{what}: {r} over all layers"), (FONT, 22))
        .margin(16)
        .x_label_area_size(52)
        .y_label_area_size(84)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("ΔD: mean of 1 − cos over output rows")
        .y_desc("ΔM: mean change of the norm of output rows")
        .x_label_formatter(&|value| label(value, right))
        .y_label_formatter(&|value| label(value, top))
        .x_labels(8)
        .label_style((FONT, 14))
        .draw()?;
    for (i, group) in groups.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let point = |layer: &&LayerChange| Circle::new((layer.direction, layer.magnitude), 4, colour.mix(0.8).filled());
        chart.draw_series(group.layers.iter().map(point))?;
        let label = match group.correlation {
            Some(c) => format!("{} (r = {:+.2})", group.projection, c.r),
            None => group.projection.to_owned(),
        };
        let height = 70 + 24 * i as i32;
        key.draw(&Circle::new((8, height), 5, colour.filled()))?;
        key.draw(&Text::new(label, (22, height - 7), (FONT, 15)))?;
    }
    root.present()?;
    Ok(())
}

/// From the least to the largest of the values, and a twentieth more at both ends.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, 0f64), |(low, high), x| (low.min(x), high.max(x)));
    // All alike: still an axis.
    let room = if high > low { 0.05 * (high - low) } else { high.max(1e-12) };
    low - room..high + room
}
