//! Values in groups, each a dot, their mean a line, from lowest to highest a band: how far one task's score spreads over
//! wordings.

use hone_eval::measures::Unit;
use hone_eval::measures::chart::Group;
use plotters::prelude::*;

use super::plot::{Digits, described, picture};
use super::rows::{Layout, Row, range};
use super::{Chart, NARROW, WIDE, display, failed, with_unit};
use crate::ReportError;
use crate::theme::Role;

const NAME: &str = "spread";
/// Half the height of the mean's line, in rows.
const MEAN: f64 = 0.24;

/// A group as it is drawn.
struct Values<'a> {
    name: &'a str,
    values: Vec<f64>,
    mean: f64,
    low: f64,
    high: f64,
}

/// Draws the groups; `None` if none has a value.
pub fn draw(title: &str, y: &str, unit: Unit, groups: &[Group]) -> Result<Option<Chart>, ReportError> {
    let (factor, word) = display(unit);
    let mut drawn: Vec<Values<'_>> = Vec::new();
    for group in groups {
        let values: Vec<f64> = group.values.iter().map(|(_, v)| v * factor).filter(|v| v.is_finite()).collect();
        if values.is_empty() {
            continue;
        }
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        drawn.push(Values {
            name: &group.name,
            mean: values.iter().sum::<f64>() / values.len() as f64,
            low,
            high,
            values,
        });
    }
    if drawn.is_empty() {
        return Ok(None);
    }
    let below = with_unit(&y.replace('_', " "), word);
    let words = |group: &Values<'_>| format!("{} {}", group.name, figures(group, digits(&drawn)));
    let description = drawn.iter().map(words).collect::<Vec<_>>().join("; ");
    let svg = |width| Ok::<_, ReportError>(described(&svg(&drawn, &below, width)?, title, &description));
    Ok(Some(Chart { wide: svg(WIDE)?, narrow: svg(NARROW)?, half: false }))
}

fn digits(groups: &[Values<'_>]) -> Digits {
    let largest = groups.iter().map(|group| group.high.abs().max(group.low.abs())).fold(0.0, f64::max);
    Digits(if largest < 1.0 { 3 } else { 1 })
}

fn figures(group: &Values<'_>, digits: Digits) -> String {
    let [mean, low, high] = [group.mean, group.low, group.high].map(|value| digits.shown(value));
    if group.values.len() > 1 { format!("{mean} ({low} to {high})") } else { mean }
}

fn svg(groups: &[Values<'_>], below: &str, width: u32) -> Result<String, ReportError> {
    let digits = digits(groups);
    let row = |group: &Values<'_>| Row { name: group.name.into(), figures: figures(group, digits), role: Role::Muted };
    let rows: Vec<Row> = groups.iter().map(row).collect();
    let layout = Layout::new(&rows, width);
    let (low, high) = range(groups.iter().flat_map(|group| [group.low, group.high]));
    picture(NAME, (width, layout.height()), |area| {
        let ticks = Digits::of(high - low, if width < 500 { 6 } else { 9 });
        let mut plot = layout.axes(area, NAME, (low, high), below, &|value| ticks.shown(value))?;
        // In pairs, as before and after of one set of wordings come.
        for (i, group) in groups.iter().enumerate() {
            let (up, color) = (layout.up(i), Role::SERIES[i % 2].color());
            let band = PathElement::new(vec![(group.low, up), (group.high, up)], color.mix(0.25).stroke_width(9));
            plot.draw_series([band]).map_err(failed(NAME))?;
            let dots = group.values.iter().map(|value| Circle::new((*value, up), 4, color.mix(0.75).filled()));
            plot.draw_series(dots).map_err(failed(NAME))?;
            let ends = vec![(group.mean, up - MEAN), (group.mean, up + MEAN)];
            plot.draw_series([PathElement::new(ends, Role::Ink.color().stroke_width(2))]).map_err(failed(NAME))?;
        }
        layout.write(area, &plot, NAME, &rows)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, values: &[f64]) -> Group {
        Group { name: name.into(), values: values.iter().map(|value| (format!("{value}"), *value)).collect() }
    }

    #[test]
    fn every_value_is_a_dot_and_figures_say_mean_and_ends() {
        let groups = [group("before", &[0.5, 0.6, 0.7]), group("after <b>", &[0.62, f64::NAN]), group("nothing", &[])];
        let chart = draw("Spread", "acc_norm", Unit::Share, &groups).unwrap().unwrap();
        for svg in [&chart.wide, &chart.narrow] {
            assert_eq!(svg.matches("<circle").count(), 4, "{svg}");
            assert!(svg.contains("60.0 (50.0 to 70.0)") && svg.contains("62.0\n"), "{svg}");
            assert!(
                svg.contains("after &lt;b&gt;") && svg.contains("acc norm (%)") && !svg.contains("nothing"),
                "{svg}"
            );
        }
        assert!(draw("Spread", "acc", Unit::Share, &[group("nothing", &[])]).unwrap().is_none());
    }
}
