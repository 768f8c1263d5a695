//! Calibration of multiple choice, before and after: is a model that is 80 % sure right 80 times of 100, and is it still after
//! the update?
//!
//! The confidence of an answer is the probability of the choice taken, `c = max softmax(log-likelihoods of the choices)`; the answer
//! is right where that choice is (the metric `acc`). Answers fall into `M` bins of equal width by their confidence, and
//!
//! ```text
//! ECE            = Σ_m |B_m|/N · |acc(B_m) − conf(B_m)|         the metric `ece`, here of both models on the same questions
//! overconfidence = mean(c) − accuracy                          above 0: surer than right
//! ```
//!
//! (Naeini, Cooper & Hauskrecht 2015; Guo et al. 2017, arXiv 1706.04599; the reliability diagram is theirs: mean confidence of each
//! bin against its accuracy, with Wilson's interval.) It is computed from the log-likelihoods that every scorecard of several
//! choices holds, so a task needs no metric for it; `M` is that of the task's metric `ece`, else 10. A task asked in several ways is
//! measured by its first one. Where `acc` counts answers to avoid (less is better, as of refusals of harmless requests), the choice
//! that the task names is the wrong one: of two choices the other one is right, and a question with more is left out, because the
//! likeliest of several right choices says nothing of how sure the model is to be right. In the rows of the examples, `ece_before` and `ece_after` are what each adds: their means are the ECEs.
//!
//! Intervals: the bootstrap over questions, both models' answers to a question together; of overconfidence Student's. What chance
//! leaves in each bin adds up, so the ECE of few questions is too large on both sides, and its interval lies high; the
//! *change* shares most of that. What it does not know: a written answer's confidence (there is none in a scorecard), and
//! whether the confidence would be better by another normalisation of the choices' lengths.

use serde_json::json;

use super::chart::{ChartData, Drawing, Point, Series};
use super::{How, Measure, MeasureOptions, Number, OF_QUESTIONS, Table, TaskMeasure, Unit};
use crate::error::EvalError;
use crate::metrics::Aggregation;
use crate::metrics::calibration::expected_calibration_error;
use crate::metrics::choice::{ChoiceOutcome, Gold};
use crate::pairing::Paired;
use crate::scorecard::{ScorecardHeader, ScorecardRow};
use crate::statistics::{groups, mean, t_interval, wilson};

/// The measure.
pub const MEASURE: Measure = Measure {
    name: "calibration",
    question: "Does it know what it does not know?",
    legend: "ECE is how far, on average, the confidence in an answer is from how often such answers are right; less is better. \
             Overconfidence is mean confidence less accuracy. With few questions ECE comes out too large on both sides: read the \
             change.",
    source: "Guo et al. 2017, arXiv 1706.04599",
    formulas: &[
        "ECE = Σ over bins of (answers in the bin / all) · |accuracy − mean confidence|",
        "overconfidence = mean confidence − accuracy",
    ],
    how: |number| match number {
        "overconfidence_before" | "overconfidence_after" => {
            How::Student("confidence less right (1) or wrong (0), question by question")
        }
        _ => OF_QUESTIONS,
    },
    differences: &[],
    unasked: true,
    of,
};

/// Said where the choice that a task names is the wrong one of two.
pub(super) const TO_AVOID: &str =
    "less of its metric is better, so the choice it names is one to avoid and the other one is right here";

/// Said where it is the wrong one of more.
pub(super) const MORE_TO_AVOID: &str = "left out: less of its metric is better, so the choice it names is one to avoid, and of more \
                                        than two choices that does not say which one is right";

/// Bins where the task has no metric that says.
const BINS: u32 = 10;

/// An answer: how sure the model was, and whether it was right (1 or 0).
#[derive(Clone, Copy, Debug, PartialEq)]
struct Answer {
    confidence: f64,
    right: f64,
}

