//! What all plots share: the font, and colours.

use plotters::style::RGBColor;

/// The font.
pub const FONT: &str = "sans-serif";

/// Colours that people with defects of colour vision tell apart (Okabe and Ito, 2008).
pub const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// What drawing gives.
pub type Drawn = Result<(), Box<dyn std::error::Error>>;
