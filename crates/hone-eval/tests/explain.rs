//! Explanations of cards and pairs of cards: the parts that no unit test of the module covers.

use hone_eval::compare::{CompareOptions, compare};
use hone_eval::explain::{self, ExplainError, Options};
use hone_eval::metrics::Aggregation;
use hone_eval::scorecard::{ChoiceScore, MetricValue, Scorecard, ScorecardHeader, ScorecardRow};
use hone_eval::statistics::BootstrapOptions;

/// Questions with two choices; the log-likelihood of the right one, that of the other is -2.
fn card(right: &[f64]) -> Scorecard {
    let choice = |text: &str, log_likelihood: f64| ChoiceScore {
        text: text.into(),
        log_likelihood,
        tokens: 1,
        is_greedy: false,
    };
    let row = |(i, log_likelihood): (usize, &f64)| {
        let score = f64::from(u8::from(*log_likelihood > -2.0));
        ScorecardRow {
            id: i.to_string(),
            prompt_sha256: format!("hash {i}"),
            prompt: format!("Question {i}"),
            target: "yes".into(),
            choices: vec![choice("yes", *log_likelihood), choice("no", -2.0)],
            answer: if score > 0.0 { "yes" } else { "no" }.into(),
            scores: [("acc".to_owned(), score), ("brier_score".to_owned(), 1.0 - score)].into(),
            score,
            ..ScorecardRow::default()
        }
    };
    let n = right.len();
    let share = right.iter().filter(|log_likelihood| **log_likelihood > -2.0).count() as f64 / n as f64;
    let metric = |name: &str, value: f64, is_share: bool| MetricValue {
        name: name.into(),
        value,
        stderr: is_share.then(|| (share * (1.0 - share) / (n - 1) as f64).sqrt()),
        higher_is_better: is_share,
        aggregation: Aggregation::Mean,
        is_share,
    };
    let header = ScorecardHeader {
        task: "piqa".into(),
        model: "model".into(),
        kind: "multiple_choice".into(),
        main_metric: "acc".into(),
        n,
        metrics: vec![metric("acc", share, true), metric("brier_score", 1.0 - share, false)],
        ..ScorecardHeader::default()
    };
    Scorecard { header, rows: right.iter().enumerate().map(row).collect() }
}

const BASE: [f64; 8] = [-1.0, -1.5, -3.0, -1.0, -1.9, -9.0, -0.5, -1.0];
const TUNED: [f64; 8] = [-1.0, -2.5, -1.0, -1.0, -1.9, -9.0, -0.5, -2.5];

fn options() -> Options {
    Options { bootstrap: BootstrapOptions { resamples: 500, ..BootstrapOptions::default() }, ..Options::default() }
}

#[test]
fn a_metric_of_a_card_is_explained_down_to_its_choices() {
    let card = card(&BASE);
    let found = explain::card::of(&card, "acc", &options()).unwrap();
    let steps = found.steps.join("\n");
    for part in [
        "acc: 1/N Σ [argmax_c ll(c) is right]",
        "acc = 6 right / 8 questions = 0.7500",
        "standard error = √(0.7500 · (1 − 0.7500) / (8 − 1)) = 0.1637",
        "percentiles of 500 resamples of the 8 questions (bootstrap, seed 1234)",
    ] {
        assert!(steps.contains(part), "no {part}: {steps}");
    }
    assert!(!steps.contains("header"), "the header holds what the rows make: {steps}");
    assert_eq!(found.definition, "share of questions whose most likely choice is right");
    // Wrong answers move a value above one half more than right ones; the surest of them first.
    let ids: Vec<&str> = found.examples.iter().map(|example| example.id.as_str()).collect();
    assert_eq!(ids, ["5", "2", "6", "0", "3"]);
    let first = &found.examples[0];
    assert!((first.influence.unwrap() - (0.75 - 6.0 / 7.0)).abs() < 1e-12, "{first:?}");
    let choices = first.facts.iter().find(|fact| fact.label == "choices").unwrap();
    assert!(choices.value.contains("−2  no  ← picked") && choices.value.contains("−9  yes  ← right"), "{choices:?}");
    assert_eq!(found.examples.len(), 5);
    assert_eq!(found.n, 8);
}

#[test]
fn a_header_that_its_rows_do_not_make_is_said_to_be_one() {
    let mut card = card(&BASE);
    card.header.metrics[0].value = 0.9;
    let steps = explain::card::of(&card, "acc", &options()).unwrap().steps.join("\n");
    assert!(steps.contains("the card's header says 0.9000, which its rows do not make"), "{steps}");
    match explain::card::of(&card, "brier", &options()) {
        Err(ExplainError::Unknown { known, .. }) => assert_eq!(known, "acc, brier_score"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_cards_give_what_the_comparison_gives() {
    let (base, tuned) = (card(&BASE), card(&TUNED));
    let compared = CompareOptions { bootstrap: options().bootstrap, ..CompareOptions::default() };
    let ledger = compare(std::slice::from_ref(&base), std::slice::from_ref(&tuned), &compared).unwrap();
    let found = explain::comparison::of_cards(&base, &tuned, "acc", &options()).unwrap();
    assert_eq!(found.value, ledger.tasks[0].difference);
    assert_eq!(found.interval, Some((ledger.tasks[0].ci_low, ledger.tasks[0].ci_high)));
    assert!(found.steps.iter().any(|step| step == "difference = (1 − 2) / 8 = −0.1250"), "{:?}", found.steps);
    let changed: Vec<&str> = found.examples.iter().take(3).map(|example| example.id.as_str()).collect();
    assert_eq!(changed, ["1", "7", "2"], "losses before gains");
    // Another metric than the one compared by.
    let brier = explain::comparison::of_cards(&base, &tuned, "brier_score", &options()).unwrap();
    assert!((brier.value - 0.125).abs() < 1e-12, "{}", brier.value);
    let mut secret = tuned.clone();
    secret.header.sensitive = true;
    let texts = format!("{:?}", explain::comparison::of_cards(&base, &secret, "acc", &options()).unwrap().examples);
    assert!(!texts.contains("Question"), "{texts}");
}

#[test]
fn ways_of_one_task_are_listed_together() {
    let named = |name: &str, right: &[f64]| {
        let mut card = card(right);
        card.header.task = name.into();
        card
    };
    let base = [named("piqa@plain", &BASE), named("piqa@asked", &BASE), named("other", &BASE)];
    let tuned = [named("piqa@plain", &TUNED), named("piqa@asked", &BASE), named("other", &TUNED)];
    let compared = CompareOptions { bootstrap: options().bootstrap, ..CompareOptions::default() };
    let ledger = compare(&base, &tuned, &compared).unwrap();
    let ways = explain::comparison::ways(&ledger.tasks, "piqa@plain");
    assert_eq!(ways.iter().map(|way| (way.task.as_str(), way.value)).collect::<Vec<_>>(), [("piqa@asked", 0.0)]);
    assert_eq!(explain::comparison::ways(&ledger.tasks, "other"), Vec::new());
}
