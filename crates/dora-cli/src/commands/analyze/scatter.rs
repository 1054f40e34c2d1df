//! The scatter of ΔM against ΔD, a point a layer and a colour a projection, as in the paper's figure 2.

use anyhow::{Result, anyhow};
use dora_stats::Correlation;
use plotters::prelude::*;

use super::Group;

/// Size in pixels.
const SIZE: (u32, u32) = (900, 600);
/// Colours that people with defects of colour vision tell apart (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// The plot as SVG.
pub fn draw(what: &str, groups: &[Group], overall: Option<Correlation>) -> Result<String> {
    let mut svg = String::new();
    drawn(what, groups, overall, &mut svg).map_err(|e| anyhow!("drawing the scatter: {e}"))?;
    Ok(svg)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn drawn(what: &str, groups: &[Group], overall: Option<Correlation>, svg: &mut String) -> Drawn {
    let points = groups.iter().flat_map(|group| &group.layers);
    let most = |values: Vec<f64>| values.into_iter().fold(0f64, f64::max);
    // A little room beyond the last point; all at 0 still needs an axis.
    let end = |largest: f64| if largest > 0.0 { 1.05 * largest } else { 1.0 };
    let x = end(most(points.clone().map(|layer| layer.direction).collect()));
    let y = end(most(points.map(|layer| layer.magnitude).collect()));
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let r = overall.map_or("no correlation".into(), |c| format!("r = {:+.2}", c.r));
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{what}: {r} over all layers"), ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(52)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..x, 0.0..y)?;
    let exponent = |value: &f64| if *value == 0.0 { "0".to_owned() } else { format!("{value:.1e}") };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("ΔD: mean of 1 − cos over output rows")
        .y_desc("ΔM: mean change of the norm of output rows")
        .x_label_formatter(&exponent)
        .y_label_formatter(&exponent)
        .x_labels(8)
        .label_style(("sans-serif", 14))
        .draw()?;
    for (i, group) in groups.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let point = |(x, y): (f64, f64)| Circle::new((x, y), 4, colour.mix(0.8).filled());
        let series = group.layers.iter().map(|layer| point((layer.direction, layer.magnitude)));
        let label = match group.correlation {
            Some(c) => format!("{} (r = {:+.2})", group.projection, c.r),
            None => group.projection.to_owned(),
        };
        let key = move |(x, y)| Circle::new((x + 8, y), 4, colour.filled());
        chart.draw_series(series)?.label(label).legend(key);
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}
