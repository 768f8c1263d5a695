//! The forest plot: a row a name, its difference as a dot, its 95 % interval as a bar, zero as the line that decides.
//! Tasks scored as shares are in points (hundredths); other metrics in per cent of the first model's value.

use hone_eval::ledger::TaskComparison;
use hone_eval::measures::Unit;
use hone_eval::measures::chart::Bar;
use plotters::prelude::*;

use super::plot::{Digits, described, picture};
use super::rows::{Layout, Row, range};
use super::{Chart, NARROW, WIDE, display, failed};
use crate::ReportError;
use crate::theme::{Role, verdict_role};

const NAME: &str = "forest";

/// A difference as the plot sees it.
struct Line {
    name: String,
    middle: f64,
    low: f64,
    high: f64,
    role: Role,
    /// Whether it is drawn larger.
    stands_out: bool,
}

/// Draws the tasks that are shares (`shares`) or those that are not; `None` when there are none.
pub fn of_tasks(tasks: &[&TaskComparison], shares: bool) -> Result<Option<Chart>, ReportError> {
    let lines: Vec<Line> = tasks.iter().filter(|task| task.is_share == shares).map(|task| of_task(task)).collect();
    let below = if shares { "points (tuned − base)" } else { "% of base (tuned − base)" };
    let title = if shares { "Differences by task" } else { "Differences of other metrics by task" };
    draw(&lines, title, below)
}

fn of_task(task: &TaskComparison) -> Line {
    let unit = if task.is_share { 100.0 } else { 100.0 / task.base.abs().max(f64::MIN_POSITIVE) };
    Line {
        name: if task.is_target { format!("{} ◎", task.name) } else { task.name.clone() },
        middle: task.difference * unit,
        low: task.ci_low * unit,
        high: task.ci_high * unit,
        role: verdict_role(&task.verdict),
        stands_out: task.is_target,
    }
}

/// Draws the bars of a measure; `None` when there are none. More need not be better there, so colours only say which intervals
/// leave out 0.
pub fn of_bars(title: &str, x: &str, unit: Unit, bars: &[Bar]) -> Result<Option<Chart>, ReportError> {
    let (factor, word) = display(unit);
    let line = |bar: &Bar| {
        let (low, high) = (bar.low.unwrap_or(bar.value), bar.high.unwrap_or(bar.value));
        let apart = bar.low.is_some() && (low > 0.0 || high < 0.0);
        Line {
            name: bar.name.clone(),
            middle: bar.value * factor,
            low: low * factor,
            high: high * factor,
            role: if apart { Role::Accent } else { Role::Unchanged },
            stands_out: false,
        }
    };
    let lines: Vec<Line> = bars.iter().filter(|bar| bar.value.is_finite()).map(line).collect();
    draw(&lines, title, &super::with_unit(x, word))
}

fn draw(lines: &[Line], title: &str, below: &str) -> Result<Option<Chart>, ReportError> {
    if lines.is_empty() {
        return Ok(None);
    }
    let words = |line: &Line| format!("{} {}", line.name, figures(line, digits(lines)));
    let description = lines.iter().map(words).collect::<Vec<_>>().join("; ");
    let drawn = |width| Ok::<_, ReportError>(described(&svg(lines, width, below)?, title, &description));
    Ok(Some(Chart { wide: drawn(WIDE)?, narrow: drawn(NARROW)?, half: false }))
}

/// Decimals of the figures: one, and more where the numbers are small.
fn digits(lines: &[Line]) -> Digits {
    let largest = lines.iter().flat_map(|line| [line.low.abs(), line.high.abs()]).filter(|v| v.is_finite());
    let largest = largest.fold(0.0, f64::max);
    Digits(match largest {
        small if small > 0.0 && small < 0.2 => 3,
        few if few > 0.0 && few < 2.0 => 2,
        _ => 1,
    })
}

fn figures(line: &Line, digits: Digits) -> String {
    let middle = digits.signed(line.middle);
    match line.low < line.high {
        false => middle,
        true => format!("{middle} [{}, {}]", digits.signed(line.low), digits.signed(line.high)),
    }
}

fn svg(lines: &[Line], width: u32, below: &str) -> Result<String, ReportError> {
    let digits = digits(lines);
    let row = |line: &Line| Row { name: line.name.clone(), figures: figures(line, digits), role: line.role };
    let rows: Vec<Row> = lines.iter().map(row).collect();
    let layout = Layout::new(&rows, width);
    let ends = lines.iter().flat_map(|line| [line.low, line.middle, line.high]).chain([0.0]);
    let (low, high) = range(ends);
    picture(NAME, (width, layout.height()), |area| {
        let ticks = Digits::of(high - low, if width < 500 { 6 } else { 9 });
        let mut plot = layout.axes(area, NAME, (low, high), below, &|value| ticks.signed(value))?;
        let zero = (0..lines.len())
            .map(|i| layout.free(i))
            .map(|(from, to)| PathElement::new(vec![(0.0, from), (0.0, to)], Role::Ink.color().stroke_width(1)));
        plot.draw_series(zero).map_err(failed(NAME))?;
        for (i, line) in lines.iter().enumerate() {
            let (up, color) = (layout.up(i), line.role.color());
            if line.low.is_finite() && line.high.is_finite() {
                let bar = PathElement::new(vec![(line.low, up), (line.high, up)], color.stroke_width(3));
                plot.draw_series([bar]).map_err(failed(NAME))?;
            }
            let size = if line.stands_out { 7 } else { 5 };
            plot.draw_series([Circle::new((line.middle, up), size, color.filled())]).map_err(failed(NAME))?;
        }
        layout.write(area, &plot, NAME, &rows)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_without_ends_is_a_dot() {
        let bar = |name: &str, low: Option<f64>, high: Option<f64>| Bar { name: name.into(), value: 0.1, low, high };
        let bars =
            [bar("one", Some(f64::NAN), Some(f64::NAN)), bar("none", None, None), bar("two", Some(0.05), Some(0.2))];
        let chart = of_bars("Loss", "loss (points)", Unit::Points, &bars).unwrap().unwrap();
        assert!(!chart.wide.contains("NaN") && chart.wide.contains("[+5.0, +20.0]"), "{}", chart.wide);
        assert_eq!(chart.wide.matches('[').count() - chart.wide.matches("<desc>").count(), 1, "one has an interval");
    }
}
