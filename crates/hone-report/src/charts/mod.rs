//! Plots, each drawn twice: wide for a desktop and narrow for a phone, so that text keeps its size. The page shows the one
//! that fits.
//!
//! | kind | room |
//! |---|---|
//! | differences with intervals around zero | [`forest`] |
//! | curves over an axis | [`lines`] |
//! | values in groups | [`spread`] |
//! | maps of numbers | [`heat`] |
//! | training and validation loss | [`loss`] |
//!
//! Rows with names share [`rows`]; all share [`plot`], and so do the pictures of studies.

pub mod forest;
pub mod heat;
pub mod lines;
pub mod loss;
pub mod plot;
pub mod rows;
pub mod spread;

use hone_eval::measures::Unit;
use hone_eval::measures::chart::{ChartData, Drawing};

use crate::ReportError;

/// One plot in both widths, as SVG.
pub struct Chart {
    /// For pages at least 700 pixels wide.
    pub wide: String,
    /// For phones.
    pub narrow: String,
    /// Whether two of it stand side by side on a desktop.
    pub half: bool,
}

/// Widths the plots are drawn at, in pixels.
pub const WIDE: u32 = 920;
/// Of plots that stand side by side.
pub const HALF: u32 = 448;
/// See [`WIDE`].
pub const NARROW: u32 = 344;

/// Draws what a measure wants drawn; `None` where there is nothing to see.
pub fn draw(data: &ChartData) -> Result<Option<Chart>, ReportError> {
    let title = &data.title;
    match &data.drawing {
        Drawing::Lines { x, y, unit, diagonal, series } => lines::draw(title, (x, y), *unit, *diagonal, series),
        Drawing::Spread { y, unit, groups } => spread::draw(title, y, *unit, groups),
        Drawing::Heat { row, column, unit, maps } => heat::draw(title, (row, column), *unit, maps),
        Drawing::Forest { x, unit, bars } => forest::of_bars(title, x, *unit, bars),
    }
}

/// How a drawing is read, in a line.
pub fn how_to_read(drawing: &Drawing) -> &'static str {
    match drawing {
        Drawing::Lines { diagonal: true, .. } => {
            "On the straight line confidence is as high as accuracy; below it the model is too sure. Bars: 95 % intervals."
        }
        Drawing::Lines { series, .. } if series.iter().flat_map(|s| &s.points).any(|p| p.low.is_some()) => {
            "Bars: 95 % intervals."
        }
        Drawing::Lines { .. } => "",
        Drawing::Spread { .. } => {
            "Each dot is a value, the line their mean; at the right the mean, then lowest and highest."
        }
        Drawing::Heat { .. } => "The stronger the colour the more, on one scale for all maps.",
        Drawing::Forest { .. } => "Dot: value. Bar: 95 % interval; grey where it touches zero.",
    }
}

/// What a value is multiplied by where it is shown, and its unit's word.
pub fn display(unit: Unit) -> (f64, &'static str) {
    match unit {
        Unit::Share => (100.0, "%"),
        Unit::Points => (100.0, "points"),
        Unit::Count | Unit::Plain => (1.0, ""),
    }
}

/// What an axis counts, with its unit unless it names it already.
pub fn with_unit(label: &str, word: &str) -> String {
    if word.is_empty() || label.contains(word) { label.to_owned() } else { format!("{label} ({word})") }
}

/// The font size that comes out as `size` pixels: the SVG backend divides what it is given by 1.24.
pub fn pixels(size: i32) -> f64 {
    f64::from(size) * 1.24
}

/// Names the plot that could not be drawn.
pub fn failed<E: std::fmt::Display>(chart: &'static str) -> impl Fn(E) -> ReportError {
    move |error| ReportError::Plot { chart, reason: error.to_string() }
}
