//! Curves over a common axis, with their intervals as bars: faithfulness over the share of the reasoning that is kept, accuracy
//! over confidence (a reliability diagram, with the line from corner to corner).
//!
//! Names stand above the plot, each beside a stroke of its curve's colour, on as many lines as they need.

use hone_eval::measures::Unit;
use hone_eval::measures::chart::{Point, Series};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::plot::{Area, Axes, Digits, Plot, SMALL, described, fitted, picture, text, text_width};
use super::rows::range;
use super::{Chart, HALF, NARROW, WIDE, display, failed, with_unit};
use crate::ReportError;
use crate::theme::Role;

const NAME: &str = "lines";
/// Height of a line of names.
const LINE: i32 = 21;
/// Length of a curve's stroke beside its name.
const STROKE: i32 = 18;
/// How far curves stand apart where they share a place on the axis and have intervals, in pixels.
const APART: i32 = 4;
/// Points of a curve that are dots; of more the line is enough.
const MOST_DOTS: usize = 15;

/// A curve as it is drawn.
struct Curve<'a> {
    name: &'a str,
    role: Role,
    points: Vec<Point>,
}

/// Draws the curves; `None` if none has a point.
pub fn draw(
    title: &str,
    (x, y): (&str, &str),
    unit: Unit,
    diagonal: bool,
    series: &[Series],
) -> Result<Option<Chart>, ReportError> {
    let (factor, word) = display(unit);
    // From corner to corner both axes count the same.
    let across = if diagonal { factor } else { 1.0 };
    let scaled = |point: &Point| Point {
        x: point.x * across,
        y: point.y * factor,
        low: point.low.filter(|low| low.is_finite()).map(|low| low * factor),
        high: point.high.filter(|high| high.is_finite()).map(|high| high * factor),
    };
    let placed = |series: &Series| {
        let finite = |point: &&Point| point.x.is_finite() && point.y.is_finite();
        let mut points: Vec<Point> = series.points.iter().filter(finite).map(scaled).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        points
    };
    let roles = Role::SERIES.iter().copied().cycle();
    let curves: Vec<Curve<'_>> = series
        .iter()
        .zip(roles)
        .map(|(series, role)| Curve { name: &series.name, role, points: placed(series) })
        .filter(|curve| !curve.points.is_empty())
        .collect();
    if curves.is_empty() {
        return Ok(None);
    }
    let labels = (with_unit(x, if diagonal { word } else { "" }), with_unit(y, word));
    let ends = if diagonal { Some(factor) } else { None };
    let description = describe(&curves, &labels);
    let drawn = |width| {
        let svg = svg(&curves, (&labels.0, &labels.1), ends, width)?;
        Ok::<_, ReportError>(described(&svg, title, &description))
    };
    let wide = if diagonal { HALF } else { WIDE };
    Ok(Some(Chart { wide: drawn(wide)?, narrow: drawn(NARROW)?, half: diagonal }))
}

/// The curves in words: where each begins and ends.
fn describe(curves: &[Curve<'_>], (x, y): &(String, String)) -> String {
    let of = |curve: &Curve<'_>| {
        let (first, last) = (curve.points.first(), curve.points.last());
        let place = |point: Option<&Point>| point.map_or_else(String::new, |p| format!("{:.2} at {:.2}", p.y, p.x));
        format!("{}: from {} to {}", curve.name, place(first), place(last))
    };
    format!("{y} over {x}. {}", curves.iter().map(of).collect::<Vec<_>>().join("; "))
}

