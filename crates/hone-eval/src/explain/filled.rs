//! A number of a measure with this run's values in its formula, where the rows of its measure do not make it: from other numbers
//! of the same measure, from a column of its tables, or from the scores of the tasks behind it; and how its interval was made.
//!
//! A formula is only given if its values make the number, to rounding: a measure that makes it in another way is explained by
//! its own words.

use super::measured::Found;
use super::{Options, how, number};
use crate::ledger::TaskComparison;
use crate::measures::{self, How, Measure, Number, TaskMeasure, Unit};
use crate::statistics::clusters::spread;
use crate::statistics::{mean, wilson};

/// Values written out at most.
const VALUES: usize = 12;

/// A number's formula, filled in.
pub(super) struct Filled {
    /// In words.
    pub step: String,
    /// Of a share: how many of how many.
    pub share: Option<(usize, usize)>,
}

/// The formula of a number that the tasks `behind` it are known of; `None` where nothing that is here makes it.
pub(super) fn of(found: Found<'_>, behind: &[&TaskComparison], options: &Options) -> Option<Filled> {
    let measure = measures::find(&found.measure.name).ok();
    let plain = |step: String| Filled { step, share: None };
    measure
        .and_then(|measure| share(measure, found.number, behind, options))
        .or_else(|| difference(measure, found).map(plain))
        .or_else(|| of_column(found).map(plain))
        .or_else(|| of_tasks(found, behind).map(plain))
}

/// How the interval of a number was made, in words; `share` says of how many of how many it is, where that is known.
pub(super) fn interval(found: Found<'_>, share: Option<(usize, usize)>, options: &Options) -> String {
    if let Some(origin) = &found.measure.origin {
        return origin.intervals.clone();
    }
    let Ok(measure) = measures::find(&found.measure.name) else {
        return "made by a measure that this version does not have".into();
    };
    match ((measure.how)(&found.number.name), share) {
        (How::Wilson, Some((count, n))) => format!("Wilson's, of {count} of {n}"),
        (How::Wilson, None) => "Wilson's, of a share of the examples".into(),
        (How::Student(of), _) => format!("Student's, of the mean of {of}"),
        (How::Bootstrap(of), _) => how(&options.bootstrap, of),
    }
}

/// Whether a share of so many examples has this interval: Wilson's.
pub(super) fn is_wilsons((count, n): (usize, usize), (low, high): (f64, f64), level: f64) -> bool {
    let (below, above) = wilson(count, n, level);
    (below - low).abs() < 1e-9 && (above - high).abs() < 1e-9
}

fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs().max(1.0)
}

fn shown(unit: Unit, value: f64) -> String {
    unit.shown(value).replace('-', "−")
}

/// A share of the questions of the tasks behind it: its interval tells that it is one of so many.
fn share(measure: &Measure, value: &Number, behind: &[&TaskComparison], options: &Options) -> Option<Filled> {
    let n: usize = behind.iter().map(|task| task.n).sum();
    let count = (value.value * n as f64).round();
    if (measure.how)(&value.name) != How::Wilson || n == 0 || !same(count / n as f64, value.value) {
        return None;
    }
    let share = (count as usize, n);
    let fits = is_wilsons(share, value.low.zip(value.high)?, options.bootstrap.level);
    fits.then(|| Filled {
        step: format!("{} = {count} of {n} = {}", value.name, shown(value.unit, value.value)),
        share: Some(share),
    })
}

/// One number less another: those that the measure names, else `X_after` less `X_before`.
fn difference(measure: Option<&Measure>, Found { task, number: value, .. }: Found<'_>) -> Option<String> {
    let name = value.name.as_str();
    let called = |name: &str| task.numbers.iter().find(|number| number.name == name);
    let named = measure.and_then(|measure| measure.differences.iter().find(|(of, ..)| *of == name));
    let (first, second) = match named {
        Some((_, first, second)) => (called(first)?, called(second)?),
        None => {
            let stem = ["change", "gain"].iter().find_map(|end| name.strip_suffix(end))?;
            (called(&format!("{stem}after"))?, called(&format!("{stem}before"))?)
        }
    };
    same(first.value - second.value, value.value).then(|| {
        let [a, b] = [first, second].map(|number| shown(number.unit, number.value));
        let b = if b.starts_with('−') { format!("({b})") } else { b };
        format!("{name} = {} − {} = {a} − {b} = {}", first.name, second.name, shown(value.unit, value.value))
    })
}

