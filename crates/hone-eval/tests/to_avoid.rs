//! Tasks whose metric counts answers to avoid, as refusals of harmless requests: an answer is right that scores 0, in the ledger
//! and in every measure.

use hone_eval::compare::{CompareOptions, compare};
use hone_eval::ledger::Ledger;
use hone_eval::measures::{MEASURES, TaskMeasure, Unit};
use hone_eval::scorecard::{ChoiceScore, MetricValue, Scorecard, ScorecardHeader, ScorecardRow};
use hone_eval::statistics::BootstrapOptions;

const REFUSAL: &str = "I cannot help with that.";

fn share(name: &str, higher_is_better: bool) -> MetricValue {
    MetricValue { name: name.into(), higher_is_better, is_share: true, ..MetricValue::default() }
}

/// Written answers to harmless requests: 1 where the model declines.
fn harmless(declines: &[f64]) -> Scorecard {
    let row = |(i, &score): (usize, &f64)| ScorecardRow {
        id: i.to_string(),
        prompt_sha256: format!("hash {i}"),
        answer: if score == 1.0 { REFUSAL } else { "Of course." }.into(),
        scored: Some(if score == 1.0 { REFUSAL } else { "Of course." }.into()),
        scores: [("refusal".to_owned(), score)].into(),
        score,
        ..ScorecardRow::default()
    };
    let header = ScorecardHeader {
        task: "harmless".into(),
        kind: "generate_until".into(),
        main_metric: "refusal".into(),
        labels: [("safety", "benign")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        metrics: vec![share("refusal", false)],
        n: declines.len(),
        ..ScorecardHeader::default()
    };
    Scorecard { header, rows: declines.iter().enumerate().map(row).collect() }
}

/// The same by likelihood: the choice that is named is the refusal, whose share of the two choices' probability is given.
fn likely(refusals: &[f64], further: &[&str]) -> Scorecard {
    let choice =
        |text: &str, p: f64| ChoiceScore { text: text.into(), log_likelihood: p.ln(), tokens: 1, is_greedy: false };
    let row = |(i, &p): (usize, &f64)| {
        let score = f64::from(u8::from(p > 0.5));
        let more = further.iter().map(|text| choice(text, 1e-6));
        ScorecardRow {
            id: i.to_string(),
            prompt_sha256: format!("hash {i}"),
            target: REFUSAL.into(),
            choices: [choice(REFUSAL, p), choice("Sure.", 1.0 - p)].into_iter().chain(more).collect(),
            answer: if score == 1.0 { REFUSAL } else { "Sure." }.into(),
            scores: [("acc".to_owned(), score)].into(),
            score,
            ..ScorecardRow::default()
        }
    };
    let header = ScorecardHeader {
        task: "harmless_likelihood".into(),
        kind: "multiple_choice".into(),
        main_metric: "acc".into(),
        metrics: vec![share("acc", false)],
        n: refusals.len(),
        ..ScorecardHeader::default()
    };
    Scorecard { header, rows: refusals.iter().enumerate().map(row).collect() }
}

fn compared(base: Scorecard, tuned: Scorecard) -> Ledger {
    let options = CompareOptions {
        bootstrap: BootstrapOptions { resamples: 300, ..BootstrapOptions::default() },
        measures: MEASURES.iter().collect(),
        only_fitting_measures: true,
        ..CompareOptions::default()
    };
    compare(&[base], &[tuned], &options).unwrap()
}

fn measure<'a>(ledger: &'a Ledger, name: &str, task: &str) -> &'a TaskMeasure {
    let of = ledger.measures.iter().find(|measure| measure.name == name).unwrap_or_else(|| panic!("no {name}"));
    of.tasks.iter().find(|found| found.name == task).unwrap_or_else(|| panic!("{name}: no {task}"))
}

fn value(measure: &TaskMeasure, name: &str) -> f64 {
    measure.numbers.iter().find(|number| number.name == name).unwrap_or_else(|| panic!("no {name}: {measure:?}")).value
}

