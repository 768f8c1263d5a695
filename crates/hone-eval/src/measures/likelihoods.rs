//! The way from log-likelihoods to accuracy: five scores of the same answers, each of which forgets a little more.
//!
//! Schaeffer et al. 2024, "Why Has Predicting Downstream Capabilities of Frontier AI Models with Scale Remained Elusive?", arXiv
//! 2406.04391. For a question with choices `c`, the right one `c*`, and `ln p(c)` the log-likelihood of a choice's tokens:
//!
//! ```text
//! s1 = ln p(c*)                           log-probability of the right answer among all texts
//! s2 = p(c*) = exp(s1)
//! s3 = p(c*) / Σ_c p(c)                   among the choices; a softmax over the log-likelihoods
//! s4 = −Σ_c (1[c = c*] − p(c)/Σ p)²       Brier score, its sign turned so that more is better; −2 to 0
//! s5 = 1[c* = argmax p(c)]                accuracy; ties go to the first choice
//! ```
//!
//! `s1` and `s2` look at the right answer alone; from `s3` on the wrong ones decide with it, and they change with training, too. So a
//! model can become surer of every right answer and no better. The correlations of these scores with compute, over more than two
//! models, are `hone predict ladder`'s.
//!
//! A row says which choice is right by its text. Where the task's metric counts answers to avoid (less is better, as of refusals of
//! harmless requests), its text names the wrong one: of two choices the other one is right. Questions with several right answers, or none among the choices, are left out and
//! counted. Sums of log-probabilities are taken as they are: dividing by length (`acc_norm`) changes which answer wins.
//!
//! What it does not know: whether a model is useful. That `ln p(c*)` moves smoothly says nothing about what the model can do.

use serde_json::json;

use super::calibration::{MORE_TO_AVOID, TO_AVOID};
use super::{Measure, MeasureOptions, Number, OF_QUESTIONS, TaskMeasure, Unit};
use crate::error::EvalError;
use crate::metrics::choice::{ChoiceOutcome, Gold};
use crate::pairing::Paired;
use crate::scorecard::{ScorecardHeader, ScorecardRow};
use crate::statistics::bootstrap_interval;

/// The measure.
pub const MEASURE: Measure = Measure {
    name: "likelihoods",
    question: "Where on the way from likelihood to accuracy is the change lost?",
    legend: "Five scores of the same answers, for all of which more is better: log-probability of the right answer, its probability, \
             its probability among the choices, the Brier score with its sign turned, accuracy.",
    source: "Schaeffer et al. 2024, arXiv 2406.04391",
    formulas: &[
        "s1 = ln p(right answer), s2 = p(right answer), s3 = p among the choices",
        "s4 = −Brier, s5 = accuracy",
    ],
    how: |_| OF_QUESTIONS,
    differences: &[],
    unasked: false,
    of,
};

/// The five scores of one answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// `ln p` of the right answer.
    pub log_p: f64,
    /// The probability of the right answer; 0 where it is too small for a number.
    pub p: f64,
    /// Its probability if one of the choices has to be it.
    pub p_choices: f64,
    /// The Brier score, its sign turned.
    pub brier: f64,
    /// 1 if the right answer is the most likely one.
    pub accuracy: f64,
}

