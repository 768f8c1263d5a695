//! What the plots of a study share: the picture's size, its axes, its title, and the style that makes it stand alone. What they
//! share with the charts of a report is in [`crate::charts::plot`].

use plotters::style::text_anchor::HPos;

use crate::ReportError;
use crate::charts::plot;
pub use crate::charts::plot::{Area, Plot as Chart, text, text_width};
use crate::theme::{self, Role};

/// Width of a picture, in pixels.
pub const WIDTH: u32 = 920;
/// Height of the title and the name of the vertical axis, above the plot.
const HEAD: i32 = 74;

/// An axis: what is shown of it, and whether each step along it is ten times the last. A logarithmic one is plotted by the
/// logarithms (base 10) of its values.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// Lower end, as plotted.
    pub low: f64,
    /// Upper end, as plotted.
    pub high: f64,
    /// Whether the ends are logarithms.
    pub logarithmic: bool,
}

impl Axis {
    /// An axis that shows all of `values` with some room; `None` if none of them has a place on it.
    pub fn of(values: impl Iterator<Item = f64>, logarithmic: bool) -> Option<Axis> {
        let empty = Axis { low: f64::INFINITY, high: f64::NEG_INFINITY, logarithmic };
        let seen = values.filter_map(|value| empty.place(value));
        let (low, high) = seen.fold((empty.low, empty.high), |(low, high), v| (low.min(v), high.max(v)));
        let room = if high > low { (high - low) * 0.07 } else { low.abs().max(1.0) * 0.1 };
        (low <= high).then_some(Axis { low: low - room, high: high + room, logarithmic })
    }

    /// Where a value is plotted; `None` if it has no place on the axis.
    pub fn place(&self, value: f64) -> Option<f64> {
        let placed = if self.logarithmic { value.log10() } else { value };
        Some(placed).filter(|v| v.is_finite())
    }

    /// What is written at a place.
    pub fn label(&self, placed: f64) -> String {
        if self.logarithmic {
            return hone_study::page::number(10f64.powf(placed));
        }
        // Ticks are sums of steps, which leave rounding behind.
        let tidy = (placed * 1e9).round() / 1e9;
        hone_study::page::number(if tidy == 0.0 { 0.0 } else { tidy })
    }
}

/// Draws title and axes, then what `inside` draws, and makes the picture stand alone.
pub fn picture(
    (name, title): (&'static str, &str),
    (x_label, y_label): (&str, &str),
    (x, y): (Axis, Axis),
    height: u32,
    inside: impl FnOnce(&Area<'_>, &mut Chart<'_, '_>) -> Result<(), ReportError>,
) -> Result<String, ReportError> {
    let out = plot::picture(name, (WIDTH, height), |area| {
        heading(area, name, title, y_label)?;
        let axes = plot::Axes {
            name,
            margins: [HEAD, 28, 10, 0],
            labels: (48, 64),
            range: ((x.low, x.high), (y.low, y.high)),
            ticks: (9, 8),
            below: x_label,
            at: (&|placed| x.label(placed), &|placed| y.label(placed)),
        };
        let mut chart = axes.draw(area)?;
        inside(area, &mut chart)
    })?;
    Ok(alone(&out))
}

/// The title, and under it what is up: a horizontal line of text reads better than one on its side.
fn heading(area: &Area<'_>, name: &'static str, title: &str, y_label: &str) -> Result<(), ReportError> {
    text(area, name, title, (20, 26), (Role::Ink, 19, HPos::Left))?;
    text(area, name, y_label, (20, 54), (Role::Muted, 13, HPos::Left))
}

/// Colours, fonts and background, so that the picture needs no page around it.
pub fn alone(svg: &str) -> String {
    let style = format!(
        "<style>{}{}svg text{{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif}}\
         .page{{fill:var(--page)}}</style><rect class=\"page\" width=\"100%\" height=\"100%\"/>",
        theme::variables(),
        theme::css()
    );
    match svg.find("<svg").and_then(|open| svg[open..].find('>').map(|end| open + end + 1)) {
        Some(after) => format!("{}{style}{}", &svg[..after], &svg[after..]),
        None => svg.to_owned(),
    }
}
