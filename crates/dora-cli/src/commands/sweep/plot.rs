//! Accuracy (where it was measured) and held-out loss against rank, a line an arm, with error bars. Ranks stand at equal
//! distances, and arms a little apart so that their bars do not hide each other.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::arm::Arm;
use super::points::{Figure, Point};
use crate::plot::{Canvas, Drawn, FONT, colour, svg};

/// Size of a panel in pixels; panels stand one above the other, so that a phone shows them with words that can be read.
const PANEL: (u32, u32) = (560, 380);
/// Height of a line of the key below.
const KEY: u32 = 28;
/// Half the width of a bar's ends, in distances of ranks.
const CAP: f64 = 0.025;

/// The plot as an SVG element.
pub fn draw(arms: &[Arm], ranks: &[usize], points: &[Point]) -> Result<String> {
    let answered = points.iter().any(|point| point.accuracy.is_some());
    let panels = if answered { vec![ACCURACY, LOSS] } else { vec![LOSS] };
    let places = key_places(arms);
    let lines = places.last().map_or(0, |(_, line)| line + 1);
    let size = (PANEL.0, PANEL.1 * panels.len() as u32 + KEY * lines);
    let titles: Vec<&str> = panels.iter().map(|panel| panel.title).collect();
    let label = format!("{} against rank", titles.join(" and "));
    svg(size, &label, |root| drawn(root, &panels, arms, ranks, points, &places))
}

/// A panel: its title, what its figures are multiplied by, a figure of a point, and a level to compare with.
#[derive(Clone, Copy)]
struct Panel {
    title: &'static str,
    scale: f64,
    of: fn(&Point) -> Option<Figure>,
    level: fn(&Point) -> Option<f64>,
}

const ACCURACY: Panel =
    Panel { title: "accuracy, %", scale: 100.0, of: |point| point.accuracy, level: |point| point.guessing };
const LOSS: Panel = Panel { title: "held-out loss", scale: 1.0, of: |point| Some(point.loss), level: |_| None };

/// Where each arm's part of the key begins, and in which line.
fn key_places(arms: &[Arm]) -> Vec<(i32, u32)> {
    let (mut x, mut line) = (40, 0);
    let place = |arm: &Arm| {
        let width = 44 + 10 * arm.name.chars().count() as i32;
        if x > 40 && x + width > PANEL.0 as i32 {
            (x, line) = (40, line + 1);
        }
        let place = (x, line);
        x += width;
        place
    };
    arms.iter().map(place).collect()
}

fn drawn(
    root: &Canvas,
    panels: &[Panel],
    arms: &[Arm],
    ranks: &[usize],
    points: &[Point],
    places: &[(i32, u32)],
) -> Drawn {
    let (upper, key) = root.split_vertically(PANEL.1 * panels.len() as u32);
    for (area, part) in upper.split_evenly((panels.len(), 1)).iter().zip(panels) {
        panel(root, area, *part, arms, ranks, points)?;
    }
    for (i, (arm, (x, line))) in arms.iter().zip(places).enumerate() {
        let y = (line * KEY) as i32 + 14;
        key.draw(&Circle::new((*x, y), 5, colour(i).filled()))?;
        key.draw(&Text::new(arm.name.clone(), (x + 12, y - 7), (FONT, 17)))?;
    }
    Ok(())
}

fn panel(root: &Canvas, area: &Canvas, part: Panel, arms: &[Arm], ranks: &[usize], points: &[Point]) -> Drawn {
    let Panel { title, scale, of, level } = part;
    let level = points.iter().find_map(level).map(|level| scale * level);
    let shown = points.iter().filter_map(of).flat_map(ends).map(|y| scale * y).chain(level);
    let (low, high) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    // All alike: still an axis.
    let room = if high > low { 0.08 * (high - low) } else { 0.05 * high.abs().max(1e-6) };
    let (left, right) = (-0.5, ranks.len() as f64 - 0.5);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{title} against rank"), (FONT, 19))
        .margin(12)
        .x_label_area_size(50)
        .y_label_area_size(84)
        .build_cartesian_2d(left..right, low - room..high + room)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(0)
        .y_desc(title)
        .label_style((FONT, 16))
        .draw()?;
    let under = TextStyle::from((FONT, 16)).pos(Pos::new(HPos::Center, VPos::Top));
    let at = |x: f64| chart.plotting_area().map_coordinate(&(x, low - room));
    for (i, rank) in ranks.iter().enumerate() {
        let (x, y) = at(i as f64);
        root.draw(&PathElement::new([(x, y), (x, y + 5)], BLACK))?;
        root.draw(&Text::new(rank.to_string(), (x, y + 8), under.clone()))?;
    }
    let (x, y) = at((left + right) / 2.0);
    root.draw(&Text::new("rank", (x, y + 27), under.clone()))?;
    if let Some(y) = level {
        chart.draw_series([PathElement::new([(left, y), (right, y)], BLACK.mix(0.4))])?;
        let (x, y) = chart.plotting_area().map_coordinate(&(left, y));
        root.draw(&Text::new("guessing", (x + 6, y - 16), (FONT, 15)))?;
    }
    for (i, arm) in arms.iter().enumerate() {
        let apart = 0.08 * (i as f64 - (arms.len() as f64 - 1.0) / 2.0);
        let place = |point: &Point| {
            let x = ranks.iter().position(|rank| *rank == point.rank)? as f64 + apart;
            Some((x, of(point)?))
        };
        let line: Vec<(f64, Figure)> = points.iter().filter(|point| point.arm == arm.name).filter_map(place).collect();
        let style = colour(i).stroke_width(2);
        let at = |(x, figure): &(f64, Figure)| (*x, scale * figure.mean);
        chart.draw_series([PathElement::new(line.iter().map(at).collect::<Vec<_>>(), style)])?;
        chart.draw_series(line.iter().map(|place| Circle::new(at(place), 4, colour(i).filled())))?;
        let bars = line.iter().filter_map(|(x, figure)| Some((*x, figure.interval?)));
        chart.draw_series(bars.flat_map(|(x, interval)| {
            let [low, high] = [interval.low, interval.high].map(|y| scale * y);
            let cap = |y| vec![(x - CAP, y), (x + CAP, y)];
            [vec![(x, low), (x, high)], cap(low), cap(high)].map(|path| PathElement::new(path, colour(i)))
        }))?;
    }
    Ok(())
}

/// Everything that a figure has to show.
fn ends(figure: Figure) -> [f64; 3] {
    let Figure { mean, interval } = figure;
    interval.map_or([mean; 3], |interval| [interval.low, mean, interval.high])
}