/// Of eight harmless requests one is declined before and another one after.
#[test]
fn an_answer_that_does_not_decline_is_right() {
    let ledger = compared(
        harmless(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
        harmless(&[0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
    );
    let task = &ledger.tasks[0];
    assert_eq!((task.gained, task.lost, task.both_right, task.both_wrong), (1, 2, 4, 1));
    assert_eq!(task.mcnemar_p, Some(1.0), "one against two");
    assert_eq!((task.base, task.tuned), (0.25, 0.375), "the share itself is that of refusals, as ever");
    assert!(task.effect.is_some_and(|effect| effect > 0.0), "signed as the difference: {:?}", task.effect);
    let change = |id: &str| ledger.examples.iter().find(|e| e.id == id).map(|e| e.change.as_str());
    assert_eq!(["0", "1", "3", "7"].map(change), ["gained", "lost", "both_right", "both_wrong"].map(Some));

    let flips = measure(&ledger, "compatibility", "harmless");
    assert_eq!((value(flips, "negative_flip_rate"), value(flips, "positive_flip_rate")), (0.25, 0.125));
    assert_eq!(value(flips, "inconsistency_rate"), 0.25, "the refusal that stayed reads the same");
    assert!(flips.numbers.iter().all(|number| number.name != "mean_loss"), "{:?}", flips.numbers);
    assert_eq!(flips.tables[0].title, "Flip matrix");
    assert_eq!(flips.tables[0].cells, [[Some(4.0), None, Some(2.0)], [Some(1.0), Some(1.0), Some(0.0)]]);
    // The rates of the measure of refusals are those of refusals.
    let safety = measure(&ledger, "safety", "by refusal");
    assert_eq!((value(safety, "benign_declined_before"), value(safety, "benign_declined_after")), (0.25, 0.375));
    assert_eq!(value(measure(&ledger, "forgetting", "all skills"), "mean_loss"), 0.125);
}

/// A model that is 90 % sure of complying and complies is right and a little underconfident, not wrong throughout.
#[test]
fn of_two_choices_the_one_that_is_not_named_is_right() {
    let ledger = compared(likely(&[0.1, 0.1, 0.1, 0.1], &[]), likely(&[0.1, 0.1, 0.1, 0.8], &[]));
    let sure = measure(&ledger, "calibration", "harmless_likelihood");
    assert!(
        (value(sure, "ece_before") - 0.1).abs() < 1e-9 && (value(sure, "overconfidence_before") + 0.1).abs() < 1e-9
    );
    // Three of four right at 0.9, the fourth wrong at 0.8.
    assert!((value(sure, "overconfidence_after") - ((3.0 * 0.9 + 0.8) / 4.0 - 0.75)).abs() < 1e-9);
    assert_eq!(sure.rows.iter().filter(|row| row["right_after"] == true).count(), 3);
    assert!(sure.notes.iter().any(|note| note.contains("the other one is right")), "{:?}", sure.notes);

    let of = |score: &str| measure(&ledger, "likelihoods", &format!("harmless_likelihood-{score}"));
    assert!((value(of("log_p"), "before") - 0.9f64.ln()).abs() < 1e-9);
    assert!((value(of("p_choices"), "after") - (3.0 * 0.9 + 0.2) / 4.0).abs() < 1e-9);
    assert!(value(of("p_choices"), "change") < 0.0, "declining more is worse");
    assert_eq!((value(of("accuracy"), "before"), value(of("accuracy"), "after")), (1.0, 0.75));
    assert_eq!(of("accuracy").numbers[0].unit, Unit::Share);
    assert!(of("log_p").notes.iter().any(|note| note.contains("the other one is right")), "{:?}", of("log_p").notes);
    // Each score is the mean of its own rows.
    for name in ["log_p", "p", "p_choices", "brier", "accuracy"] {
        let sum: f64 = of(name).rows.iter().filter_map(|row| row["after"].as_f64()).sum();
        assert!((sum / 4.0 - value(of(name), "after")).abs() < 1e-12, "{name}");
    }
}

/// Of three choices, one of which is to be avoided, nobody knows which is right.
#[test]
fn of_more_choices_none_is_guessed_to_be_right() {
    let card = likely(&[0.1, 0.2, 0.9], &["Perhaps."]);
    let ledger = compared(card.clone(), card);
    for (name, task) in [("calibration", "harmless_likelihood"), ("likelihoods", "harmless_likelihood-log_p")] {
        let left_out = measure(&ledger, name, task);
        assert!(left_out.numbers.is_empty() && left_out.rows.is_empty(), "{left_out:?}");
        assert!(left_out.notes[0].contains("more than two choices"), "{:?}", left_out.notes);
    }
    // Flips need no right answer by name.
    assert_eq!(ledger.tasks[0].both_right, 2);
}

/// A Brier score has a direction too, and its target is the right answer all the same.
#[test]
fn a_metric_of_errors_does_not_turn_what_is_right() {
    let mut card = likely(&[0.9, 0.9], &[]);
    card.header.main_metric = "brier_score".into();
    card.header.metrics =
        vec![MetricValue { name: "brier_score".into(), ..MetricValue::default() }, share("acc", true)];
    for row in &mut card.rows {
        row.scores.insert("brier_score".into(), 0.0);
        row.score = 0.0;
    }
    let ledger = compared(card.clone(), card);
    assert_eq!(value(measure(&ledger, "likelihoods", "harmless_likelihood-accuracy"), "before"), 1.0);
    assert!((value(measure(&ledger, "calibration", "harmless_likelihood"), "ece_before") - 0.1).abs() < 1e-9);
    assert_eq!(ledger.tasks[0].mcnemar_p, None, "an error of 0 is no answer of one kind");
}
