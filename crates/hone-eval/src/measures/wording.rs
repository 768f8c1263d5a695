//! How much of a score is the wording of the instruction.
//!
//! Sun, Shaib & Wallace 2023, "Evaluating the Zero-shot Robustness of Instruction-tuned Language Models", ICLR 2024, arXiv
//! 2306.11270. A task is asked with wordings `w` in sets: those the tuning data had (`observed`) and others that mean the same
//! (`unobserved`); further sets are controls (another task's wording, random words, noise).
//!
//! ```text
//! acc(w)             score of one wording
//! mean, spread       over a set's wordings; the spread is the population's (the wordings are all there are)
//! worst, best        of a set's wordings
//! wording gap        mean of `observed` − mean of `unobserved`
//! ```
//!
//! The intervals of means and gaps draw wordings and questions anew, apart from each other ([`crate::statistics::clusters`]): the
//! wording is the sampling unit of the claim. A family of tasks is one of wordings if its `metadata` says `variants: wording`.
//!
//! What it does not know: whether `observed` wordings were really in the tuning data (the task's author says so), and whether
//! two wordings differ in their answer's format too, which moves scores for another reason.

use super::chart::{ChartData, Drawing, Group};
use super::variants::{Family, families};
use super::{How, Measure, MeasureOptions, Number, Table, TaskMeasure, Unit};
use crate::error::EvalError;
use crate::metrics::Aggregation;
use crate::pairing::Paired;
use crate::statistics::clusters::{spread, two_way};
use crate::statistics::mean;

/// The measure.
pub const MEASURE: Measure = Measure {
    name: "wording",
    question: "How much of the score is the wording of the instruction?",
    legend: "Mean, spread (standard deviation), worst and best over the wordings of a set. The gap is the mean of the wordings \
             that the tuning data had minus that of others which mean the same. Intervals are over wordings and questions.",
    source: "Sun et al. 2023, arXiv 2306.11270",
    formulas: &[
        "mean, worst and spread: over the wordings of a set",
        "gap = mean of the observed wordings − mean of the unobserved ones",
    ],
    how: |_| How::Bootstrap("the wordings, and apart from them of the questions"),
    differences: &[
        ("gap_before", "mean_observed_before", "mean_unobserved_before"),
        ("gap_after", "mean_observed_after", "mean_unobserved_after"),
    ],
    unasked: true,
    of,
};

/// The label of families that this measure is about.
pub const LABEL: &str = "wording";