impl Scores {
    /// Names of the scores in files, in the order of [`Scores::all`]: from likelihood to accuracy.
    pub const NAMES: [&'static str; 5] = ["log_p", "p", "p_choices", "brier", "accuracy"];

    /// Their names for people.
    pub const LABELS: [&'static str; 5] =
        ["log p(right)", "p(right)", "p(right) among the choices", "−Brier", "accuracy"];

    /// Of log-likelihoods of choices, of which `right` is the right one.
    ///
    /// Panics if there is no such choice.
    pub fn new(log_likelihoods: &[f64], right: usize) -> Scores {
        let gold = Gold { indices: vec![right] };
        let outcome = ChoiceOutcome {
            choices: &[],
            log_likelihoods,
            is_greedy: &[],
            unconditional: None,
            gold: &gold,
            group: None,
        };
        Scores {
            log_p: log_likelihoods[right],
            p: log_likelihoods[right].exp(),
            p_choices: outcome.probabilities()[right],
            brier: -outcome.brier(),
            accuracy: outcome.acc(),
        }
    }

    /// All five.
    pub fn all(&self) -> [f64; 5] {
        [self.log_p, self.p, self.p_choices, self.brier, self.accuracy]
    }
}

/// The place of a row's right answer among its choices: that of its target, or where the task names the choice to avoid, the other
/// one of two. `None` where several are right, none is, or two have the same text.
pub fn right_choice(header: &ScorecardHeader, row: &ScorecardRow) -> Option<usize> {
    let mut found = row.choices.iter().enumerate().filter(|(_, choice)| choice.text == row.target).map(|(i, _)| i);
    let named = found.next().filter(|_| found.next().is_none())?;
    match (header.target_is_to_avoid(), row.choices.len()) {
        (false, _) => Some(named),
        (true, 2) => Some(1 - named),
        (true, _) => None,
    }
}

/// The log-likelihoods of a row's choices, in order.
pub fn log_likelihoods(row: &ScorecardRow) -> Vec<f64> {
    row.choices.iter().map(|choice| choice.log_likelihood).collect()
}

fn of(all: &[Paired<'_>], options: &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError> {
    let of_choices = |paired: &&Paired<'_>| paired.has_log_likelihoods();
    Ok(all.iter().filter(of_choices).flat_map(|paired| of_task(paired, options)).collect())
}

/// A measure for each score of a task.
fn of_task(paired: &Paired<'_>, options: &MeasureOptions) -> Vec<TaskMeasure> {
    // By example: its place, and the five scores before and after.
    let scores: Vec<(usize, [Scores; 2])> = (paired.rows.iter().enumerate())
        .filter_map(|(i, (before, after))| {
            let right = right_choice(paired.base, before)?;
            // The same question has the same choices.
            let of =
                |row: &ScorecardRow| (row.choices.len() > right).then(|| Scores::new(&log_likelihoods(row), right));
            Some((i, [of(before)?, of(after)?]))
        })
        .collect();
    let left_out = paired.n() - scores.len();
    let mut measures: Vec<TaskMeasure> = Vec::new();
    for (k, (name, label)) in Scores::NAMES.iter().zip(Scores::LABELS).enumerate() {
        let (unit, difference) = match *name {
            "log_p" | "brier" => (Unit::Plain, Unit::Plain),
            _ => (Unit::Share, Unit::Points),
        };
        let value =
            |at: &[usize], side: usize| at.iter().map(|&i| scores[i].1[side].all()[k]).sum::<f64>() / at.len() as f64;
        let statistics: [(&str, &(dyn Fn(&[usize]) -> f64 + Sync), Unit); 3] = [
            ("before", &|at| value(at, 0), unit),
            ("after", &|at| value(at, 1), unit),
            ("change", &|at| value(at, 1) - value(at, 0), difference),
        ];
        let whole: Vec<usize> = (0..scores.len()).collect();
        let numbers = statistics.into_iter().filter(|_| !scores.is_empty()).map(|(name, of, unit)| {
            let interval = bootstrap_interval(scores.len(), &options.bootstrap, of);
            Number::new(name, name, of(&whole), Some((interval.low, interval.high)), unit)
        });
        let row = |(i, [before, after]): &(usize, [Scores; 2])| {
            let (before, after) = (before.all()[k], after.all()[k]);
            json!({ "id": paired.rows[*i].0.id, "before": before, "after": after, "change": after - before })
        };
        measures.push(TaskMeasure {
            name: format!("{}-{name}", paired.task()),
            metric: label.into(),
            n: scores.len(),
            tasks: vec![paired.task().to_owned()],
            numbers: numbers.collect(),
            rows: scores.iter().map(row).collect(),
            ..TaskMeasure::default()
        });
    }
    if let Some(first) = measures.first_mut() {
        let to_avoid = paired.base.target_is_to_avoid();
        let of_more = to_avoid && paired.rows.iter().any(|(row, _)| row.choices.len() > 2);
        match (to_avoid, of_more) {
            (_, true) => first.notes.push(MORE_TO_AVOID.into()),
            (true, false) => first.notes.push(TO_AVOID.into()),
            (false, false) => {}
        }
        if left_out > 0 && !of_more {
            first
                .notes
                .push(format!("{left_out} questions have no one right answer among their choices and are left out"));
        }
        // All five beside each other, for who looks at one question.
        for (row, (_, [before, after])) in first.rows.iter_mut().zip(&scores) {
            for (name, (before, after)) in Scores::NAMES.iter().zip(before.all().into_iter().zip(after.all())) {
                row[format!("{name}_before")] = before.into();
                row[format!("{name}_after")] = after.into();
            }
        }
    }
    measures
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scorecard::{ChoiceScore, MetricValue};

    /// In `f64` by Python's `math`, of log-likelihoods -12, -11.5, -14, -13, the first choice right.
    #[test]
    fn the_five_scores_are_the_papers() {
        let scores = Scores::new(&[-12.0, -11.5, -14.0, -13.0], 0);
        let expected = [-12.0, 6.144_212_353_328_21e-6, 0.317_265_325_676_664_66, -0.755_207_594_289_611_8, 0.0];
        for (found, expected) in scores.all().into_iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{found}, expected {expected}");
        }
        for (right, expected) in
            [0.317_265_325_676_664_66, 0.523_082_090_898_720_6, 0.042_937_192_711_607_584, 0.116_715_390_713_007_04]
                .into_iter()
                .enumerate()
        {
            let found = Scores::new(&[-12.0, -11.5, -14.0, -13.0], right).p_choices;
            assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
        }
        // Long answers have no probability that is a number, and one among the choices all the same.
        let long = Scores::new(&[-2000.0, -2001.0], 0);
        assert!(long.p == 0.0 && (long.p_choices - 0.731_058_578_630_004_9).abs() < 1e-12 && long.accuracy == 1.0);
    }

    #[test]
    fn the_right_choice_is_found_by_its_text() {
        let row = |target: &str, choices: &[&str]| ScorecardRow {
            target: target.into(),
            choices: choices
                .iter()
                .map(|text| ChoiceScore { text: (*text).into(), log_likelihood: -1.0, tokens: 1, is_greedy: false })
                .collect(),
            ..ScorecardRow::default()
        };
        let header = ScorecardHeader::default();
        assert_eq!(right_choice(&header, &row("b", &["a", "b"])), Some(1));
        assert_eq!(right_choice(&header, &row("a | b", &["a", "b"])), None);
        assert_eq!(right_choice(&header, &row("a", &["a", "b", "a"])), None);
        // Where the target is to be avoided, the other one of two is right.
        let acc = MetricValue { name: "acc".into(), is_share: true, higher_is_better: false, ..MetricValue::default() };
        let avoided = ScorecardHeader { main_metric: "acc".into(), metrics: vec![acc], ..ScorecardHeader::default() };
        assert_eq!(right_choice(&avoided, &row("b", &["a", "b"])), Some(0));
        assert_eq!(right_choice(&avoided, &row("b", &["a", "b", "c"])), None);
    }

    proptest! {
        #[test]
        fn what_holds_for_any_answers(
            log_likelihoods in prop::collection::vec(-60.0..0.0f64, 2..6),
            right in 0usize..2,
            shift in -20.0..20.0f64,
        ) {
            let scores = Scores::new(&log_likelihoods, right);
            let sum: f64 = (0..log_likelihoods.len()).map(|i| Scores::new(&log_likelihoods, i).p_choices).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9);
            prop_assert!((-2.0..=0.0).contains(&scores.brier));
            // A right answer more likely than not, among all texts, is the most likely choice; the total is at most 1 then.
            let total: f64 = log_likelihoods.iter().map(|l| l.exp()).sum();
            prop_assert!(!(scores.p > 0.5 && total <= 1.0) || scores.accuracy == 1.0);
            let shifted: Vec<f64> = log_likelihoods.iter().map(|l| l + shift).collect();
            let shifted = Scores::new(&shifted, right);
            prop_assert_eq!(shifted.accuracy, scores.accuracy);
            prop_assert!((shifted.p_choices - scores.p_choices).abs() < 1e-9);
        }
    }
}