fn of(all: &[Paired<'_>], options: &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError> {
    let chosen = |paired: &&Paired<'_>| paired.has_log_likelihoods();
    let first_of_its_task =
        |paired: &&Paired<'_>| paired.base.variant.as_ref().is_none_or(|variant| variant.index == 0);
    all.iter().filter(chosen).filter(first_of_its_task).map(|paired| of_task(paired, options)).collect()
}

fn of_task(paired: &Paired<'_>, options: &MeasureOptions) -> Result<TaskMeasure, EvalError> {
    let turned = paired.base.target_is_to_avoid();
    if turned && paired.rows.iter().any(|(row, _)| row.choices.len() > 2) {
        return Ok(TaskMeasure {
            name: paired.task().into(),
            metric: "acc".into(),
            n: paired.n(),
            notes: vec![MORE_TO_AVOID.into()],
            ..TaskMeasure::default()
        });
    }
    let before = paired.rows.iter().map(|(row, _)| answer(paired.base, row)).collect::<Result<Vec<Answer>, _>>()?;
    let after = paired.rows.iter().map(|(_, row)| answer(paired.tuned, row)).collect::<Result<Vec<Answer>, _>>()?;
    let bins = bins(paired.base);
    let n = paired.n();
    let whole: Vec<usize> = (0..n).collect();
    let ece = |answers: &[Answer], at: &[usize]| {
        expected_calibration_error(at.iter().map(|&i| (answers[i].confidence, answers[i].right)), bins)
    };
    let change = |at: &[usize]| ece(&after, at) - ece(&before, at);
    let number = |name: &str, label: &str, unit: Unit, of: &(dyn Fn(&[usize]) -> f64 + Sync)| {
        let interval = groups::interval(&[n], &options.bootstrap, &|drawn| of(&drawn[0]));
        Number::new(name, label, of(&whole), Some((interval.low, interval.high)), unit)
    };
    let over = |name: &str, label: &str, answers: &[Answer]| {
        let gaps: Vec<f64> = answers.iter().map(|answer| answer.confidence - answer.right).collect();
        Number::new(name, label, mean(&gaps), t_interval(&gaps, options.bootstrap.level), Unit::Points)
    };
    Ok(TaskMeasure {
        name: paired.task().into(),
        metric: "acc".into(),
        n,
        numbers: vec![
            number("ece_before", "ECE before", Unit::Share, &|at| ece(&before, at)),
            number("ece_after", "ECE after", Unit::Share, &|at| ece(&after, at)),
            number("ece_change", "change of ECE", Unit::Points, &change),
            over("overconfidence_before", "overconfidence before", &before),
            over("overconfidence_after", "overconfidence after", &after),
        ],
        tables: vec![table(&before, &after, bins)],
        charts: vec![diagram(&before, &after, bins, options.bootstrap.level)],
        rows: rows(paired, &before, &after, bins),
        notes: if turned { vec![TO_AVOID.into()] } else { Vec::new() },
        ..TaskMeasure::default()
    })
}

/// The bins of the task's own calibration error, if it has one.
fn bins(header: &ScorecardHeader) -> u32 {
    let own = header.metrics.iter().find_map(|metric| match metric.aggregation {
        Aggregation::Ece { bins } => Some(bins),
        _ => None,
    });
    own.unwrap_or(BINS)
}

/// Confidence and rightness of an answer, from its choices.
fn answer(header: &ScorecardHeader, row: &ScorecardRow) -> Result<Answer, EvalError> {
    let log_likelihoods: Vec<f64> = row.choices.iter().map(|choice| choice.log_likelihood).collect();
    let outcome = ChoiceOutcome {
        choices: &[],
        log_likelihoods: &log_likelihoods,
        is_greedy: &[],
        unconditional: None,
        gold: &Gold { indices: Vec::new() },
        group: None,
    };
    let Some(picked) = outcome.predicted() else {
        return Err(EvalError::MeasureNeeds {
            measure: MEASURE.name,
            task: header.task.clone(),
            model: header.named(),
            id: row.id.clone(),
            needs: "the choices with their log-likelihoods (`choices`)",
        });
    };
    let named = right(header, row, picked);
    let right = if header.target_is_to_avoid() { 1.0 - named } else { named };
    Ok(Answer { confidence: outcome.confidence(), right })
}

/// Whether the choice taken is what the task names: what `acc` or `ece` wrote down, else by its text.
fn right(header: &ScorecardHeader, row: &ScorecardRow, picked: usize) -> f64 {
    let calibrated = header.metrics.iter().find(|metric| matches!(metric.aggregation, Aggregation::Ece { .. }));
    let written = calibrated.and_then(|metric| row.parts.get(&metric.name)?.get(1)).or_else(|| row.scores.get("acc"));
    written.copied().unwrap_or_else(|| {
        let text = row.choices[picked].text.as_str();
        // Several right choices stand side by side in `target`.
        f64::from(text == row.target || row.target.split(" | ").any(|target| target == text))
    })
}

/// The bin of a confidence, closed above as in the metric.
fn bin(confidence: f64, bins: u32) -> usize {
    ((confidence * f64::from(bins)).ceil() as usize).clamp(1, bins.max(1) as usize) - 1
}

fn in_bins(answers: &[Answer], bins: u32) -> Vec<Vec<Answer>> {
    let mut all = vec![Vec::new(); bins.max(1) as usize];
    answers.iter().for_each(|answer| all[bin(answer.confidence, bins)].push(*answer));
    all
}

/// The reliability diagram.
fn diagram(before: &[Answer], after: &[Answer], bins: u32, level: f64) -> ChartData {
    let point = |answers: &Vec<Answer>| {
        let right = answers.iter().filter(|answer| answer.right > 0.5).count();
        let confidences: Vec<f64> = answers.iter().map(|answer| answer.confidence).collect();
        let (low, high) = wilson(right, answers.len(), level);
        Point { x: mean(&confidences), y: right as f64 / answers.len() as f64, low: Some(low), high: Some(high) }
    };
    let series = |name: &str, answers: &[Answer]| Series {
        name: name.into(),
        points: in_bins(answers, bins).iter().filter(|bin| !bin.is_empty()).map(point).collect(),
    };
    ChartData {
        title: "Reliability".into(),
        drawing: Drawing::Lines {
            x: "confidence".into(),
            y: "accuracy".into(),
            unit: Unit::Share,
            diagonal: true,
            series: vec![series("before", before), series("after", after)],
        },
    }
}

/// How many answers stand behind each point of the diagram.
fn table(before: &[Answer], after: &[Answer], bins: u32) -> Table {
    let (before, after) = (in_bins(before, bins), in_bins(after, bins));
    let filled: Vec<usize> = (0..before.len()).filter(|&b| !before[b].is_empty() || !after[b].is_empty()).collect();
    let edge = |b: usize| {
        let percent = format!("{:.1}", 100.0 * b as f64 / f64::from(bins.max(1)));
        percent.trim_end_matches(".0").to_owned()
    };
    Table {
        title: "Answers by confidence".into(),
        unit: Unit::Count,
        columns: vec!["before".into(), "after".into()],
        rows: filled.iter().map(|&b| format!("{} to {} %", edge(b), edge(b + 1))).collect(),
        cells: filled.iter().map(|&b| vec![Some(before[b].len() as f64), Some(after[b].len() as f64)]).collect(),
    }
}

/// What each answer adds to the ECE: `right − confidence`, its sign turned where its bin is over-confident, so that the mean over
/// all answers is the ECE.
fn contributions(answers: &[Answer], bins: u32) -> Vec<f64> {
    let gap = |answer: &Answer| answer.right - answer.confidence;
    let of_bins: Vec<f64> = in_bins(answers, bins).iter().map(|bin| bin.iter().map(gap).sum()).collect();
    answers.iter().map(|answer| gap(answer) * of_bins[bin(answer.confidence, bins)].signum()).collect()
}

fn rows(paired: &Paired<'_>, before: &[Answer], after: &[Answer], bins: u32) -> Vec<serde_json::Value> {
    let (ece_before, ece_after) = (contributions(before, bins), contributions(after, bins));
    let row = |i: usize| {
        json!({
            "id": paired.rows[i].0.id,
            "confidence_before": before[i].confidence,
            "right_before": before[i].right > 0.5,
            "confidence_after": after[i].confidence,
            "right_after": after[i].right > 0.5,
            "overconfidence_before": before[i].confidence - before[i].right,
            "overconfidence_after": after[i].confidence - after[i].right,
            "ece_before": ece_before[i],
            "ece_after": ece_after[i],
            "ece_change": ece_after[i] - ece_before[i],
        })
    };
    (0..before.len()).map(row).collect()
}
