//! A value with its interval on each line.

use hone_study::results::{Mark, PlotResult};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::frame::{self, Axis, text_width};
use crate::ReportError;
use crate::charts::{failed, plot as shared};
use crate::theme::Role;

const NAME: &str = "forest";
/// Height of a line, in pixels.
const LINE: i32 = 30;
/// Room above the first line and below the last.
const HEAD: i32 = 52;
const FOOT: i32 = 60;

/// Draws the lines; `None` if no mark has a place.
pub fn draw(plot: &PlotResult) -> Result<Option<String>, ReportError> {
    let ends = |mark: &Mark| [mark.y.value, mark.y.low, mark.y.high].into_iter().flatten().collect::<Vec<_>>();
    let all = plot.marks.iter().flat_map(ends).chain((!plot.y_logarithmic).then_some(0.0));
    let marks: Vec<&Mark> = plot.marks.iter().filter(|mark| mark.y.value.is_some()).collect();
    let (Some(axis), false) = (Axis::of(all, plot.y_logarithmic), marks.is_empty()) else { return Ok(None) };
    let name = |mark: &Mark| format!("{} {}", mark.series, mark.label).trim().to_owned();
    let value = |mark: &Mark| {
        let value = hone_study::page::value(&mark.y);
        if mark.y.low.is_some() { format!("{value} [{}]", hone_study::page::interval(&mark.y)) } else { value }
    };
    let right = marks.iter().map(|mark| text_width(&value(mark), 13)).max().unwrap_or(0) + 24;
    let left = marks.iter().map(|mark| text_width(&name(mark), 14)).max().unwrap_or(0) + 36;
    let count = marks.len() as i32;
    let height = (HEAD + count * LINE + FOOT) as u32;
    let out = shared::picture(NAME, (frame::WIDTH, height), |area| {
        frame::text(area, NAME, &plot.title, (20, 26), (Role::Ink, 19, HPos::Left))?;
        let axes = shared::Axes {
            name: NAME,
            margins: [HEAD, right, 10, left],
            labels: (FOOT - 12, 0),
            range: ((axis.low, axis.high), (0.0, f64::from(count))),
            ticks: (7, 0),
            below: &plot.y_label,
            at: (&|placed| axis.label(placed), &|_| String::new()),
        };
        let mut chart = axes.draw(area)?;
        if axis.place(0.0).is_some_and(|zero| zero > axis.low && zero < axis.high) {
            let line = PathElement::new(vec![(0.0, 0.0), (0.0, f64::from(count))], Role::Ink.color().stroke_width(1));
            chart.draw_series([line]).map_err(failed(NAME))?;
        }
        for (at, mark) in marks.iter().enumerate() {
            let up = f64::from(count) - at as f64 - 0.5;
            let placed = |value: Option<f64>| value.and_then(|value| axis.place(value));
            let color = Role::Accent.color();
            if let (Some(low), Some(high)) = (placed(mark.y.low), placed(mark.y.high)) {
                let bar = PathElement::new(vec![(low, up), (high, up)], color.mix(0.6).stroke_width(3));
                chart.draw_series([bar]).map_err(failed(NAME))?;
            }
            if let Some(value) = placed(mark.y.value) {
                chart.draw_series([Circle::new((value, up), 5, color.filled())]).map_err(failed(NAME))?;
            }
            let (plot_x, plot_y) = chart.plotting_area().get_pixel_range();
            let step = f64::from(plot_y.end - plot_y.start) / f64::from(count);
            let middle = plot_y.start + (step * (at as f64 + 0.5)) as i32;
            frame::text(area, NAME, &name(mark), (plot_x.start - 14, middle), (Role::Ink, 14, HPos::Right))?;
            frame::text(area, NAME, &value(mark), (plot_x.end + 12, middle), (Role::Muted, 13, HPos::Left))?;
        }
        Ok(())
    })?;
    Ok(Some(frame::alone(&out)))
}