/// The mean of a column of the measure's tables: `mean_loss` of the column `loss`.
fn of_column(Found { task, number: value, .. }: Found<'_>) -> Option<String> {
    let column = value.name.strip_prefix("mean_")?;
    task.tables.iter().find_map(|table| {
        let at = table.columns.iter().position(|name| name == column)?;
        let values: Vec<f64> = table.cells.iter().filter_map(|row| *row.get(at)?).collect();
        let made = !values.is_empty() && same(mean(&values), value.value);
        made.then(|| {
            let of = listed(values.iter().map(|&value| shown(table.unit, value)));
            format!(
                "{} = mean of the {column} of {}: {of} = {}",
                value.name,
                table.title.to_lowercase(),
                shown(value.unit, value.value)
            )
        })
    })
}

/// The mean, spread, smallest or largest of the scores of the tasks that the number is said to be over, before, after, or their
/// change.
fn of_tasks(Found { task, number: value, .. }: Found<'_>, behind: &[&TaskComparison]) -> Option<String> {
    if behind.is_empty() || !says_of_what(task, value) {
        return None;
    }
    if value.name.starts_with("largest_") {
        return worst(value, behind[0]);
    }
    let (what, side): (&str, fn(&TaskComparison) -> f64) = match value.name.rsplit('_').next() {
        Some("before") => ("score before", |task| task.base),
        Some("after") => ("score after", |task| task.tuned),
        _ => ("change", |task| task.difference),
    };
    let values: Vec<f64> = behind.iter().map(|task| side(task)).collect();
    let is_share = behind.iter().all(|task| task.is_share);
    let unit = match (is_share, what) {
        (false, _) => Unit::Plain,
        (true, "change") => Unit::Points,
        (true, _) => Unit::Share,
    };
    let of = listed(values.iter().map(|&value| shown(unit, value)));
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let made = match value.name.split('_').next() {
        Some("spread") => same(spread(&values), value.value).then_some("standard deviation of"),
        Some("worst" | "best") if same(least, value.value) => Some("smallest of"),
        Some("worst" | "best") => same(most, value.value).then_some("largest of"),
        _ => same(mean(&values), value.value).then_some("mean of"),
    }?;
    let each = if behind.len() > 1 { format!("each {what}") } else { format!("{what} of {}", behind[0].name) };
    Some(format!("{} = {made} {each}: {of} = {}", value.name, shown(value.unit, value.value)))
}

/// The loss of one task.
fn worst(value: &Number, task: &TaskComparison) -> Option<String> {
    let unit = if task.is_share { Unit::Share } else { Unit::Plain };
    let (before, after) = (shown(unit, task.base), shown(unit, task.tuned));
    let terms = match (same(-task.difference, value.value), same(task.difference, value.value)) {
        (true, _) => format!("before − after = {before} − {after}"),
        (_, true) => format!("after − before = {after} − {before}"),
        _ => return None,
    };
    Some(format!("{} = of {}: {terms} = {}", value.name, task.name, shown(value.unit, value.value)))
}

/// Whether the measure says which tasks' scores a number is of: those of wordings, kinds and levels, not what a reasoning does.
fn says_of_what(task: &TaskMeasure, value: &Number) -> bool {
    task.parts.contains_key(&value.label) || (value.name == "change" && !task.parts.is_empty())
}

/// Values, the first ones of many.
fn listed(values: impl ExactSizeIterator<Item = String>) -> String {
    let more = values.len().saturating_sub(VALUES);
    let mut first: Vec<String> = values.take(VALUES).collect();
    if more > 0 {
        first.push(format!("and {} more", number(more as f64)));
    }
    first.join(", ")
}
