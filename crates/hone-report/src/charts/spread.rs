//! Values in groups, each a dot, their mean a line, from lowest to highest a band: how far one task's score spreads over
//! wordings.
//!
//! Groups come in pairs, before and after of one set of wordings: each of the two has its colour, which a line above the rows names.

use hone_eval::measures::Unit;
use hone_eval::measures::chart::Group;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::plot::{Area, Digits, SMALL, described, picture, text, text_width};
use super::rows::{Layout, Row, range};
use super::{Chart, NARROW, WIDE, display, failed, with_unit};
use crate::ReportError;
use crate::theme::Role;

const NAME: &str = "spread";
/// Half the height of the mean's line, in rows.
const MEAN: f64 = 0.24;
/// Height of the line that names the colours.
const LEGEND: i32 = 24;
/// Length of a colour's stroke beside its name.
const STROKE: i32 = 18;

/// The colours that have a name.
const SIDES: [(&str, Role); 2] = [("before", Role::SERIES[0]), ("after", Role::SERIES[1])];

/// The colour of a group: that of the word its name ends with.
fn side(name: &str) -> Option<(&'static str, Role)> {
    let last = name.rsplit([' ', ',']).next();
    SIDES.into_iter().find(|(word, _)| last == Some(*word))
}

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
    let named: Vec<(&str, Role)> =
        SIDES.into_iter().filter(|one| groups.iter().any(|group| side(group.name) == Some(*one))).collect();
    let layout = Layout::new(&rows, width).below(if named.is_empty() { 0 } else { LEGEND });
    let (low, high) = range(groups.iter().flat_map(|group| [group.low, group.high]));
    picture(NAME, (width, layout.height()), |area| {
        let ticks = Digits::of(high - low, if width < 500 { 6 } else { 9 });
        let mut plot = layout.axes(area, NAME, (low, high), below, &|value| ticks.shown(value))?;
        legend(area, &named)?;
        for (i, group) in groups.iter().enumerate() {
            let (up, color) = (layout.up(i), side(group.name).map_or(Role::Accent, |(_, role)| role).color());
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

fn legend(area: &Area<'_>, named: &[(&str, Role)]) -> Result<(), ReportError> {
    let (mut left, middle) = (10, 12);
    for (word, role) in named {
        let ends = vec![(left, middle), (left + STROKE, middle)];
        area.draw(&PathElement::new(ends, role.color().stroke_width(5))).map_err(failed(NAME))?;
        text(area, NAME, word, (left + STROKE + 8, middle), (Role::Ink, SMALL, HPos::Left))?;
        left += STROKE + 8 + text_width(word, SMALL) + 20;
    }
    Ok(())
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

    /// Two sets or five, of which one has only an after: a side keeps its colour, and both are named once.
    #[test]
    fn before_and_after_have_each_a_colour_with_a_name() {
        let names = ["observed, before", "control, after", "observed, after", "random words, after", "control, before"];
        let groups: Vec<Group> = names.iter().map(|name| group(name, &[0.5])).collect();
        let chart = draw("Spread", "acc", Unit::Share, &groups).unwrap().unwrap();
        for svg in [&chart.wide, &chart.narrow] {
            let fills: Vec<&str> =
                svg.split("<circle").skip(1).filter_map(|circle| circle.split("fill=\"").nth(1)).collect();
            let hex = |role: Role| format!("#{0:02X}{0:02X}{0:02X}", role.color().0);
            let expected = [0, 1, 1, 1, 0].map(|i| hex(Role::SERIES[i]));
            assert!(fills.iter().zip(&expected).all(|(found, hex)| found.starts_with(hex)), "{fills:?}");
            assert_eq!(fills.len(), 5);
            for word in ["before", "after"] {
                assert_eq!(svg.matches(&format!("\n{word}\n")).count(), 1, "{word} is named once: {svg}");
            }
        }
        let one = draw("Spread", "acc", Unit::Share, &[group("all", &[0.5])]).unwrap().unwrap();
        assert!(!one.wide.contains("\nbefore\n"), "no side, no names of sides");
    }
}
