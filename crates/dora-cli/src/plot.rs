//! What all plots share: SVG drawn with plotters whose ink is `currentColor`, so that it follows the text around it in a page,
//! light or dark, and that says in words what it shows.

use anyhow::{Result, anyhow};
use askama::filters::{Escaper, Html};
use plotters::coord::Shift;
use plotters::prelude::*;

/// Font of all texts.
pub const FONT: &str = "sans-serif";
/// Colours that people with defects of colour vision tell apart (Okabe and Ito, 2008; orange and sky blue darkened), each at
/// least 3 : 1 against a white and against a dark page.
pub const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(200, 115, 165),
    RGBColor(195, 130, 0),
    RGBColor(60, 150, 210),
    BLACK,
];

/// What plotters calls black, which stands for the ink.
const INK: &str = "\"#000000\"";

/// Where a plot is drawn.
pub type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// How drawing ends.
pub type Drawn = Result<(), Box<dyn std::error::Error>>;

/// The colour of the i-th series.
pub fn colour(i: usize) -> RGBColor {
    COLOURS[i % COLOURS.len()]
}

/// The same for CSS.
pub fn css_colour(i: usize) -> String {
    match colour(i) {
        BLACK => "currentColor".into(),
        RGBColor(r, g, b) => format!("#{r:02x}{g:02x}{b:02x}"),
    }
}

/// An SVG element of a size in pixels; `label` says what is to be seen.
pub fn svg(size: (u32, u32), label: &str, draw: impl FnOnce(&Canvas) -> Drawn) -> Result<String> {
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
    let drawn = draw(&root).and_then(|()| Ok(root.present()?));
    drop(root);
    drawn.map_err(|e| anyhow!("drawing {label}: {e}"))?;
    let mut said = String::new();
    Html.write_escaped_str(&mut said, label)?;
    let element = format!("<svg role=\"img\" aria-label=\"{said}\"");
    Ok(text.replacen("<svg", &element, 1).replace(INK, "\"currentColor\""))
}

/// An SVG element as a file of its own, which brings ink and paper.
pub fn file(element: &str) -> String {
    const STYLE: &str = "<style>svg{color:#1c1e21;background:#fff}\
                         @media(prefers-color-scheme:dark){svg{color:#e4e6e8;background:#15171a}}</style>";
    let (head, rest) = element.split_once('>').expect("an element begins with a tag");
    format!("{head}>{STYLE}{rest}")
}

/// From the least to the largest of the values, and a twentieth more at both ends.
pub fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    // None, or all alike: still an axis.
    let (low, high) = if low <= high { (low, high) } else { (0.0, 0.0) };
    let room = if high > low { 0.05 * (high - low) } else { high.abs().max(1e-12) };
    low - room..high + room
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance of sRGB (WCAG 2).
    fn luminance(RGBColor(r, g, b): RGBColor) -> f64 {
        let linear = |c: u8| {
            let c = f64::from(c) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
    }

    #[test]
    fn colours_show_on_light_and_on_dark() {
        for colour in COLOURS.into_iter().filter(|colour| *colour != BLACK) {
            for paper in [WHITE, RGBColor(0x15, 0x17, 0x1a), RGBColor(0x1f, 0x22, 0x26)] {
                let (a, b) = (luminance(colour) + 0.05, luminance(paper) + 0.05);
                assert!(a.max(b) / a.min(b) >= 3.0, "{colour:?} on {paper:?}: {:.2}", a.max(b) / a.min(b));
            }
        }
    }

    #[test]
    fn labels_are_escaped_and_ink_follows_the_page() {
        let draw = |root: &Canvas| Ok(root.draw(&Text::new("<b>&", (5, 5), (FONT, 12).into_font().color(&BLACK)))?);
        let element = svg((20, 20), "a \"<script>\" & more", draw).unwrap();
        assert!(!element.contains("<script>") && !element.contains("<b>") && !element.contains(INK), "{element}");
        assert!(element.starts_with("<svg role=\"img\" aria-label=\"a &#34;&#60;script&#62;&#34; &#38; more\" width"));
        assert!(element.contains("fill=\"currentColor\"") && file(&element).contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn an_axis_for_any_values() {
        assert_eq!(range([1.0, 3.0].into_iter()), 0.9..3.1);
        assert_eq!(range([2.0, 2.0].into_iter()), 0.0..4.0);
        for none in [vec![], vec![0.0]] {
            let axis = range(none.into_iter());
            assert!(axis.start < axis.end && axis.end < 1.0);
        }
        assert_eq!((css_colour(7), css_colour(6)), ("#0072b2".into(), "currentColor".into()));
    }
}
