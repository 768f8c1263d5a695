//! Answers from a passage: right, supported, short, and declined where the passage does not have the answer.
//!
//! Adlakha et al. 2024, "Evaluating Correctness and Faithfulness of Instruction-Following Models for Question Answering", TACL 12,
//! arXiv 2307.16877; the metrics and their formulas are in [`crate::metrics::documents`]. Of the metrics a task computes, those of
//! this measure are shown before and after, with paired bootstrap intervals of the change:
//!
//! - correctness: `recall` (agrees best with people), `f1`, `exact_match`, `contains`, `precision`;
//! - faithfulness: `k_precision` (agrees best), `k_f1`, `k_precision_new`; answers that decline are left out, since a refusal
//!   shares few words with any passage;
//! - verbosity: `words`;
//! - declining: `refusal`, by set of a family (`metadata: {variants: passage}`): of questions whose passage has the answer
//!   (`answerable`) it is a false refusal, of others (`unanswerable`) the right answer.
//!
//! What it does not know: it counts words; a judge that reads is the second opinion.

use super::{Measure, MeasureOptions, Number, OF_QUESTIONS, TaskMeasure, Unit};
use crate::error::EvalError;
use crate::pairing::Paired;
use crate::scorecard::ScorecardRow;
use crate::statistics::{bootstrap_interval, mean};

/// The measure.
pub const MEASURE: Measure = Measure {
    name: "documents",
    question: "Are answers right, and does the passage support them?",
    legend: "Recall is the share of the reference that the answer has, k-precision the share of the answer that the passage has \
             (answers that decline left out); read both beside the length. Declining is right where the passage does not have \
             the answer.",
    source: "Adlakha et al. 2024, arXiv 2307.16877",
    formulas: &[
        "before, after = mean of the metric over the questions",
        "change = after − before, over the same questions; faithfulness without answers that decline",
    ],
    how: |_| OF_QUESTIONS,
    differences: &[],
    unasked: true,
    of,
};

/// Metrics with their labels, in the order shown.
const SHOWN: [(&str, &str); 12] = [
    ("recall", "recall"),
    ("f1", "F1"),
    ("exact_match", "exact match"),
    ("contains", "contains the reference"),
    ("precision", "precision"),
    ("k_precision", "k-precision"),
    ("k_precision_new", "k-precision of what is new"),
    ("k_recall", "k-recall"),
    ("k_f1", "k-F1"),
    ("judge", "judged right"),
    ("refusal", "declined"),
    ("words", "words"),
];

/// A task needs one of these to be about passages.
const OF_PASSAGES: [&str; 5] = ["k_precision", "k_precision_new", "k_recall", "k_f1", "judge"];

fn of(all: &[Paired<'_>], options: &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError> {
    let has =
        |paired: &&Paired<'_>| paired.base.metrics.iter().any(|metric| OF_PASSAGES.contains(&plain(&metric.name)));
    Ok(all.iter().filter(has).map(|paired| of_task(paired, options)).collect())
}

/// A metric's name without its filter list's.
fn plain(name: &str) -> &str {
    name.split(',').next().unwrap_or(name)
}

fn of_task(paired: &Paired<'_>, options: &MeasureOptions) -> TaskMeasure {
    let mut measure = TaskMeasure {
        name: paired.task().into(),
        metric: paired.metric.name.clone(),
        n: paired.n(),
        ..TaskMeasure::default()
    };
    let set = paired.base.variant.as_ref().and_then(|variant| variant.set.as_deref());
    for (name, label) in SHOWN {
        let Some(column) = paired.base.metrics.iter().map(|m| &m.name).find(|column| plain(column) == name) else {
            continue;
        };
        let counts = |row: &ScorecardRow| !name.starts_with("k_") || !declines(row);
        let both: Vec<(f64, f64)> = paired
            .rows
            .iter()
            .filter(|(before, after)| counts(before) && counts(after))
            .filter_map(|(before, after)| Some((*before.scores.get(column)?, *after.scores.get(column)?)))
            .collect();
        if both.is_empty() {
            measure.notes.push(format!("{label}: every answer declines, so nothing is left to score"));
            continue;
        }
        let label = match (name, set) {
            ("refusal", Some("unanswerable")) => "declined, as it should".to_owned(),
            ("refusal", Some("answerable")) => "declined, though the passage has it".to_owned(),
            _ => label.to_owned(),
        };
        let (unit, difference) = match name {
            "words" => (Unit::Plain, Unit::Plain),
            _ => (Unit::Share, Unit::Points),
        };
        let column = |side: fn(&(f64, f64)) -> f64| both.iter().map(side).collect::<Vec<f64>>();
        let (before, after) = (column(|pair| pair.0), column(|pair| pair.1));
        let change =
            |indices: &[usize]| indices.iter().map(|&i| after[i] - before[i]).sum::<f64>() / indices.len() as f64;
        let interval = bootstrap_interval(both.len(), &options.bootstrap, &change);
        let ends = Some((interval.low, interval.high));
        measure.numbers.extend([
            Number::new(&format!("{name}_before"), &format!("{label}, before"), mean(&before), None, unit),
            Number::new(&format!("{name}_after"), &format!("{label}, after"), mean(&after), None, unit),
            Number::new(
                &format!("{name}_change"),
                &format!("{label}, change"),
                mean(&after) - mean(&before),
                ends,
                difference,
            ),
        ]);
        if both.len() < paired.n() {
            measure.notes.push(format!(
                "{label}: over the {} of {} questions that both models answered",
                both.len(),
                paired.n()
            ));
        }
    }
    measure
}

fn declines(row: &ScorecardRow) -> bool {
    row.scores.iter().any(|(name, score)| plain(name) == "refusal" && *score > 0.0)
}
