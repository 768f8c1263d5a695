//! Compatibility between two versions of a model: what the second one broke that the first one could do.
//!
//! Echterhoff et al. 2024, "MUSCLE: A Model Update Strategy for Compatible LLM Evolution", arXiv 2407.09435. Let `M₁` be the
//! first model, `M₂` the second, `y` the right answer, `N` the examples both answered.
//!
//! **Answers that are right or wrong** (several choices, exact match; where the metric counts answers to avoid, such as refusals of
//! harmless requests, an answer is right that scores 0):
//!
//! ```text
//! NFR    = 1/N Σ [M₁ = y] [M₂ ≠ y]        negative flips: right before, wrong after
//! PFR    = 1/N Σ [M₁ ≠ y] [M₂ = y]        positive flips
//! NFR_mc = 1/N Σ [M₂ ≠ y] [M₁ ≠ M₂]       inconsistency: wrong after, and another answer than before
//! ```
//!
//! `acc(M₂) − acc(M₁) = PFR − NFR`. Every negative flip is an inconsistency, so `NFR_mc ≥ NFR`; the rest are wrong answers
//! that became other wrong ones, which two choices cannot have. A written answer is another one as soon as a letter of what was
//! scored differs, so where whole sentences are scored `NFR_mc` counts every change of wording of a wrong answer.
//!
//! **Scores between right and wrong** (ROUGE, token F1). With `Dᵢ = S(M₂(xᵢ), yᵢ) − S(M₁(xᵢ), yᵢ)`, its sign turned where less is
//! better, and a tolerance `τ` (0 in the paper):
//!
//! ```text
//! NFR = 1/N Σ [Dᵢ < −τ]      mean loss m_r = Σ |Dᵢ| [Dᵢ < −τ] / (N · NFR)      0 where NFR is 0
//! PFR = 1/N Σ [Dᵢ >  τ]      mean gain m_g = Σ  Dᵢ  [Dᵢ >  τ] / (N · PFR)      0 where PFR is 0
//! ```
//!
//! With `τ = 0` the mean of `D` is `PFR · m_g − NFR · m_r`. Any difference is a flip then, so half of all texts may be; the rate
//! means nothing without `m_r` beside it, nor `m_r` without the number of flips it is over.
//!
//! Rates have Wilson's interval, `m_r` and `m_g` the bootstrap's over examples, resamples without a flip left out; of a single
//! flip there is none.
//!
//! What it does not know: why an answer changed (chance in a single sampled text flips it too; the floor is a model compared
//! with itself), whether a flip matters, and in tasks that score one given text (`loglikelihood`) which wrong answer a model
//! would have given. Perplexities and calibration errors are no scores of answers; they are left out.

use serde_json::json;

use super::{How, Measure, MeasureOptions, Number, Table, TaskMeasure, Unit};
use crate::error::EvalError;
use crate::metrics::{Aggregation, Kind};
use crate::pairing::Paired;
use crate::scorecard::{ScorecardHeader, ScorecardRow};
use crate::statistics::groups;

/// The measure.
pub const MEASURE: Measure = Measure {
    name: "compatibility",
    question: "What did the update break that worked?",
    legend: "Negative flips were right before and are wrong after, positive flips the other way round. Inconsistent answers are \
             wrong after and another answer than before; of a written answer any change of its text counts, of its wording too. \
             Mean loss and gain are over the flips alone.",
    source: "Echterhoff et al. 2024, arXiv 2407.09435",
    formulas: &[
        "negative flips = share right before and wrong after (or worse by more than the tolerance)",
        "positive flips = the other way round",
        "inconsistent = share wrong after with another answer than before",
        "mean loss = mean size of the negative flips, mean gain of the positive ones",
    ],
    how: |number| match number {
        "mean_loss" | "mean_gain" => How::Bootstrap(
            "the questions, both models' answers to a question together; those without a flip are left out",
        ),
        _ => How::Wilson,
    },
    differences: &[],
    unasked: true,
    of,
};

/// What became of an answer that is right or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flip {
    RightRight,
    RightWrong,
    WrongRight,
    WrongSame,
    WrongOther,
    /// Wrong both times, where the answers themselves are not known.
    WrongWrong,
}

impl Flip {
    fn name(self) -> &'static str {
        match self {
            Flip::RightRight => "right_right",
            Flip::RightWrong => "right_wrong",
            Flip::WrongRight => "wrong_right",
            Flip::WrongSame => "wrong_same",
            Flip::WrongOther => "wrong_other",
            Flip::WrongWrong => "wrong_wrong",
        }
    }

    /// Whether the answer after is wrong and another than before; `None` where that is not known.
    fn is_inconsistent(self) -> Option<bool> {
        match self {
            Flip::WrongWrong => None,
            flip => Some(matches!(flip, Flip::RightWrong | Flip::WrongOther)),
        }
    }
}