fn svg(
    curves: &[Curve<'_>],
    (x_label, y_label): (&str, &str),
    corner: Option<f64>,
    width: u32,
) -> Result<String, ReportError> {
    let legend = legend(curves, width as i32);
    let lines = legend.last().map_or(0, |(_, line, _)| line + 1);
    let head = 16 + LINE * (lines + 1);
    let height = head + if width == WIDE { 330 } else { 300 };
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let heights = points().flat_map(|p| [Some(p.y), p.low, p.high]).flatten();
    let (x, y) = match corner {
        // Probabilities have a place on the whole square.
        Some(end) => ((0.0, end), (0.0, end)),
        None => (range(points().map(|p| p.x)), range(heights)),
    };
    let ticks = if width < 500 { (6, 6) } else { (9, 7) };
    let (x_digits, y_digits) = (Digits::of(x.1 - x.0, ticks.0), Digits::of(y.1 - y.0, ticks.1));
    let widest = [y.0, y.1].map(|end| text_width(&y_digits.shown(end), SMALL)).into_iter().max().unwrap_or(0);
    picture(NAME, (width, height as u32), |area| {
        text(area, NAME, &format!("↑ {y_label}"), (4, 12), (Role::Muted, SMALL, HPos::Left))?;
        write_legend(area, &legend, curves)?;
        let axes = Axes {
            name: NAME,
            margins: [head, 14, 2, 0],
            labels: (44, widest + 16),
            range: (x, y),
            ticks,
            below: &format!("{x_label} →"),
            at: (&|value| x_digits.shown(value), &|value| y_digits.shown(value)),
        };
        let mut plot = axes.draw(area)?;
        if let Some(end) = corner {
            let line = PathElement::new(vec![(0.0, 0.0), (end, end)], Role::Muted.color().mix(0.7).stroke_width(1));
            plot.draw_series([line]).map_err(failed(NAME))?;
        }
        let (pixels, _) = plot.plotting_area().get_pixel_range();
        let pixel = (x.1 - x.0) / f64::from((pixels.end - pixels.start).max(1));
        let with_bars = points().any(|point| point.low.is_some());
        for (i, curve) in curves.iter().enumerate() {
            // Bars at the same place would hide each other.
            let aside = if with_bars { f64::from(2 * i as i32 - curves.len() as i32 + 1) / 2.0 } else { 0.0 };
            draw_curve(&mut plot, curve, aside * f64::from(APART) * pixel)?;
        }
        Ok(())
    })
}

fn draw_curve(plot: &mut Plot<'_, '_>, curve: &Curve<'_>, aside: f64) -> Result<(), ReportError> {
    let color = curve.role.color();
    for point in &curve.points {
        if let (Some(low), Some(high)) = (point.low, point.high) {
            let across = point.x + aside;
            let bar = PathElement::new(vec![(across, low), (across, high)], color.mix(0.45).stroke_width(2));
            plot.draw_series([bar]).map_err(failed(NAME))?;
        }
    }
    let through: Vec<(f64, f64)> = curve.points.iter().map(|point| (point.x + aside, point.y)).collect();
    plot.draw_series(LineSeries::new(through.iter().copied(), color.stroke_width(2))).map_err(failed(NAME))?;
    if through.len() <= MOST_DOTS {
        plot.draw_series(through.iter().map(|point| Circle::new(*point, 4, color.filled()))).map_err(failed(NAME))?;
    }
    Ok(())
}

/// Where each curve's name stands: pixels from the left, line, and the name as it fits.
fn legend(curves: &[Curve<'_>], width: i32) -> Vec<(i32, i32, String)> {
    let (mut left, mut line) = (4, 0);
    let mut places = Vec::new();
    for curve in curves {
        let name = fitted(curve.name, width - STROKE - 24, SMALL);
        let needed = STROKE + 8 + text_width(&name, SMALL) + 20;
        if left > 4 && left + needed > width {
            (left, line) = (4, line + 1);
        }
        places.push((left, line, name));
        left += needed;
    }
    places
}

fn write_legend(area: &Area<'_>, legend: &[(i32, i32, String)], curves: &[Curve<'_>]) -> Result<(), ReportError> {
    for ((left, line, name), curve) in legend.iter().zip(curves) {
        let middle = 12 + LINE * (line + 1);
        let stroke =
            PathElement::new(vec![(*left, middle), (left + STROKE, middle)], curve.role.color().stroke_width(3));
        area.draw(&stroke).map_err(failed(NAME))?;
        let dot = Circle::new((left + STROKE / 2, middle), 4, curve.role.color().filled());
        area.draw(&dot).map_err(failed(NAME))?;
        text(area, NAME, name, (left + STROKE + 8, middle), (Role::Ink, SMALL, HPos::Left))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        let point = |&(x, y): &(f64, f64)| Point { x, y, low: Some(y - 0.1), high: Some(y + 0.1) };
        Series { name: name.into(), points: points.iter().map(point).collect() }
    }

    #[test]
    fn curves_are_drawn_with_their_names_and_without_what_is_no_number() {
        let mut first = series("a & b", &[(0.0, 0.2), (0.5, f64::NAN), (1.0, 0.8)]);
        // A single example has no interval.
        (first.points[0].low, first.points[0].high) = (Some(f64::NAN), Some(f64::NAN));
        let all = [first, series("empty", &[])];
        let chart = draw("Kept", ("kept", "right"), Unit::Share, false, &all).unwrap().unwrap();
        for svg in [&chart.wide, &chart.narrow] {
            assert!(svg.contains("a &amp; b") && !svg.contains("empty") && svg.contains("↑ right (%)"), "{svg}");
            assert!(!svg.contains("NaN"), "{svg}");
            // Two points and the one in the legend.
            assert_eq!(svg.matches("<circle").count(), 3);
        }
        assert!(draw("None", ("x", "y"), Unit::Plain, false, &[series("empty", &[])]).unwrap().is_none());
    }

    #[test]
    fn a_curve_of_many_points_is_a_line() {
        let points: Vec<(f64, f64)> = (0..40).map(|i| (f64::from(i) / 40.0, f64::from(i % 7) / 7.0)).collect();
        let chart = draw("Survival", ("t", "above"), Unit::Share, false, &[series("all", &points)]).unwrap().unwrap();
        // The one beside its name.
        assert_eq!(chart.wide.matches("<circle").count(), 1);
        assert!(chart.wide.contains("<polyline"), "{}", chart.wide);
    }

    #[test]
    fn names_go_to_the_next_line_before_they_leave_the_picture() {
        let long = "a name of some length that takes room";
        let curves: Vec<Curve<'_>> =
            (0..4).map(|_| Curve { name: long, role: Role::Accent, points: Vec::new() }).collect();
        for (left, _, name) in legend(&curves, NARROW as i32) {
            assert!(left + STROKE + 8 + text_width(&name, SMALL) <= NARROW as i32, "{left} {name}");
        }
        assert_eq!(legend(&curves, NARROW as i32).last().map(|place| place.1), Some(3));
    }
}
