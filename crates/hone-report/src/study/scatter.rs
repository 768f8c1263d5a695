//! Points in two dimensions. Where one corner is best, the Pareto front is drawn: the points that no other one beats on both
//! axes, and the line that bounds what has been reached. Points of one series are joined, and every point says its name.

use hone_study::results::{Mark, PlotResult};
use hone_study::study::Front;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::frame::{self, Axis, text_width};
use crate::ReportError;
use crate::charts::failed;
use crate::theme::Role;

const NAME: &str = "scatter";
/// Height of the picture, in pixels.
const HEIGHT: u32 = 660;
/// Size of the names, in pixels.
const LETTERS: i32 = 13;

/// A mark that has a place.
struct Point<'a> {
    mark: &'a Mark,
    x: f64,
    y: f64,
    /// Whether no other point is at least as good on both axes and better on one.
    best: bool,
}

/// Draws the points; `None` if none has a place.
pub fn draw(plot: &PlotResult) -> Result<Option<String>, ReportError> {
    let values = |of: fn(&Mark) -> Option<f64>| plot.marks.iter().filter_map(of);
    let x = Axis::of(values(|mark| mark.x.value), plot.x_logarithmic);
    let y = Axis::of(values(|mark| mark.y.value), plot.y_logarithmic);
    let (Some(x), Some(y)) = (x, y) else { return Ok(None) };
    let mut points: Vec<Point> = plot
        .marks
        .iter()
        .filter_map(|mark| Some(Point { mark, x: x.place(mark.x.value?)?, y: y.place(mark.y.value?)?, best: false }))
        .collect();
    if points.is_empty() {
        return Ok(None);
    }
    if let Some(front) = plot.front {
        let places: Vec<(f64, f64)> = points.iter().map(|p| (p.x, p.y)).collect();
        points.iter_mut().zip(undominated(&places, front)).for_each(|(point, best)| point.best = best);
    }
    let better = match plot.front {
        Some(Front::UpperLeft) => "   ↖ better",
        Some(Front::UpperRight) => "   ↗ better",
        None => "",
    };
    let y_label = format!("↑ {}{better}", plot.y_label);
    let x_label = format!("{} →", plot.x_label);
    let drawn = frame::picture((NAME, &plot.title), (&x_label, &y_label), (x, y), HEIGHT, |area, chart| {
        origin(chart, (x, y))?;
        let stairs = plot.front.map(|front| stairs(&points, front, (x, y))).unwrap_or_default();
        boundary(chart, &stairs, y)?;
        joined(chart, &points)?;
        for point in &points {
            let (role, size) = if point.best { (Role::Accent, 7) } else { (Role::Unchanged, 5) };
            let dot = Circle::new((point.x, point.y), size, role.color().filled());
            chart.draw_series([dot]).map_err(failed(NAME))?;
        }
        let places: Vec<(i32, i32)> = points.iter().map(|point| chart.backend_coord(&(point.x, point.y))).collect();
        let (across, up) = chart.plotting_area().get_pixel_range();
        let names: Vec<String> = points.iter().map(|point| name(point.mark)).collect();
        let mut taken: Vec<Rectangle> = places.iter().map(|(x, y)| (x - 7, y - 7, x + 7, y + 7)).collect();
        let corners: Vec<(i32, i32)> = stairs.iter().map(|corner| chart.backend_coord(corner)).collect();
        taken.extend(corners.windows(2).map(|ends| line(ends[0], ends[1])));
        for ((point, name), label) in points.iter().zip(&names).zip(place_names(&names, &places, taken, (across, up))) {
            let role = if point.best { Role::Ink } else { Role::Muted };
            frame::text(area, NAME, name, label, (role, LETTERS, HPos::Left))?;
        }
        Ok(())
    })?;
    Ok(Some(drawn))
}

fn name(mark: &Mark) -> String {
    if mark.label.is_empty() { mark.series.clone() } else { format!("{} {}", mark.series, mark.label) }
}

/// For each point, whether no other one beats it.
fn undominated(points: &[(f64, f64)], front: Front) -> Vec<bool> {
    let sign = if front == Front::UpperLeft { -1.0 } else { 1.0 };
    let beats = |a: &(f64, f64), b: &(f64, f64)| {
        let (across, up) = (sign * (a.0 - b.0), a.1 - b.1);
        across >= 0.0 && up >= 0.0 && (across > 0.0 || up > 0.0)
    };
    points.iter().map(|point| !points.iter().any(|other| beats(other, point))).collect()
}

/// The lines of no change, where they are in the picture.
fn origin(chart: &mut frame::Chart<'_, '_>, (x, y): (Axis, Axis)) -> Result<(), ReportError> {
    let inside = |axis: Axis| !axis.logarithmic && axis.low < 0.0 && axis.high > 0.0;
    let style = Role::Muted.color().stroke_width(1);
    if inside(x) {
        chart.draw_series([PathElement::new(vec![(0.0, y.low), (0.0, y.high)], style)]).map_err(failed(NAME))?;
    }
    if inside(y) {
        chart.draw_series([PathElement::new(vec![(x.low, 0.0), (x.high, 0.0)], style)]).map_err(failed(NAME))?;
    }
    Ok(())
}