fn of(all: &[Paired<'_>], options: &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError> {
    all.iter().map(|paired| of_task(paired, options)).collect()
}

fn of_task(paired: &Paired<'_>, options: &MeasureOptions) -> Result<TaskMeasure, EvalError> {
    let mut task = TaskMeasure {
        name: paired.task().into(),
        metric: paired.metric.name.clone(),
        n: paired.n(),
        ..TaskMeasure::default()
    };
    if !scores_answers(paired.metric.aggregation) {
        task.notes.push(format!("{} is no score of single answers, so nothing can flip", paired.metric.name));
        return Ok(task);
    }
    let unit = if paired.metric.is_share { Unit::Share } else { Unit::Plain };
    task.numbers = vec![
        number("before", "before", paired.value(paired.before.iter()), None, unit),
        number("after", "after", paired.value(paired.after.iter()), None, unit),
    ];
    if paired.right_or_wrong() {
        of_answers(paired, options, &mut task)?;
    } else {
        of_scores(paired, options, &mut task);
    }
    Ok(task)
}

/// Perplexities are of texts, a calibration error is of confidences.
fn scores_answers(aggregation: Aggregation) -> bool {
    !matches!(aggregation, Aggregation::WeightedPerplexity | Aggregation::BitsPerByte | Aggregation::Ece { .. })
}

/// Answers that are right or wrong.
fn of_answers(paired: &Paired<'_>, options: &MeasureOptions, task: &mut TaskMeasure) -> Result<(), EvalError> {
    let mut flips = Vec::with_capacity(paired.n());
    for (i, (before, after)) in paired.rows.iter().enumerate() {
        let same = match (answer(before, paired.base)?, answer(after, paired.tuned)?) {
            (Some(before), Some(after)) => Some(before == after),
            _ => None,
        };
        flips.push(match (paired.is_right(paired.before[i].score), paired.is_right(paired.after[i].score), same) {
            (true, true, _) => Flip::RightRight,
            (true, false, _) => Flip::RightWrong,
            (false, true, _) => Flip::WrongRight,
            (false, false, Some(true)) => Flip::WrongSame,
            (false, false, Some(false)) => Flip::WrongOther,
            (false, false, None) => Flip::WrongWrong,
        });
    }
    let n = paired.n();
    let count = |flip: Flip| flips.iter().filter(|other| **other == flip).count();
    let rate = |name: &str, label: &str, k: usize| share(name, label, k, n, options);
    task.numbers.push(rate("negative_flip_rate", "negative flips", count(Flip::RightWrong)));
    task.numbers.push(rate("positive_flip_rate", "positive flips", count(Flip::WrongRight)));
    let cell = |flip: Flip| Some(count(flip) as f64);
    let rows = vec!["right before".to_owned(), "wrong before".to_owned()];
    let title = "Flip matrix".to_owned();
    let table = if knows_answers(paired.base) {
        let inconsistent = count(Flip::RightWrong) + count(Flip::WrongOther);
        task.numbers.push(rate("inconsistency_rate", "inconsistent", inconsistent));
        let others = count(Flip::WrongOther);
        if others > 0 && Kind::from_name(&paired.base.kind) == Some(Kind::GenerateUntil) {
            task.notes.push(format!(
                "{others} of the {inconsistent} inconsistent answers were wrong before, too, and only read otherwise now: any change \
                 of a written answer counts, of its wording too"
            ));
        }
        let columns = ["right after", "wrong after, same answer", "wrong after, another answer"];
        let cells = vec![
            vec![cell(Flip::RightRight), None, cell(Flip::RightWrong)],
            vec![cell(Flip::WrongRight), cell(Flip::WrongSame), cell(Flip::WrongOther)],
        ];
        Table { title, unit: Unit::Count, columns: columns.map(str::to_owned).into(), rows, cells }
    } else {
        let columns = ["right after", "wrong after"].map(str::to_owned).into();
        let cells = vec![
            vec![cell(Flip::RightRight), cell(Flip::RightWrong)],
            vec![cell(Flip::WrongRight), cell(Flip::WrongWrong)],
        ];
        Table { title, unit: Unit::Count, columns, rows, cells }
    };
    task.tables.push(table);
    task.rows = flips.iter().enumerate().map(|(i, flip)| row(paired, i, *flip)).collect();
    Ok(())
}

fn row(paired: &Paired<'_>, i: usize, flip: Flip) -> serde_json::Value {
    let (before, after) = paired.rows[i];
    let mut row = json!({
        "id": before.id,
        "change": flip.name(),
        "negative_flip": flip == Flip::RightWrong,
        "positive_flip": flip == Flip::WrongRight,
        "target": paired.shown(&before.target),
        "before": paired.shown(&before.answer),
        "after": paired.shown(&after.answer),
    });
    if let Some(inconsistent) = flip.is_inconsistent() {
        row["inconsistent"] = inconsistent.into();
    }
    row
}

/// Whether a task's rows say what was answered, and not only whether it was right.
fn knows_answers(card: &ScorecardHeader) -> bool {
    matches!(Kind::from_name(&card.kind), Some(Kind::MultipleChoice | Kind::GenerateUntil))
}

/// The answer that was right or wrong; `None` for a task that asks for none.
///
/// Of several choices it is the text: two choices of one text are one answer. Of a written text it is what the filters of the
/// main metric left of it, without the white space around: two reasonings that end in the same number are one answer.
fn answer<'r>(row: &'r ScorecardRow, card: &ScorecardHeader) -> Result<Option<&'r str>, EvalError> {
    let (found, needs) = match Kind::from_name(&card.kind) {
        Some(Kind::MultipleChoice) => {
            // A choice may be empty text; without a choice like it, an empty answer is one that was not written down.
            let known = !row.answer.is_empty() || row.choices.iter().any(|choice| choice.text.is_empty());
            (known.then_some(row.answer.as_str()), "the chosen answer (`answer`)")
        }
        Some(Kind::GenerateUntil) => (row.scored.as_deref().map(str::trim), "the text that was scored (`scored`)"),
        _ => return Ok(None),
    };
    match found {
        Some(answer) => Ok(Some(answer)),
        None => Err(EvalError::MeasureNeeds {
            measure: MEASURE.name,
            task: card.task.clone(),
            model: card.named(),
            id: row.id.clone(),
            needs,
        }),
    }
}

