//! The measure `calibration`: numbers worked out by hand, its diagram, and cards it must refuse or leave out.

use hone_eval::EvalError;
use hone_eval::measures::calibration::MEASURE;
use hone_eval::measures::{Drawing, MeasureOptions, TaskMeasure};
use hone_eval::metrics::Aggregation;
use hone_eval::pairing::Paired;
use hone_eval::scorecard::{ChoiceScore, MetricValue, Scorecard, ScorecardHeader, ScorecardRow};
use hone_eval::statistics::BootstrapOptions;

/// A card of questions with two choices: the confidence in the choice taken, and whether it was right.
fn card(answers: &[(f64, bool)], with_acc: bool) -> Scorecard {
    let choice = |text: &str, log_likelihood: f64| ChoiceScore {
        text: text.into(),
        log_likelihood,
        tokens: 1,
        is_greedy: false,
    };
    let row = |(i, (confidence, right)): (usize, &(f64, bool))| ScorecardRow {
        id: i.to_string(),
        prompt_sha256: format!("hash {i}"),
        target: if *right { "yes" } else { "no" }.into(),
        // Softmax of these is the confidence and its rest; a common addend changes nothing.
        choices: vec![choice("yes", confidence.ln() - 20.0), choice("no", (1.0 - confidence).ln() - 20.0)],
        answer: "yes".into(),
        scores: if with_acc { [("acc".to_owned(), f64::from(u8::from(*right)))].into() } else { Default::default() },
        score: f64::from(u8::from(*right)),
        ..ScorecardRow::default()
    };
    let metric = MetricValue { name: "acc".into(), higher_is_better: true, is_share: true, ..MetricValue::default() };
    let header = ScorecardHeader {
        task: "task".into(),
        model: "model".into(),
        kind: "multiple_choice".into(),
        main_metric: "acc".into(),
        n: answers.len(),
        metrics: vec![metric],
        ..ScorecardHeader::default()
    };
    Scorecard { header, rows: answers.iter().enumerate().map(row).collect() }
}

fn measured(base: &Scorecard, tuned: &Scorecard) -> Result<Vec<TaskMeasure>, EvalError> {
    let paired = Paired::new(base, tuned, false).unwrap();
    let bootstrap = BootstrapOptions { resamples: 400, ..BootstrapOptions::default() };
    (MEASURE.of)(&[paired], &MeasureOptions { bootstrap, tolerance: 0.0 })
}

/// Confidences and outcomes in three of ten bins:
/// (0.5, 0.6]: 2 answers, sure 0.57, right 0.5; (0.8, 0.9]: 1, 0.85, right 1; (0.9, 1]: 2, 0.95, right 0.5.
const BEFORE: [(f64, bool); 5] = [(0.55, true), (0.59, false), (0.85, true), (0.92, false), (0.98, true)];
/// (0.6, 0.7]: 5 answers, sure 0.65, right 0.6.
const AFTER: [(f64, bool); 5] = [(0.65, true), (0.65, true), (0.65, false), (0.65, false), (0.65, true)];

fn value(task: &TaskMeasure, name: &str) -> f64 {
    task.numbers.iter().find(|number| number.name == name).map_or(f64::NAN, |number| number.value)
}

#[test]
fn numbers_are_those_worked_out_by_hand() {
    for with_acc in [true, false] {
        let task = measured(&card(&BEFORE, with_acc), &card(&AFTER, with_acc)).unwrap().remove(0);
        let before = (2.0 * 0.07 + 1.0 * 0.15 + 2.0 * 0.45) / 5.0;
        let expected = [
            ("ece_before", before),
            ("ece_after", 0.05),
            ("ece_change", 0.05 - before),
            ("overconfidence_before", (0.55 + 0.59 + 0.85 + 0.92 + 0.98) / 5.0 - 0.6),
            ("overconfidence_after", 0.05),
        ];
        for (name, expected) in expected {
            let found = value(&task, name);
            assert!((found - expected).abs() < 1e-9, "{name}: {found}, expected {expected}");
        }
        for number in &task.numbers {
            let (low, high) = (number.low.unwrap(), number.high.unwrap());
            assert!(low <= high && low.is_finite() && high.is_finite(), "{number:?}");
        }
    }
}

#[test]
fn the_diagram_and_the_table_hold_the_filled_bins() {
    let task = measured(&card(&BEFORE, true), &card(&AFTER, true)).unwrap().remove(0);
    let Drawing::Lines { diagonal: true, series, .. } = &task.charts[0].drawing else { panic!("{:?}", task.charts) };
    let points: Vec<(f64, f64)> = series[0].points.iter().map(|point| (point.x, point.y)).collect();
    for (found, expected) in points.iter().zip([(0.57, 0.5), (0.85, 1.0), (0.95, 0.5)]) {
        assert!((found.0 - expected.0).abs() < 1e-9 && (found.1 - expected.1).abs() < 1e-9, "{found:?} {expected:?}");
    }
    assert_eq!((points.len(), series[1].points.len()), (3, 1));
    assert!(series[0].points[1].low.unwrap() < 0.3, "one answer says little");
    assert_eq!(task.tables[0].rows, ["50 to 60 %", "60 to 70 %", "80 to 90 %", "90 to 100 %"]);
    assert_eq!(task.tables[0].cells[0], [Some(2.0), Some(0.0)]);
    // Every number is the mean of the field of its name.
    for number in &task.numbers {
        let sum: f64 = task.rows.iter().filter_map(|row| row[&number.name].as_f64()).sum();
        assert!((sum / 5.0 - number.value).abs() < 1e-12, "{}: {}", number.name, sum / 5.0);
    }
    let right = task.rows.iter().filter(|row| row["right_after"] == true).count();
    assert_eq!((task.rows.len(), right), (5, 3));
}

#[test]
fn a_model_against_itself_has_not_changed() {
    let card = card(&BEFORE, true);
    let task = measured(&card, &card).unwrap().remove(0);
    let change = task.numbers.iter().find(|number| number.name == "ece_change").unwrap();
    assert_eq!((change.value, change.low, change.high), (0.0, Some(0.0), Some(0.0)));
}

#[test]
fn bins_are_those_of_the_tasks_own_metric() {
    let with_bins = |mut card: Scorecard| {
        let ece =
            MetricValue { name: "ece".into(), aggregation: Aggregation::Ece { bins: 1 }, ..MetricValue::default() };
        card.header.metrics.push(ece);
        card
    };
    let task = measured(&with_bins(card(&BEFORE, true)), &with_bins(card(&AFTER, true))).unwrap().remove(0);
    // One bin: the distance of the means.
    let expected = (0.55 + 0.59 + 0.85 + 0.92 + 0.98) / 5.0 - 0.6;
    assert!((value(&task, "ece_before") - expected).abs() < 1e-9);
}

#[test]
fn written_answers_are_left_out_and_cards_without_choices_refused() {
    let mut written = card(&BEFORE, true);
    written.header.kind = "generate_until".into();
    assert_eq!(measured(&written, &written).unwrap(), Vec::new());
    let mut without = card(&BEFORE, true);
    without.rows[2].choices.clear();
    let message = measured(&card(&BEFORE, true), &without).unwrap_err().to_string();
    assert!(message.contains("`choices`") && message.contains("example 2"), "{message}");
}
