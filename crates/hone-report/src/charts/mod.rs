//! Plots, each drawn twice: wide for a desktop and narrow for a phone, so that text keeps its size. The page shows the one
//! that fits.

pub mod forest;
pub mod loss;

use crate::ReportError;

/// One plot in both widths, as SVG.
pub struct Chart {
    /// For pages at least 700 pixels wide.
    pub wide: String,
    /// For phones.
    pub narrow: String,
}

/// Widths the plots are drawn at, in pixels.
pub const WIDE: u32 = 920;
/// See [`WIDE`].
pub const NARROW: u32 = 344;

/// The font size that comes out as `size` pixels: the SVG backend divides what it is given by 1.24.
pub fn pixels(size: i32) -> f64 {
    f64::from(size) * 1.24
}

/// Names the plot that could not be drawn.
pub fn failed<E: std::fmt::Display>(chart: &'static str) -> impl Fn(E) -> ReportError {
    move |error| ReportError::Plot { chart, reason: error.to_string() }
}
