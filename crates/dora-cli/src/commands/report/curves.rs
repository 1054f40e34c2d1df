//! Curves over the steps of runs.

use std::ops::Range;

use anyhow::Result;
use plotters::prelude::*;

use crate::plot::{Canvas, Drawn, FONT, colour, range, svg};

/// Size in pixels: narrow, so that a phone shows it with words that can be read.
const SIZE: (u32, u32) = (440, 290);
/// Most points of a curve; of longer ones neighbours are drawn as their mean.
const MOST: usize = 400;

/// A curve.
pub struct Curve {
    /// Which colour.
    pub colour: usize,
    /// (step, figure).
    pub points: Vec<(f64, f64)>,
    pub style: Style,
}

/// How a curve is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A line in the background.
    Faint,
    Line,
    /// A line with its points.
    Points,
}

/// A plot of curves against steps, where they have any point. With `zero` the axis begins there.
pub fn chart(label: &str, unit: &str, zero: bool, curves: Vec<Curve>) -> Result<Option<String>> {
    let curves: Vec<Curve> = curves.into_iter().map(thinned).collect();
    let points = || curves.iter().flat_map(|curve| &curve.points);
    if points().next().is_none() {
        return Ok(None);
    }
    let last = points().fold(1f64, |last, (step, _)| last.max(*step));
    let y = range(points().map(|(_, y)| *y).chain(zero.then_some(0.0)));
    let y = if zero { 0.0..y.end } else { y };
    Ok(Some(svg(SIZE, label, |root| drawn(root, unit, 0.0..last * 1.02, y, &curves))?))
}

fn drawn(root: &Canvas, unit: &str, x: Range<f64>, y: Range<f64>, curves: &[Curve]) -> Drawn {
    let (steps, figures) = (x.clone(), y.clone());
    let mut chart = ChartBuilder::on(root)
        .margin(8)
        .margin_right(16)
        .x_label_area_size(50)
        .y_label_area_size(76)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .disable_x_mesh()
        .x_desc("step")
        .y_desc(unit)
        .x_label_formatter(&|step| tick(*step, &steps))
        .y_label_formatter(&|figure| tick(*figure, &figures))
        .x_labels(5)
        .y_labels(6)
        .label_style((FONT, 17))
        .draw()?;
    for curve in curves {
        let colour = colour(curve.colour);
        let style = match curve.style {
            Style::Faint => colour.mix(0.4).stroke_width(1),
            Style::Line | Style::Points => colour.stroke_width(2),
        };
        chart.draw_series(LineSeries::new(curve.points.iter().copied(), style))?;
        // A line of one point is invisible.
        if curve.style == Style::Points || curve.points.len() == 1 {
            chart.draw_series(curve.points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
        }
    }
    Ok(())
}

/// A number at an axis, with as many digits as its neighbours need to differ.
fn tick(value: f64, axis: &Range<f64>) -> String {
    let (span, most) = (axis.end - axis.start, axis.start.abs().max(axis.end.abs()));
    // What rounding leaves of a 0 is one.
    if value.abs() < 1e-9 * most {
        return "0".into();
    }
    if !(0.01..1e5).contains(&most) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let digits = (-(span / 8.0).log10()).ceil().clamp(0.0, 6.0) as usize;
    format!("{value:.digits$}")
}

/// Means of neighbours where there are more points than can be seen.
fn thinned(curve: Curve) -> Curve {
    let together = curve.points.len().div_ceil(MOST).max(1);
    Curve { points: curve.points.chunks(together).map(mean).collect(), ..curve }
}

fn mean(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    (sum.0 / n, sum.1 / n)
}

/// Each point's mean with its neighbours, and over how many that is; fewer at the ends.
pub fn smoothed(points: &[(f64, f64)]) -> (Vec<(f64, f64)>, usize) {
    let reach = points.len() / 40;
    let around = |i: usize| {
        let reach = reach.min(i).min(points.len() - 1 - i);
        (points[i].0, mean(&points[i - reach..=i + reach]).1)
    };
    ((0..points.len()).map(around).collect(), 2 * reach + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_have_the_digits_that_they_need() {
        assert_eq!([0.5, 1.0, 1e-17].map(|v| tick(v, &(0.0..2.0))), ["0.5", "1.0", "0"]);
        assert_eq!([100.0, 250.0].map(|v| tick(v, &(0.0..250.0))), ["100", "250"]);
        assert_eq!([2e-4, 1.5e-4].map(|v| tick(v, &(0.0..2e-4))), ["2e-4", "1.5e-4"]);
        assert_eq!(tick(2e6, &(0.0..2e6)), "2e6");
        assert_eq!(tick(1.25, &(1.2..1.3)), "1.25");
    }

    #[test]
    fn long_curves_are_thinned_and_smoothed() {
        let points: Vec<(f64, f64)> = (0..1001).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let curve = thinned(Curve { colour: 0, points: points.clone(), style: Style::Line });
        assert_eq!((curve.points.len(), curve.points[0]), (334, (1.0, 1.0 / 3.0)));
        let (smooth, over) = smoothed(&points);
        assert_eq!((over, smooth.len(), smooth[0], smooth[500].0), (51, 1001, points[0], 500.0));
        assert!((smooth[500].1 - 26.0 / 51.0).abs() < 1e-9);
        assert_eq!(smoothed(&points[..3]).0, points[..3]);
        assert!(smoothed(&[]).0.is_empty());
    }

    #[test]
    fn a_chart_needs_a_point() {
        let curve = |points| Curve { colour: 1, points, style: Style::Faint };
        assert!(chart("none", "loss", false, vec![curve(vec![])]).unwrap().is_none());
        let one = chart("one", "loss", false, vec![curve(vec![(1.0, 2.0)])]).unwrap().unwrap();
        assert!(one.contains("<circle") && !one.contains("NaN"), "{one}");
        let flat = chart("flat", "lr", true, vec![curve(vec![(1.0, 0.0), (2.0, 0.0)])]).unwrap().unwrap();
        assert!(flat.contains("<polyline") && !flat.contains("NaN"), "{flat}");
    }
}
