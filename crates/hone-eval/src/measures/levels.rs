//! How far what was learned reaches: to new rows, to new tasks, to new kinds of task.
//!
//! Iyer et al. 2022, "OPT-IML", arXiv 2212.12017, section B. Of a collection of tasks in categories, some were trained on:
//!
//! ```text
//! rows        the task was trained on, its test rows are new              (fully supervised)
//! tasks       its category was trained on, the task was not               (partially supervised)
//! categories  nothing of its category was trained on                      (fully held out)
//! ```
//!
//! A task says its level and category by the labels `level` and `category` of its file's `metadata`. A level's score is the mean
//! over categories of the mean over their tasks, so that a category with many tasks counts once; its interval is the two-stage
//! bootstrap over tasks and examples, the gain's over tasks and paired examples.
//!
//! What it does not know: whether the levels are kept apart in truth. Labels are what a split says; the recipe says what was
//! trained on. `hone data levels` makes tasks, labels and training data of one collection, and keeps them apart.

use super::chart::{Bar, ChartData, Drawing};
use super::{How, Measure, MeasureOptions, Number, Table, TaskMeasure, Unit};
use crate::error::EvalError;
use crate::metrics::Aggregation;
use crate::pairing::Paired;
use crate::statistics::clusters::mean_of_clusters;
use crate::statistics::mean;

/// The measure.
pub const MEASURE: Measure = Measure {
    name: "levels",
    question: "Does what was learned reach new tasks, and new kinds of task?",
    legend: "Gain is the score after minus before, averaged within categories first. `rows` are new rows of trained tasks, \
             `tasks` are untrained tasks of trained categories, `categories` are tasks of untrained categories.",
    source: "Iyer et al. 2022, arXiv 2212.12017",
    formulas: &["a level's score = mean over its categories of the mean over their tasks", "gain = after − before"],
    how: |_| {
        How::Bootstrap("the tasks, then of the examples within each, both models' answers to one together (two stages)")
    },
    differences: &[],
    unasked: true,
    of,
};

/// The levels, from the nearest to the farthest.
pub const LEVELS: [&str; 3] = ["rows", "tasks", "categories"];

fn of(all: &[Paired<'_>], options: &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError> {
    let level = |paired: &Paired<'_>| paired.base.labels.get("level").cloned();
    let usable = |paired: &&Paired<'_>| level(paired).is_some_and(|level| LEVELS.contains(&level.as_str()));
    let labelled: Vec<&Paired<'_>> = all.iter().filter(usable).collect();
    let Some(first) = labelled.first() else { return Ok(Vec::new()) };
    let mut measure = TaskMeasure {
        name: "levels of generalisation".into(),
        metric: first.metric.name.clone(),
        n: labelled.iter().map(|paired| paired.n()).sum(),
        tasks: super::names(&labelled),
        ..TaskMeasure::default()
    };
    let (mut rows, mut cells, mut bars) = (Vec::new(), Vec::new(), Vec::new());
    for name in LEVELS {
        let is_mean = |paired: &&&Paired<'_>| paired.metric.aggregation == Aggregation::Mean && paired.metric.is_share;
        let own: Vec<&Paired<'_>> =
            labelled.iter().filter(is_mean).filter(|p| level(p).as_deref() == Some(name)).copied().collect();
        if own.is_empty() {
            measure.notes.push(format!("no task of the level `{name}`"));
            continue;
        }
        let before = over_categories(&own, |paired| paired.value(paired.before.iter()));
        let after = over_categories(&own, |paired| paired.value(paired.after.iter()));
        let gains: Vec<Vec<f64>> = own
            .iter()
            .map(|paired| paired.before.iter().zip(&paired.after).map(|(b, a)| a.score - b.score).collect())
            .collect();
        let interval = mean_of_clusters(&gains, &options.bootstrap);
        let ends = Some((interval.low, interval.high));
        let number = |what: &str, value: f64, ends, unit| {
            Number::new(&format!("{name}_{what}"), &format!("{name}, {what}"), value, ends, unit)
        };
        measure.numbers.extend([
            number("before", before, None, Unit::Share),
            number("after", after, None, Unit::Share),
            number("gain", after - before, ends, Unit::Points),
        ]);
        let unequal = own.iter().any(|paired| paired.n() != own[0].n())
            || sizes_of_categories(&own).windows(2).any(|w| w[0] != w[1]);
        if unequal {
            measure.notes.push(format!(
                "{name}: categories differ in their numbers of tasks; the interval is that of the mean over tasks ({:.1} points)",
                100.0 * mean(&gains.iter().map(|gain| mean(gain)).collect::<Vec<_>>())
            ));
        }
        let labels = ["before", "after", "gain"].map(|what| format!("{name}, {what}"));
        measure.parts.extend(labels.into_iter().chain([name.to_owned()]).map(|label| (label, super::names(&own))));
        rows.push(name.to_owned());
        cells.push(vec![Some(own.len() as f64), Some(categories(&own).len() as f64)]);
        bars.push(Bar {
            name: name.into(),
            value: after - before,
            low: Some(interval.low).filter(|low| low.is_finite()),
            high: Some(interval.high).filter(|high| high.is_finite()),
        });
    }
    measure.tables.push(Table {
        title: "What stands behind the levels".into(),
        unit: Unit::Count,
        columns: ["tasks", "categories"].map(str::to_owned).into(),
        rows,
        cells,
    });
    let drawing = Drawing::Forest { x: "gain (points)".into(), unit: Unit::Points, bars };
    measure.charts.push(ChartData { title: "Gain by level".into(), drawing });
    let left_out = labelled.iter().filter(|p| p.metric.aggregation != Aggregation::Mean || !p.metric.is_share);
    measure.notes.extend(left_out.map(|p| format!("{} was left out: {} is no share", p.task(), p.metric.name)));
    Ok(vec![measure])
}

fn category(paired: &Paired<'_>) -> String {
    paired.base.labels.get("category").cloned().unwrap_or_else(|| paired.task().to_owned())
}

fn categories(tasks: &[&Paired<'_>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in tasks.iter().map(|paired| category(paired)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn sizes_of_categories(tasks: &[&Paired<'_>]) -> Vec<usize> {
    categories(tasks).iter().map(|name| tasks.iter().filter(|paired| category(paired) == *name).count()).collect()
}

/// The mean over categories of the mean over their tasks.
fn over_categories(tasks: &[&Paired<'_>], value: impl Fn(&Paired<'_>) -> f64) -> f64 {
    let of = |name: &String| {
        mean(&tasks.iter().filter(|paired| category(paired) == *name).map(|paired| value(paired)).collect::<Vec<_>>())
    };
    mean(&categories(tasks).iter().map(of).collect::<Vec<_>>())
}
