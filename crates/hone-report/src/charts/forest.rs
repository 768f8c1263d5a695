//! The forest plot: one line a task, its difference as a dot, its 95 % interval as a bar, zero as the line that decides.
//! Tasks scored as shares are in points (hundredths); other metrics in per cent of the first model's value.

use hone_eval::ledger::TaskComparison;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Chart, NARROW, WIDE, failed};
use crate::ReportError;
use crate::theme::{Role, verdict_role};

/// A task as the plot sees it.
struct Row<'a> {
    task: &'a TaskComparison,
    middle: f64,
    low: f64,
    high: f64,
}

/// Draws the tasks that are shares (`shares`) or those that are not; `None` when there are none.
pub fn draw(tasks: &[TaskComparison], shares: bool) -> Result<Option<Chart>, ReportError> {
    let rows: Vec<Row> = tasks.iter().filter(|t| t.is_share == shares).map(row).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(Some(Chart { wide: svg(&rows, WIDE, shares)?, narrow: svg(&rows, NARROW, shares)? }))
}

fn row(task: &TaskComparison) -> Row<'_> {
    let unit = if task.is_share { 100.0 } else { 100.0 / task.base.abs().max(f64::MIN_POSITIVE) };
    Row { task, middle: task.difference * unit, low: task.ci_low * unit, high: task.ci_high * unit }
}

/// The widest span shown, a little beyond the outermost interval, zero always inside.
fn span(rows: &[Row]) -> (f64, f64) {
    let finite = |v: f64| if v.is_finite() { v } else { 0.0 };
    let low = rows.iter().map(|r| finite(r.low).min(finite(r.middle))).fold(0.0, f64::min);
    let high = rows.iter().map(|r| finite(r.high).max(finite(r.middle))).fold(0.0, f64::max);
    let margin = ((high - low) * 0.08).max(0.5);
    (low - margin, high + margin)
}

fn tick(value: f64) -> String {
    if value == 0.0 { "0".into() } else { format!("{value:+.0}").replace('-', "−") }
}

fn svg(rows: &[Row], width: u32, shares: bool) -> Result<String, ReportError> {
    let narrow = width < 500;
    // On a phone the name stands above its bar, on a desktop beside it.
    let longest = rows.iter().map(|r| r.task.name.chars().count()).max().unwrap_or(0) as u32;
    let (row_height, left, right) = if narrow { (50, 10, 10) } else { (36, (longest + 3) * 9 + 16, 160) };
    let height = rows.len() as u32 * row_height + 56;
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, (width, height)).into_drawing_area();
        let (low, high) = span(rows);
        let mut chart = ChartBuilder::on(&area)
            .margin_left(left)
            .margin_right(right)
            .margin_top(8)
            .x_label_area_size(40)
            .build_cartesian_2d(low..high, 0.0..rows.len() as f64)
            .map_err(failed("forest"))?;
        let label = ("sans-serif", super::pixels(13)).into_font().color(&Role::Muted.color());
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .y_labels(0)
            .x_labels(if narrow { 5 } else { 9 })
            .light_line_style(TRANSPARENT)
            .bold_line_style(Role::Grid.color())
            .axis_style(Role::Grid.color())
            .label_style(label.clone())
            .axis_desc_style(label)
            .x_label_formatter(&|v| tick(*v))
            .x_desc(if shares { "points (tuned − base)" } else { "% of base (tuned − base)" })
            .draw()
            .map_err(failed("forest"))?;
        let zero = PathElement::new(vec![(0.0, 0.0), (0.0, rows.len() as f64)], Role::Ink.color().stroke_width(1));
        chart.draw_series([zero]).map_err(failed("forest"))?;
        for (i, r) in rows.iter().enumerate() {
            let y = rows.len() as f64 - i as f64 - if narrow { 0.66 } else { 0.5 };
            let color = verdict_role(&r.task.verdict).color();
            let bar = PathElement::new(vec![(r.low, y), (r.high, y)], color.stroke_width(3));
            chart.draw_series([bar]).map_err(failed("forest"))?;
            let size = if r.task.is_target { 7 } else { 5 };
            chart.draw_series([Circle::new((r.middle, y), size, color.filled())]).map_err(failed("forest"))?;
        }
        let (plot_x, plot_y) = chart.plotting_area().get_pixel_range();
        let step = f64::from(plot_y.end - plot_y.start) / rows.len() as f64;
        for (i, r) in rows.iter().enumerate() {
            let top = f64::from(plot_y.start) + step * i as f64;
            let y = (top + if narrow { step * 0.28 } else { step * 0.5 }) as i32;
            let style = |role: Role, size: i32, h: HPos| {
                ("sans-serif", super::pixels(size)).into_font().color(&role.color()).pos(Pos::new(h, VPos::Center))
            };
            let name = if r.task.is_target { format!("{} ◎", r.task.name) } else { r.task.name.clone() };
            let value = format!("{:+.1} [{:+.1}, {:+.1}]", r.middle, r.low, r.high).replace('-', "−");
            let (name_at, name_side) =
                if narrow { (plot_x.start, HPos::Left) } else { (left as i32 - 14, HPos::Right) };
            area.draw_text(&name, &style(Role::Ink, 14, name_side), (name_at, y)).map_err(failed("forest"))?;
            let (value_at, value_side) = if narrow { (plot_x.end, HPos::Right) } else { (plot_x.end + 12, HPos::Left) };
            let role = verdict_role(&r.task.verdict);
            area.draw_text(&value, &style(role, 13, value_side), (value_at, y)).map_err(failed("forest"))?;
        }
        area.present().map_err(failed("forest"))?;
    }
    Ok(out)
}
