//! What every drawing shares, here and in the pictures of studies: areas, axes, text, and the name a drawing has for those who do
//! not see it.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{failed, pixels};
use crate::ReportError;
use crate::theme::Role;

/// The picture while it is drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A plot with its axes.
pub type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Size of text on axes, in pixels.
pub const SMALL: i32 = 13;
/// Size of names, in pixels.
pub const NAMES: i32 = 14;

/// Where the axes stand, and what is written on them. Lengths are in pixels.
pub struct Axes<'l> {
    /// The chart's name, for errors.
    pub name: &'static str,
    /// Room above the plot, to its right, below its axis labels, to its left.
    pub margins: [i32; 4],
    /// Height of the labels below, width of those on the left (0: none, and no horizontal grid lines).
    pub labels: (i32, i32),
    /// Ends of the axes.
    pub range: ((f64, f64), (f64, f64)),
    /// About so many ticks.
    pub ticks: (usize, usize),
    /// What is written below the horizontal axis.
    pub below: &'l str,
    /// What is written at a place of each axis.
    pub at: (&'l dyn Fn(f64) -> String, &'l dyn Fn(f64) -> String),
}

impl Axes<'_> {
    /// Draws the axes.
    pub fn draw<'a, 'b>(&self, area: &'a Area<'b>) -> Result<Plot<'a, 'b>, ReportError> {
        let [top, right, bottom, left] = self.margins;
        let ((x_low, x_high), (y_low, y_high)) = self.range;
        let (x_at, y_at) = (|value: &f64| (self.at.0)(*value), |value: &f64| (self.at.1)(*value));
        let mut plot = ChartBuilder::on(area)
            .margin_top(top)
            .margin_right(right)
            .margin_bottom(bottom)
            .margin_left(left)
            .x_label_area_size(self.labels.0)
            .y_label_area_size(self.labels.1)
            .build_cartesian_2d(x_low..x_high, y_low..y_high)
            .map_err(failed(self.name))?;
        let label = ("sans-serif", pixels(SMALL)).into_font().color(&Role::Muted.color());
        let mut mesh = plot.configure_mesh();
        mesh.light_line_style(TRANSPARENT)
            .bold_line_style(Role::Grid.color())
            .axis_style(Role::Grid.color())
            .label_style(label.clone())
            .axis_desc_style(label)
            .x_labels(self.ticks.0)
            .y_labels(self.ticks.1)
            .x_desc(self.below)
            .x_label_formatter(&x_at)
            .y_label_formatter(&y_at);
        if self.labels.1 == 0 {
            mesh.disable_y_mesh().disable_y_axis().y_labels(0);
        }
        mesh.draw().map_err(failed(self.name))?;
        Ok(plot)
    }
}

/// A picture of a size, drawn by `draw`.
pub fn picture(
    name: &'static str,
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Result<(), ReportError>,
) -> Result<String, ReportError> {
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(failed(name))?;
    }
    Ok(out)
}

/// A line of text, centred on its height.
pub fn text(
    area: &Area<'_>,
    name: &'static str,
    text: &str,
    at: (i32, i32),
    (role, size, side): (Role, i32, HPos),
) -> Result<(), ReportError> {
    let style = ("sans-serif", pixels(size)).into_font().color(&role.color()).pos(Pos::new(side, VPos::Center));
    area.draw_text(text, &style, at).map_err(failed(name))
}

/// How wide a letter is on average, of its height: in DejaVu Sans, the widest of the usual fonts.
const LETTER: f64 = 0.62;

/// About how wide a text comes out, in pixels; rather too wide.
pub fn text_width(text: &str, size: i32) -> i32 {
    (text.chars().count() as f64 * f64::from(size) * LETTER).ceil() as i32
}

/// A text that is at most about `width` pixels wide: what does not fit is left out of its middle, because names of tasks differ
/// at both ends.
pub fn fitted(text: &str, width: i32, size: i32) -> String {
    if text_width(text, size) <= width {
        return text.to_owned();
    }
    let room = ((f64::from(width) / (f64::from(size) * LETTER)) as usize).saturating_sub(1);
    let characters: Vec<char> = text.chars().collect();
    let (head, tail) = (room.div_ceil(2), room / 2);
    let end = characters.len() - tail.min(characters.len());
    characters[..head.min(characters.len())].iter().chain(&['…']).chain(&characters[end..]).collect()
}

/// Gives a drawing a name and a description for those who do not see it.
pub fn described(svg: &str, title: &str, description: &str) -> String {
    let named = format!("<title>{}</title><desc>{}</desc>", escaped(title), escaped(description));
    match svg.find("<svg").and_then(|open| svg[open..].find('>').map(|end| open + end)) {
        Some(end) => format!("{} role=\"img\">{named}{}", &svg[..end], &svg[end + 1..]),
        None => svg.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// How values are written along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Digits(pub usize);

impl Digits {
    /// As many decimals as it takes to tell ticks of a span apart.
    pub fn of(span: f64, ticks: usize) -> Digits {
        let least = (span / ticks.max(1) as f64).abs();
        if !(least > 0.0 && least.is_finite()) {
            return Digits(0);
        }
        // Ticks stand at the next 1, 2 or 5 times a power of ten.
        let power = least.log10().floor();
        let power = if least > 5.0 * 10f64.powf(power) * (1.0 + 1e-9) { power + 1.0 } else { power };
        Digits((-power).clamp(0.0, 6.0) as usize)
    }

    /// A value.
    pub fn shown(self, value: f64) -> String {
        let text = format!("{value:.*}", self.0);
        // What rounds to nothing has no sign.
        let zero = text.chars().all(|c| matches!(c, '-' | '0' | '.'));
        if zero { text.trim_start_matches('-').to_owned() } else { text.replace('-', "−") }
    }

    /// A value with its sign.
    pub fn signed(self, value: f64) -> String {
        let text = self.shown(value);
        let bare = text.chars().all(|c| matches!(c, '0' | '.'));
        if bare || text.starts_with('−') { text } else { format!("+{text}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_told_apart_and_nothing_has_no_sign() {
        assert_eq!(
            [Digits::of(100.0, 8), Digits::of(3.0, 8), Digits::of(8.0, 9), Digits::of(0.04, 5)],
            [0, 1, 0, 2].map(Digits)
        );
        assert_eq!([Digits(0).signed(-0.2), Digits(1).signed(2.0), Digits(1).signed(-2.0)], ["0", "+2.0", "−2.0"]);
        assert_eq!(Digits::of(0.0, 5), Digits(0));
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(fitted("short", 200, 14), "short");
        let shown = fitted("instructions_of_many_kinds@observed-wording-number-12", 200, 14);
        assert!(shown.starts_with("instruct") && shown.ends_with("-12") && shown.contains('…'), "{shown}");
        assert!(text_width(&shown, 14) <= 208, "{shown}");
        assert_eq!(fitted("abcdef", 1, 14), "…");
    }

    #[test]
    fn a_drawing_says_what_it_is_to_those_who_do_not_see_it() {
        let svg = described("<svg width=\"3\">\n</svg>", "a < b", "two & more");
        let expected = "<svg width=\"3\" role=\"img\"><title>a &lt; b</title><desc>two &amp; more</desc>\n</svg>";
        assert_eq!(svg, expected);
    }
}
