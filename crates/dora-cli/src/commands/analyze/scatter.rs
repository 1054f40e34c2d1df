//! The scatter of ΔM against ΔD, a point a layer and a colour a projection, as in the paper's figure 2.

use anyhow::Result;
use dora_adapters::analysis::LayerChange;
use dora_stats::Correlation;
use plotters::prelude::*;

use super::Group;
use crate::plot::{Canvas, Drawn, FONT, colour, file, range, svg};

/// Size of the plot in pixels: narrow, so that a phone shows it with words that can be read.
const SIZE: (u32, u32) = (560, 420);
/// The key below it: columns, and the height of a line.
const KEY: (usize, u32) = (2, 24);

/// The plot as a file of SVG.
pub fn draw(what: &str, groups: &[Group], overall: Option<Correlation>) -> Result<String> {
    let r = overall.map_or("no correlation".into(), |c| format!("r = {:+.2}", c.r));
    let caption = format!("{what}: {r} over all layers");
    let label = format!("Change of magnitude against change of direction, a point a layer. {caption}");
    let size = (SIZE.0, SIZE.1 + KEY.1 * groups.len().div_ceil(KEY.0) as u32 + 8);
    Ok(file(&svg(size, &label, |root| drawn(root, &caption, groups))?))
}

fn drawn(root: &Canvas, caption: &str, groups: &[Group]) -> Drawn {
    let (plot, key) = root.split_vertically(SIZE.1);
    let points = groups.iter().flat_map(|group| &group.layers);
    let x = range(points.clone().map(|layer| layer.direction));
    let y = range(points.map(|layer| layer.magnitude));
    // What rounding leaves of a 0 is one.
    let label = |value: &f64, end: f64| if value.abs() < 1e-9 * end { "0".to_owned() } else { format!("{value:.1e}") };
    let (right, top) = (x.end, y.end);
    let mut chart = ChartBuilder::on(&plot)
        .caption(caption, (FONT, 19))
        .margin(12)
        .x_label_area_size(50)
        .y_label_area_size(84)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("ΔD: mean of 1 − cos over output rows")
        .y_desc("ΔM: mean change of the norm of output rows")
        .x_label_formatter(&|value| label(value, right))
        .y_label_formatter(&|value| label(value, top))
        .x_labels(6)
        .label_style((FONT, 15))
        .draw()?;
    for (i, group) in groups.iter().enumerate() {
        let colour = colour(i);
        let point = |layer: &&LayerChange| Circle::new((layer.direction, layer.magnitude), 4, colour.mix(0.8).filled());
        chart.draw_series(group.layers.iter().map(point))?;
        let label = match group.correlation {
            Some(c) => format!("{} (r = {:+.2})", group.projection, c.r),
            None => group.projection.to_owned(),
        };
        let left = 84 + (i % KEY.0) as i32 * 235;
        let height = 12 + (i / KEY.0) as i32 * KEY.1 as i32;
        key.draw(&Circle::new((left, height), 5, colour.filled()))?;
        key.draw(&Text::new(label, (left + 14, height - 7), (FONT, 16)))?;
    }
    Ok(())
}
