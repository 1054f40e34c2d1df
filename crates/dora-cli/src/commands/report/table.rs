//! Tables, plots and pictures of a page.

use anyhow::Result;
use askama::Template;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::inputs::Picture;

/// A table that may be wider than its page and then scrolls in its box. The first cell of a row is its head.
#[derive(Template)]
#[template(path = "report/table.html")]
pub struct Table {
    pub caption: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<String>>,
}

/// A column.
pub struct Column {
    pub name: String,
    /// Whether it stands on the right.
    pub number: bool,
}

/// A table with a bar in each row, in percent of the width.
pub struct Bars {
    pub caption: String,
    pub columns: Vec<&'static str>,
    pub rows: Vec<BarRow>,
}

/// A row of it.
pub struct BarRow {
    pub cells: Vec<String>,
    pub percent: Option<String>,
}

/// A plot that was drawn for the page.
pub struct Figure {
    /// An element.
    pub svg: String,
    pub caption: String,
}

/// A plot from a file: shown as a picture, in which no script runs and no style leaves.
#[derive(Template)]
#[template(path = "report/picture.html")]
struct PictureView {
    data: String,
    alt: String,
    path: String,
}

impl Column {
    /// Columns of these names, of which those behind the first `words` hold numbers.
    pub fn of<S: Into<String>>(names: impl IntoIterator<Item = S>, words: usize) -> Vec<Column> {
        names.into_iter().enumerate().map(|(i, name)| Column { name: name.into(), number: i >= words }).collect()
    }
}

impl BarRow {
    /// A row whose bar is this share of 1.
    pub fn new(cells: Vec<String>, share: Option<f64>) -> Self {
        BarRow { cells, percent: share.map(|share| format!("{:.1}", 100.0 * share.clamp(0.0, 1.0))) }
    }
}

/// A picture as HTML.
pub fn picture(picture: &Picture) -> Result<String> {
    let path = picture.path.display().to_string();
    let view = PictureView { data: BASE64_STANDARD.encode(&picture.svg), alt: format!("Plot from {path}"), path };
    Ok(view.render()?)
}

/// A figure, or a dash where there is none.
pub fn or_dash(figure: Option<String>) -> String {
    figure.unwrap_or_else(|| "–".into())
}