/// The corners of the staircase through the best points: what has been reached lies behind it.
fn stairs(points: &[Point<'_>], front: Front, (x, y): (Axis, Axis)) -> Vec<(f64, f64)> {
    let mut best: Vec<(f64, f64)> = points.iter().filter(|p| p.best).map(|p| (p.x, p.y)).collect();
    // From the lowest point to the highest: the way in which each step is up and then across.
    best.sort_by(|a, b| a.1.total_cmp(&b.1));
    let worst = if front == Front::UpperLeft { x.high } else { x.low };
    let mut stairs = vec![(best.first().map_or(worst, |p| p.0), y.low)];
    for (at, point) in best.iter().enumerate() {
        stairs.push(*point);
        stairs.push((best.get(at + 1).map_or(worst, |p| p.0), point.1));
    }
    stairs
}

/// The staircase, and a tint over what lies behind it.
fn boundary(chart: &mut frame::Chart<'_, '_>, stairs: &[(f64, f64)], y: Axis) -> Result<(), ReportError> {
    let Some(last) = stairs.last() else { return Ok(()) };
    let tint: Vec<(f64, f64)> = stairs.iter().copied().chain([(last.0, y.low)]).collect();
    let accent = Role::Accent.color();
    chart.draw_series([Polygon::new(tint, accent.mix(0.07).filled())]).map_err(failed(NAME))?;
    let edge = PathElement::new(stairs.to_vec(), accent.mix(0.8).stroke_width(2));
    chart.draw_series([edge]).map_err(failed(NAME))?;
    Ok(())
}

/// A thin line through the points of each series.
fn joined(chart: &mut frame::Chart<'_, '_>, points: &[Point<'_>]) -> Result<(), ReportError> {
    let mut series: Vec<&str> = points.iter().map(|point| point.mark.series.as_str()).collect();
    series.dedup();
    for name in series {
        let through: Vec<(f64, f64)> =
            points.iter().filter(|point| point.mark.series == name).map(|point| (point.x, point.y)).collect();
        if through.len() > 1 {
            let line = PathElement::new(through, Role::Unchanged.color().mix(0.45).stroke_width(1));
            chart.draw_series([line]).map_err(failed(NAME))?;
        }
    }
    Ok(())
}

/// A rectangle of pixels: left, top, right, bottom.
type Rectangle = (i32, i32, i32, i32);

/// The pixels of a straight line along an axis.
fn line(a: (i32, i32), b: (i32, i32)) -> Rectangle {
    (a.0.min(b.0) - 2, a.1.min(b.1) - 2, a.0.max(b.0) + 2, a.1.max(b.1) + 2)
}

fn overlap(a: Rectangle, b: Rectangle) -> i32 {
    (a.2.min(b.2) - a.0.max(b.0)).max(0) * (a.3.min(b.3) - a.1.max(b.1)).max(0)
}

/// Where the names go, left end and middle: of the places around a point, the one that covers least of what is `taken`, of
/// names already placed, and of what is outside.
fn place_names(
    names: &[String],
    points: &[(i32, i32)],
    mut taken: Vec<Rectangle>,
    (across, up): (std::ops::Range<i32>, std::ops::Range<i32>),
) -> Vec<(i32, i32)> {
    const ALL: i32 = 1_000;
    let mut placed = Vec::new();
    for (name, &(x, y)) in names.iter().zip(points) {
        let width = text_width(name, LETTERS);
        let (right, left, centre) = (x + 11, x - 11 - width, x - width / 2);
        let near = [
            (right, y),
            (left, y),
            (centre, y - 16),
            (centre, y + 16),
            (right, y - 12),
            (right, y + 12),
            (left, y - 12),
            (left, y + 12),
        ];
        let far =
            [(right, y - 24), (right, y + 24), (left, y - 24), (left, y + 24), (centre, y - 30), (centre, y + 30)];
        let cover = |&(left, middle): &(i32, i32)| -> Rectangle { (left, middle - 8, left + width, middle + 8) };
        let cost = |place: &(i32, i32)| {
            let own = cover(place);
            let outside = own.0 < across.start || own.2 > across.end || own.1 < up.start || own.3 > up.end;
            taken.iter().map(|other| overlap(own, *other)).sum::<i32>() + if outside { ALL } else { 0 }
        };
        let best = near.iter().chain(&far).min_by_key(|place| cost(place)).copied().unwrap_or((right, y));
        taken.push(cover(&best));
        placed.push(best);
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_nothing_beats() {
        let points = [(1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (1.0, 1.0), (0.5, 0.0)];
        assert_eq!(undominated(&points, Front::UpperLeft), [true, true, false, true, true]);
        assert_eq!(undominated(&points, Front::UpperRight), [false, true, true, false, false]);
    }

    #[test]
    fn names_of_neighbours_do_not_cover_each_other() {
        let names: Vec<String> = ["lora 1e-4", "dora 1e-4", "vera 1e-4"].map(str::to_owned).into();
        let points = [(200, 200), (204, 203), (199, 206)];
        // A line through the place a name would like best.
        let edge = line((150, 200), (500, 200));
        let placed = place_names(&names, &points, vec![edge], (0..600, 0..400));
        let cover = |i: usize| {
            let (x, y) = placed[i];
            (x, y - 8, x + text_width(&names[i], LETTERS), y + 8)
        };
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            assert_eq!(overlap(cover(a), cover(b)), 0, "{placed:?}");
            assert_eq!(overlap(cover(a), edge) + overlap(cover(b), edge), 0, "{placed:?}");
        }
    }
}
