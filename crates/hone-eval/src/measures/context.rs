//! Whether a model answers from what it is given: questions with their passage, hidden sentences, keys with values.
//!
//! Wang et al. 2025, "On the Loss of Context-awareness in General Instruction Fine-tuning", arXiv 2411.02688; Liu et al. 2024, "Lost
//! in the Middle", arXiv 2307.03172 (keys with values). A task takes part by the label `context` of its file's `metadata`, which says
//! what kind it is: `passage`, `needle`, `pairs`. Only what stands in the prompt answers it, so a loss here is a loss of reading, not
//! of knowledge.
//!
//! ```text
//! before, after   mean score of a kind's questions, every task of it counting once
//! change          after minus before, with a paired bootstrap over the questions, task by task
//! ```
//!
//! Of a task that is asked at several lengths (`variants`), the score is drawn over them.
//!
//! What it does not know: where the model looked; `hone locate attention` does, and `--attention` puts it on the same page.

use super::chart::{ChartData, Drawing, Point, Series};
use super::{How, Measure, MeasureOptions, Number, Table, TaskMeasure, Unit, names, variants};
use crate::error::EvalError;
use crate::metrics::Aggregation;
use crate::pairing::Paired;
use crate::statistics::{bootstrap_interval, groups, mean};

/// The measure.
pub const MEASURE: Measure = Measure {
    name: "context",
    question: "Does it still use what it is given?",
    legend: "Scores on questions that only the prompt's own text answers: `passage` (a paragraph), `needle` (a sentence hidden in a long \
             text), `pairs` (the value of a key). What a model knows does not help it here.",
    source: "Wang et al. 2025, arXiv 2411.02688; Liu et al. 2024, arXiv 2307.03172",
    formulas: &["before, after = mean over a kind's tasks of their mean score", "change = after − before"],
    how: |_| How::Bootstrap("the questions within each task, both models' answers to a question together"),
    differences: &[],
    unasked: true,
    of,
};

fn of(all: &[Paired<'_>], options: &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError> {
    let labelled: Vec<&Paired<'_>> = all.iter().filter(|paired| kind(paired).is_some()).collect();
    let is_mean = |paired: &&&Paired<'_>| paired.metric.aggregation == Aggregation::Mean && paired.metric.is_share;
    let own: Vec<&Paired<'_>> = labelled.iter().filter(is_mean).copied().collect();
    if labelled.is_empty() {
        return Ok(Vec::new());
    }
    let mut measure = TaskMeasure {
        name: "answers from the prompt".into(),
        metric: "score".into(),
        n: own.iter().map(|paired| paired.n()).sum(),
        tasks: names(&own),
        ..TaskMeasure::default()
    };
    let mut kinds: Vec<&str> = Vec::new();
    for name in own.iter().filter_map(|paired| kind(paired)) {
        if !kinds.contains(&name) {
            kinds.push(name);
        }
    }
    for name in kinds {
        let tasks: Vec<&Paired<'_>> = own.iter().copied().filter(|paired| kind(paired) == Some(name)).collect();
        let sizes: Vec<usize> = tasks.iter().map(|paired| paired.n()).collect();
        let change = |drawn: &[Vec<usize>]| {
            let of = |(paired, at): (&&Paired<'_>, &Vec<usize>)| {
                at.iter().map(|&i| paired.after[i].score - paired.before[i].score).sum::<f64>() / at.len() as f64
            };
            tasks.iter().zip(drawn).map(of).sum::<f64>() / tasks.len() as f64
        };
        let whole: Vec<Vec<usize>> = sizes.iter().map(|&n| (0..n).collect()).collect();
        let interval = groups::interval(&sizes, &options.bootstrap, &change);
        let scores = |side: fn(&Paired<'_>) -> f64| mean(&tasks.iter().map(|paired| side(paired)).collect::<Vec<_>>());
        let number = |what: &str, value: f64, ends, unit| {
            Number::new(&format!("{name}_{what}"), &format!("{name}, {what}"), value, ends, unit)
        };
        let labels = ["before", "after", "change"].map(|what| format!("{name}, {what}"));
        measure.parts.extend(labels.map(|label| (label, names(&tasks))));
        measure.numbers.extend([
            number("before", scores(|paired| paired.value(paired.before.iter())), None, Unit::Share),
            number("after", scores(|paired| paired.value(paired.after.iter())), None, Unit::Share),
            number("change", change(&whole), Some((interval.low, interval.high)), Unit::Points),
        ]);
    }
    let row = |paired: &&Paired<'_>| format!("{} ({})", paired.task(), paired.n());
    measure.parts.extend(own.iter().map(|paired| (row(paired), names(&[*paired]))));
    measure.tables.push(Table {
        title: "Task by task".into(),
        unit: Unit::Share,
        columns: ["before", "after"].map(str::to_owned).into(),
        rows: own.iter().map(row).collect(),
        cells: own
            .iter()
            .map(|paired| vec![Some(paired.value(paired.before.iter())), Some(paired.value(paired.after.iter()))])
            .collect(),
    });
    measure.charts.extend(lengths(all, options));
    let left_out = labelled.iter().filter(|paired| !is_mean(paired));
    measure
        .notes
        .extend(left_out.map(|paired| format!("{} was left out: {} is no share", paired.task(), paired.metric.name)));
    Ok(vec![measure])
}

fn kind<'a>(paired: &Paired<'a>) -> Option<&'a str> {
    let base: &'a crate::scorecard::ScorecardHeader = paired.base;
    base.labels.get("context").map(String::as_str)
}

/// A chart for every task that was asked at two lengths or more: variants whose names are numbers.
fn lengths(all: &[Paired<'_>], options: &MeasureOptions) -> Vec<ChartData> {
    let mut charts = Vec::new();
    for family in variants::families(all) {
        let mut at: Vec<(f64, &Paired<'_>)> = family
            .members
            .iter()
            .filter(|(_, paired)| kind(paired).is_some())
            .filter_map(|(variant, paired)| Some((variant.name.parse().ok()?, *paired)))
            .collect();
        if at.len() < 2 {
            continue;
        }
        at.sort_by(|a, b| a.0.total_cmp(&b.0));
        let series = |name: &str, after: bool| Series {
            name: name.into(),
            points: at.iter().map(|(x, paired)| point(*x, paired, after, options)).collect(),
        };
        let drawing = Drawing::Lines {
            x: kind(at[0].1).unwrap_or_default().into(),
            y: "score".into(),
            unit: Unit::Share,
            diagonal: false,
            series: vec![series("before", false), series("after", true)],
        };
        charts.push(ChartData { title: format!("{}, by how much there is to read", family.name), drawing });
    }
    charts
}

fn point(x: f64, paired: &Paired<'_>, after: bool, options: &MeasureOptions) -> Point {
    let side = if after { &paired.after } else { &paired.before };
    let y = |indices: &[usize]| paired.value(indices.iter().map(|&i| &side[i]));
    let interval = bootstrap_interval(side.len(), &options.bootstrap, &y);
    let end = |value: f64| Some(value).filter(|value| value.is_finite());
    Point { x, y: paired.value(side.iter()), low: end(interval.low), high: end(interval.high) }
}