/// Scores between right and wrong.
fn of_scores(paired: &Paired<'_>, options: &MeasureOptions, task: &mut TaskMeasure) {
    let sign = paired.sign();
    let changes: Vec<f64> =
        paired.before.iter().zip(&paired.after).map(|(before, after)| sign * (after.score - before.score)).collect();
    let tolerance = options.tolerance;
    let (losses, gains) = (sizes(&changes, -1.0, tolerance), sizes(&changes, 1.0, tolerance));
    let (lost, gained) = (losses.iter().flatten().count(), gains.iter().flatten().count());
    let n = paired.n();
    let unit = if paired.metric.is_share { Unit::Points } else { Unit::Plain };
    let mean = |name: &str, label: &str, sizes: &[Option<f64>]| {
        let whole: Vec<usize> = (0..n).collect();
        let value = mean_size(sizes, &whole);
        // A single flip is the same one in every resample that has it.
        let varies = sizes.iter().flatten().count() > 1;
        let ends = varies.then(|| groups::interval(&[n], &options.bootstrap, &|drawn| mean_size(sizes, &drawn[0])));
        let ends = ends.map(|interval| (interval.low, interval.high));
        number(name, label, if value.is_nan() { 0.0 } else { value }, ends, unit)
    };
    task.numbers.extend([
        share("negative_flip_rate", "negative flips", lost, n, options),
        share("positive_flip_rate", "positive flips", gained, n, options),
        mean("mean_loss", "mean loss", &losses),
        mean("mean_gain", "mean gain", &gains),
    ]);
    task.tables.push(Table {
        title: "Flips".into(),
        unit: Unit::Count,
        columns: ["worse", "unchanged", "better"].map(str::to_owned).into(),
        rows: vec!["examples".into()],
        cells: vec![vec![Some(lost as f64), Some((n - lost - gained) as f64), Some(gained as f64)]],
    });
    if lost + gained > 0 {
        let over = |what: &str, count: usize, change: &str| match count {
            0 => format!("no example got {change}"),
            1 => format!("the mean {what} is that of the one example that got {change}"),
            _ => format!("the mean {what} is over the {count} examples that got {change}"),
        };
        task.notes.push(format!("{}; {}", over("loss", lost, "worse"), over("gain", gained, "better")));
    }
    if tolerance > 0.0 {
        task.notes.push(format!("changes of the score up to {tolerance} count as none"));
    }
    let row = |i: usize| {
        let (before, after) = paired.rows[i];
        let mut row = json!({
            "id": before.id,
            "change": if losses[i].is_some() { "worse" } else if gains[i].is_some() { "better" } else { "unchanged" },
            "negative_flip": losses[i].is_some(),
            "positive_flip": gains[i].is_some(),
            "difference": changes[i],
            "target": paired.shown(&before.target),
            "before": paired.shown(&before.answer),
            "after": paired.shown(&after.answer),
        });
        // What the means are over: the flips alone have a size.
        for (name, size) in [("loss", losses[i]), ("gain", gains[i])] {
            if let Some(size) = size {
                row[name] = size.into();
            }
        }
        row
    };
    task.rows = (0..n).map(row).collect();
}

/// The sizes of the changes in one direction that are beyond the tolerance.
fn sizes(changes: &[f64], direction: f64, tolerance: f64) -> Vec<Option<f64>> {
    changes.iter().map(|change| Some(direction * change).filter(|size| *size > tolerance)).collect()
}

/// The mean of the sizes at some indices; NaN without one.
fn mean_size(sizes: &[Option<f64>], at: &[usize]) -> f64 {
    let (sum, count) = at.iter().filter_map(|&i| sizes[i]).fold((0.0, 0usize), |(sum, n), size| (sum + size, n + 1));
    sum / count as f64
}

fn share(name: &str, label: &str, k: usize, n: usize, options: &MeasureOptions) -> Number {
    Number::share(name, label, k, n, options)
}

fn number(name: &str, label: &str, value: f64, interval: Option<(f64, f64)>, unit: Unit) -> Number {
    Number::new(name, label, value, interval, unit)
}