fn of(all: &[Paired<'_>], options: &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError> {
    let is_wording = |family: &Family<'_, '_>| {
        family.members.iter().any(|(_, paired)| paired.base.labels.get("variants").is_some_and(|v| v == LABEL))
    };
    Ok(families(all).iter().filter(|family| is_wording(family)).map(|family| of_family(family, options)).collect())
}

fn of_family(family: &Family<'_, '_>, options: &MeasureOptions) -> TaskMeasure {
    let (ids, at) = family.common();
    let mut measure = family.measure(ids.len());
    if family.members.iter().any(|(_, paired)| paired.metric.aggregation != Aggregation::Mean) {
        measure.notes.push(format!("{} is no mean over questions, so wordings are not compared", measure.metric));
        return measure;
    }
    if ids.is_empty() {
        measure.notes.push("no question was asked in every wording; evaluate all with the same `--limit`".into());
        return measure;
    }
    // By side and member: the scores of the common questions.
    let sides = ["before", "after"];
    let scores = |side: usize, member: usize| -> Vec<f64> {
        let paired = family.members[member].1;
        let own = if side == 0 { &paired.before } else { &paired.after };
        at[member].iter().map(|&i| own[i].score).collect()
    };
    let members_of = |set: Option<&str>| -> Vec<usize> {
        (0..family.members.len()).filter(|&m| family.members[m].0.set.as_deref() == set).collect()
    };
    let unit = if family.members[0].1.metric.is_share { Unit::Share } else { Unit::Plain };
    let difference = if unit == Unit::Share { Unit::Points } else { Unit::Plain };
    let sets = family.sets();
    let rows = |side: usize, set: Option<&str>| -> Vec<Vec<f64>> {
        members_of(set).into_iter().map(|member| scores(side, member)).collect()
    };
    let means = |rows: &[Vec<f64>]| -> Vec<f64> { rows.iter().map(|row| mean(row)).collect() };
    let mut cells = Vec::new();
    for (side, name) in sides.iter().enumerate() {
        for set in &sets {
            let rows = rows(side, *set);
            let of_wordings = means(&rows);
            let label = set.unwrap_or("all wordings");
            let interval = two_way(&[rows], &options.bootstrap, &|drawn| mean(&drawn[0]));
            let key = |what: &str| format!("{what}_{}_{name}", label.replace(' ', "_"));
            let number = |what: &str, value: f64, ends, unit| {
                Number::new(&key(what), &format!("{label}, {what} {name}"), value, ends, unit)
            };
            let own = members_of(*set).into_iter().map(|m| family.members[m].1.task().to_owned());
            let own: Vec<String> = own.collect();
            let labels = ["mean", "spread", "worst", "best"].map(|what| format!("{label}, {what} {name}"));
            measure.parts.extend(labels.map(|label| (label, own.clone())));
            measure.numbers.push(number("mean", mean(&of_wordings), Some((interval.low, interval.high)), unit));
            measure.numbers.push(number("spread", spread(&of_wordings), None, difference));
            let worst = of_wordings.iter().copied().fold(f64::INFINITY, f64::min);
            let best = of_wordings.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            measure.numbers.push(number("worst", worst, None, unit));
            measure.numbers.push(number("best", best, None, unit));
            cells.push((side, *set, of_wordings));
        }
    }
    if sets.contains(&Some("observed")) && sets.contains(&Some("unobserved")) {
        let [before, after] = [0, 1].map(|side| [rows(side, Some("observed")), rows(side, Some("unobserved"))]);
        let gap = |groups: &[Vec<f64>]| mean(&groups[0]) - mean(&groups[1]);
        for (name, groups) in sides.iter().zip([&before, &after]) {
            let value = gap(&groups.iter().map(|rows| means(rows)).collect::<Vec<_>>());
            let interval = two_way(groups, &options.bootstrap, &gap);
            let ends = Some((interval.low, interval.high));
            measure.numbers.push(Number::new(
                &format!("gap_{name}"),
                &format!("wording gap {name}"),
                value,
                ends,
                difference,
            ));
        }
    }
    // The change wording by wording, so that the same wordings are drawn on both sides.
    let changes: Vec<Vec<f64>> = (0..family.members.len())
        .map(|member| scores(1, member).iter().zip(scores(0, member)).map(|(after, before)| after - before).collect())
        .collect();
    let value = mean(&means(&changes));
    let interval = two_way(&[changes], &options.bootstrap, &|drawn| mean(&drawn[0]));
    let ends = Some((interval.low, interval.high));
    measure.numbers.insert(0, Number::new("change", "change over all wordings", value, ends, difference));
    measure.tables.push(Table {
        title: "Wording by wording".into(),
        unit,
        columns: sides.map(str::to_owned).into(),
        rows: family.members.iter().map(|(variant, _)| wording_name(variant)).collect(),
        cells: (0..family.members.len())
            .map(|m| sides.iter().enumerate().map(|(s, _)| Some(mean(&scores(s, m)))).collect())
            .collect(),
    });
    let rows = family.members.iter().map(|(way, paired)| (wording_name(way), vec![paired.task().to_owned()]));
    measure.parts.extend(rows);
    let groups = cells.iter().map(|(side, set, values)| Group {
        name: match set {
            Some(set) => format!("{set}, {}", sides[*side]),
            None => sides[*side].to_owned(),
        },
        values: members_of(*set).iter().zip(values).map(|(&m, v)| (family.members[m].0.name.clone(), *v)).collect(),
    });
    let drawing = Drawing::Spread { y: measure.metric.clone(), unit, groups: groups.collect() };
    measure.charts.push(ChartData { title: "Spread over wordings".into(), drawing });
    measure
}

fn wording_name(variant: &crate::task::variants::Variant) -> String {
    match &variant.set {
        Some(set) => format!("{} ({set})", variant.name),
        None => variant.name.clone(),
    }
}
