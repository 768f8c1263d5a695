//! A line for every value of a variable, with its intervals as bars.

use hone_study::results::{Mark, PlotResult};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::frame::{self, Axis};
use crate::ReportError;
use crate::charts::failed;
use crate::theme::Role;

const NAME: &str = "lines";
/// Height of the picture, in pixels.
const HEIGHT: u32 = 480;
/// Roles of the lines, in turn.
const ROLES: [Role; 5] = [Role::Accent, Role::Second, Role::Better, Role::Worse, Role::Unchanged];

/// Draws the lines; `None` if no mark has a place.
pub fn draw(plot: &PlotResult) -> Result<Option<String>, ReportError> {
    let x = Axis::of(plot.marks.iter().filter_map(|mark| mark.x.value), plot.x_logarithmic);
    let ends = |mark: &Mark| [mark.y.value, mark.y.low, mark.y.high].into_iter().flatten().collect::<Vec<_>>();
    let y = Axis::of(plot.marks.iter().flat_map(ends), plot.y_logarithmic);
    let (Some(mut x), Some(y)) = (x, y) else { return Ok(None) };
    // Names stand at the right ends of their lines.
    x.high += (x.high - x.low) * 0.16;
    let mut series: Vec<&str> = Vec::new();
    for mark in &plot.marks {
        if !series.contains(&mark.series.as_str()) {
            series.push(&mark.series);
        }
    }
    let labels = (format!("{} →", plot.x_label), format!("↑ {}", plot.y_label));
    let drawn = frame::picture((NAME, &plot.title), (&labels.0, &labels.1), (x, y), HEIGHT, |area, chart| {
        let mut names: Vec<(i32, i32, &str, Role)> = Vec::new();
        for (name, role) in series.iter().zip(ROLES.iter().cycle()) {
            let place = |mark: &Mark| Some((x.place(mark.x.value?)?, y.place(mark.y.value?)?));
            let marks = || plot.marks.iter().filter(|mark| mark.series == **name);
            let mut points: Vec<(f64, f64)> = marks().filter_map(place).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let color = role.color();
            chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2))).map_err(failed(NAME))?;
            for mark in marks() {
                let bar = mark.y.low.zip(mark.y.high).and_then(|(low, high)| Some((y.place(low)?, y.place(high)?)));
                if let (Some((across, _)), Some((low, high))) = (place(mark), bar) {
                    let bar = PathElement::new(vec![(across, low), (across, high)], color.mix(0.5).stroke_width(2));
                    chart.draw_series([bar]).map_err(failed(NAME))?;
                }
            }
            chart.draw_series(points.iter().map(|p| Circle::new(*p, 4, color.filled()))).map_err(failed(NAME))?;
            if let Some(last) = points.last() {
                let (across, up) = chart.backend_coord(last);
                names.push((across + 10, up, name, *role));
            }
        }
        // Names that would lie on each other move down, from the top.
        names.sort_by_key(|name| name.1);
        let mut lowest = i32::MIN;
        for (across, up, name, role) in names {
            let up = up.max(lowest);
            lowest = up + 17;
            frame::text(area, NAME, name, (across, up), (role, 13, HPos::Left))?;
        }
        Ok(())
    })?;
    Ok(Some(drawn))
}
