//! The measure `compatibility`: numbers worked out by hand, what holds for any two models, and cards it must refuse.

use hone_eval::compare::{CompareOptions, compare};
use hone_eval::measures::compatibility::MEASURE;
use hone_eval::measures::{MeasureOptions, Number, TaskMeasure};
use hone_eval::metrics::Aggregation;
use hone_eval::pairing::Paired;
use hone_eval::scorecard::{ChoiceScore, MetricValue, Scorecard, ScorecardHeader, ScorecardRow};
use hone_eval::statistics::BootstrapOptions;
use proptest::prelude::*;

/// A card of `kind` over `metric`; `row` gives each example its answer, the text that was scored, and its score.
fn card(kind: &str, metric: &str, rows: Vec<(String, Option<String>, f64)>) -> Scorecard {
    let aggregation = match metric {
        "word_perplexity" => Aggregation::WeightedPerplexity,
        _ => Aggregation::Mean,
    };
    let metric = MetricValue {
        name: metric.into(),
        value: 0.0,
        stderr: None,
        higher_is_better: !matches!(metric, "word_perplexity" | "brier_score"),
        aggregation,
        is_share: !matches!(metric, "word_perplexity" | "brier_score"),
    };
    let row = |(i, (answer, scored, score)): (usize, (String, Option<String>, f64))| ScorecardRow {
        id: i.to_string(),
        prompt_sha256: format!("hash {i}"),
        prompt: format!("Question {i}"),
        target: "right".into(),
        choices: Vec::new(),
        answer,
        scored,
        target_score: None,
        scores: [(metric.name.clone(), score)].into(),
        parts: [(metric.name.clone(), vec![-1.0, 1.0])].into(),
        score,
        ..ScorecardRow::default()
    };
    let header = ScorecardHeader {
        task: "task".into(),
        version: "1.0".into(),
        task_sha256: "abc".into(),
        model: "model".into(),
        model_sha256: "123".into(),
        edit: Some("runs/old".into()),
        dtype: "f32".into(),
        kind: kind.into(),
        num_fewshot: 0,
        fewshot_seed: 1234,
        chat_template: false,
        main_metric: metric.name.clone(),
        truncated: 0,
        n: rows.len(),
        metrics: vec![metric.clone()],
        seconds: 0.5,
        ..ScorecardHeader::default()
    };
    Scorecard { header, rows: rows.into_iter().enumerate().map(row).collect() }
}

/// A card of several choices: what was picked, against what is right.
fn picks(picked: &[usize], right: &[usize]) -> Scorecard {
    let row = |(p, y): (&usize, &usize)| (format!("choice {p}"), None, f64::from(p == y));
    card("multiple_choice", "acc", picked.iter().zip(right).map(row).collect())
}

/// A card of texts with scores between right and wrong.
fn texts(metric: &str, scores: &[f64]) -> Scorecard {
    let row = |(i, score): (usize, &f64)| (format!("text {i}"), Some(format!("text {i}")), *score);
    card("generate_until", metric, scores.iter().enumerate().map(row).collect())
}

fn options(tolerance: f64) -> MeasureOptions {
    MeasureOptions { bootstrap: BootstrapOptions { resamples: 200, ..BootstrapOptions::default() }, tolerance }
}

fn measured_with(base: &Scorecard, tuned: &Scorecard, tolerance: f64) -> TaskMeasure {
    let paired = Paired::new(base, tuned, false).unwrap();
    (MEASURE.of)(&[paired], &options(tolerance)).unwrap().remove(0)
}

fn measured(base: &Scorecard, tuned: &Scorecard) -> TaskMeasure {
    measured_with(base, tuned, 0.0)
}

fn number<'a>(task: &'a TaskMeasure, name: &str) -> &'a Number {
    task.numbers.iter().find(|number| number.name == name).unwrap_or_else(|| panic!("no {name}: {task:?}"))
}

fn value(task: &TaskMeasure, name: &str) -> f64 {
    number(task, name).value
}

fn cells(task: &TaskMeasure) -> Vec<Vec<Option<usize>>> {
    let whole = |cell: &Option<f64>| cell.map(|value| value as usize);
    task.tables[0].cells.iter().map(|row| row.iter().map(whole).collect()).collect()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
}

/// The method's own example: M₁ = 1 1 0 0 2, M₂ = 1 0 0 1 3, y = 1 1 0 0 0.
#[test]
fn several_choices_by_hand() {
    let right = [1, 1, 0, 0, 0];
    let task = measured(&picks(&[1, 1, 0, 0, 2], &right), &picks(&[1, 0, 0, 1, 3], &right));
    close(value(&task, "before"), 0.8);
    close(value(&task, "after"), 0.4);
    close(value(&task, "negative_flip_rate"), 0.4);
    close(value(&task, "positive_flip_rate"), 0.0);
    close(value(&task, "inconsistency_rate"), 0.6);
    assert_eq!(cells(&task), [[Some(2), None, Some(2)], [Some(0), Some(0), Some(1)]]);
    // By hand, with z = 1.959964: (0.4 + z²/10 ± z √(0.24/5 + z²/100)) / (1 + z²/5).
    let rate = number(&task, "negative_flip_rate");
    assert!(
        (rate.low.unwrap() - 0.117_620_8).abs() < 1e-5 && (rate.high.unwrap() - 0.769_276_2).abs() < 1e-5,
        "{rate:?}"
    );
    let changes: Vec<&str> = task.rows.iter().filter_map(|row| row["change"].as_str()).collect();
    assert_eq!(changes, ["right_right", "right_wrong", "right_right", "right_wrong", "wrong_other"]);
    assert_eq!((&task.rows[4]["inconsistent"], &task.rows[4]["negative_flip"]), (&true.into(), &false.into()));
    assert_eq!((&task.rows[4]["id"], &task.rows[4]["after"]), (&"4".into(), &"choice 3".into()));
}

/// D = 0.3, 0, −0.3, −0.1.
#[test]
fn scores_between_right_and_wrong_by_hand() {
    let (before, after) = ([0.2, 0.5, 0.9, 0.4], [0.5, 0.5, 0.6, 0.3]);
    let task = measured(&texts("rougeL", &before), &texts("rougeL", &after));
    close(value(&task, "negative_flip_rate"), 0.5);
    close(value(&task, "positive_flip_rate"), 0.25);
    close(value(&task, "mean_loss"), 0.2);
    close(value(&task, "mean_gain"), 0.3);
    assert_eq!(cells(&task), [[Some(2), Some(1), Some(1)]]);
    // Every resample with a loss has a mean between the two.
    let loss = number(&task, "mean_loss");
    assert!(loss.low.unwrap() > 0.1 - 1e-9 && loss.high.unwrap() < 0.3 + 1e-9 && loss.low < loss.high, "{loss:?}");
    let lenient = measured_with(&texts("rougeL", &before), &texts("rougeL", &after), 0.15);
    assert_eq!(cells(&lenient), [[Some(1), Some(2), Some(1)]]);
    close(value(&lenient, "mean_loss"), 0.3);
    assert!(lenient.notes.iter().any(|note| note.contains("up to 0.15")), "{:?}", lenient.notes);
    // What a mean is over is said; of a single flip there is no interval.
    assert_eq!(
        task.notes,
        [
            "the mean loss is over the 2 examples that got worse; the mean gain is that of the one example that got better"
        ]
    );
    assert_eq!((number(&task, "mean_gain").low, number(&lenient, "mean_loss").high), (None, None));
    let sizes = |key: &str| -> Vec<f64> {
        task.rows.iter().filter_map(|row| row[key].as_f64()).map(|size| (10.0 * size).round()).collect()
    };
    assert_eq!((sizes("loss"), sizes("gain")), (vec![3.0, 1.0], vec![3.0]));
    // Where less is better, the same numbers are the other way round.
    let less = measured(&texts("brier_score", &before), &texts("brier_score", &after));
    close(value(&less, "mean_loss"), 0.3);
    close(value(&less, "positive_flip_rate"), 0.5);
}

/// Without a flip there is no mean over flips: it is 0, and has no interval.
#[test]
fn nothing_changed_is_nothing_broken() {
    let one = texts("rougeL", &[0.2, 0.5]);
    let task = measured(&one, &one);
    for name in ["negative_flip_rate", "positive_flip_rate", "mean_loss", "mean_gain"] {
        close(value(&task, name), 0.0);
    }
    assert_eq!((number(&task, "mean_loss").low, number(&task, "mean_gain").high), (None, None));
}

/// Written answers are the same if their filters leave the same, whatever stands around it.
#[test]
fn written_answers_are_compared_as_they_were_scored() {
    let side = |rows: [(&str, &str, f64); 3]| {
        let row = |(answer, scored, score): (&str, &str, f64)| (answer.to_owned(), Some(scored.to_owned()), score);
        card("generate_until", "exact_match", rows.map(row).into())
    };
    let base = side([("so 12", "12", 0.0), ("so 5", "5", 1.0), ("so 7", "7", 0.0)]);
    let tuned = side([("3 times 4 is 12", " 12", 0.0), ("5", "5", 1.0), ("so 8", "8", 0.0)]);
    let task = measured(&base, &tuned);
    assert_eq!(cells(&task), [[Some(1), None, Some(0)], [Some(0), Some(1), Some(1)]]);
    close(value(&task, "inconsistency_rate"), 1.0 / 3.0);
    assert!(task.notes[0].contains("1 of the 1 inconsistent answers were wrong before, too"), "{:?}", task.notes);
    assert!(task.notes[0].contains("of its wording too"), "{:?}", task.notes);
}

/// A task that scores one given text knows no wrong answers, so none can be said to have become another.
#[test]
fn unknown_answers_make_no_inconsistency() {
    let side = |scores: [f64; 3]| card("loglikelihood", "acc", scores.map(|s| (String::new(), None, s)).into());
    let task = measured(&side([1.0, 0.0, 0.0]), &side([0.0, 0.0, 1.0]));
    assert_eq!(cells(&task), [[Some(0), Some(1)], [Some(1), Some(1)]]);
    assert!(task.numbers.iter().all(|number| number.name != "inconsistency_rate"));
    assert_eq!(task.rows[1].get("inconsistent"), None);
}

#[test]
fn what_is_no_score_of_answers_is_left_out_and_said() {
    let card = texts("word_perplexity", &[20.0, 30.0]);
    let task = measured(&card, &card);
    assert!(task.numbers.is_empty() && task.rows.is_empty());
    assert!(task.notes[0].contains("word_perplexity is no score of single answers"), "{:?}", task.notes);
}

#[test]
fn cards_without_the_answers_are_refused_by_name() {
    let refused = |base: &Scorecard, tuned: &Scorecard| {
        let paired = Paired::new(base, tuned, false).unwrap();
        (MEASURE.of)(&[paired], &options(0.0)).unwrap_err().to_string()
    };
    // As a row was written before `scored` was kept.
    let new = card("generate_until", "exact_match", vec![("5".into(), Some("5".into()), 1.0); 2]);
    let text = serde_json::to_string(&new.rows[1]).unwrap();
    assert!(text.contains(r#""scored":"5","#), "{text}");
    let mut old = new.clone();
    old.rows[1] = serde_json::from_str(&text.replace(r#""scored":"5","#, "")).unwrap();
    let message = refused(&new, &old);
    for part in ["task: the measure `compatibility`", "`scored`", "example 1", "model + runs/old", "evaluate"] {
        assert!(message.contains(part), "{message}");
    }
    let mut old = picks(&[0, 1], &[0, 0]);
    old.rows[0].answer = String::new();
    assert!(refused(&old, &picks(&[0, 1], &[0, 0])).contains("example 0"));
    // A choice may be no text at all.
    let choice = ChoiceScore { text: String::new(), log_likelihood: -1.0, tokens: 1, is_greedy: false };
    old.rows[0].choices = vec![choice];
    assert_eq!(cells(&measured(&old, &picks(&[1, 1], &[0, 0])))[0][2], Some(1));
}

#[test]
fn a_comparison_carries_it_and_refuses_other_questions_as_ever() {
    let right: Vec<usize> = (0..12).map(|i| i % 3).collect();
    let base = [picks(&right, &right)];
    let other: Vec<usize> = right.iter().map(|y| if *y == 2 { 0 } else { *y }).collect();
    let mut tuned = [picks(&other, &right)];
    let options = CompareOptions { measures: vec![&MEASURE], ..CompareOptions::default() };
    let ledger = compare(&base, &tuned, &options).unwrap();
    let task = &ledger.measures[0].tasks[0];
    close(value(task, "negative_flip_rate"), ledger.tasks[0].negative_flip_rate);
    assert_eq!(cells(task), [[Some(8), None, Some(4)], [Some(0), Some(0), Some(0)]]);
    // What the ledger's file holds is read back; rows have files of their own.
    let text = serde_json::to_string(&ledger).unwrap();
    let read: hone_eval::ledger::Ledger = serde_json::from_str(&text).unwrap();
    assert_eq!(read.measures[0].tasks[0].numbers, task.numbers);
    assert!(!text.contains("right_wrong"));
    let directory = tempfile::tempdir().unwrap();
    hone_eval::files::write_measure_rows(directory.path(), &ledger.measures).unwrap();
    let rows = std::fs::read_to_string(directory.path().join("compatibility/task.jsonl")).unwrap();
    assert_eq!((rows.lines().count(), rows.matches("\"right_wrong\"").count()), (12, 4));
    tuned[0].header.version = "2.0".into();
    let message = compare(&base, &tuned, &options).unwrap_err().to_string();
    assert!(message.contains("task version 1.0 against 2.0"), "{message}");
    tuned[0].header.task = "../task".into();
    tuned[0].header.version = "1.0".into();
    let mut base = base;
    base[0].header.task = "../task".into();
    let ledger = compare(&base, &tuned, &options).unwrap();
    let outside = hone_eval::files::write_measure_rows(directory.path(), &ledger.measures).unwrap_err().to_string();
    assert!(outside.contains("no slashes"), "{outside}");
}

/// Picks of two models and the right choices, of `choices` each.
fn three(choices: usize) -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
    prop::collection::vec((0..choices, 0..choices, 0..choices), 1..40)
}

fn both(all: &[(usize, usize, usize)]) -> (Scorecard, Scorecard) {
    let right: Vec<usize> = all.iter().map(|(_, _, y)| *y).collect();
    let side = |pick: fn(&(usize, usize, usize)) -> usize| picks(&all.iter().map(pick).collect::<Vec<_>>(), &right);
    (side(|one| one.0), side(|one| one.1))
}

proptest! {
    #[test]
    fn flips_add_up_to_what_changed(all in three(4)) {
        let (base, tuned) = both(&all);
        let task = measured(&base, &tuned);
        let (negative, positive) = (value(&task, "negative_flip_rate"), value(&task, "positive_flip_rate"));
        let inconsistent = value(&task, "inconsistency_rate");
        prop_assert!((value(&task, "after") - value(&task, "before") - (positive - negative)).abs() < 1e-12);
        prop_assert!(inconsistent >= negative - 1e-12);
        let cells = cells(&task);
        let total: usize = cells.iter().flatten().flatten().sum();
        prop_assert_eq!(total, all.len());
        // With one right choice, answers differ exactly where something flipped or one wrong answer became another.
        let changed = all.iter().filter(|(before, after, _)| before != after).count();
        prop_assert_eq!(cells[0][2].unwrap() + cells[1][0].unwrap() + cells[1][2].unwrap(), changed);
        let flagged = |key: &str| task.rows.iter().filter(|row| row[key] == true).count() as f64 / all.len() as f64;
        prop_assert!((flagged("negative_flip") - negative).abs() < 1e-12);
        prop_assert!((flagged("inconsistent") - inconsistent).abs() < 1e-12);
    }

    #[test]
    fn swapped_models_swap_the_flips(all in three(4)) {
        let (base, tuned) = both(&all);
        let (there, back) = (measured(&base, &tuned), measured(&tuned, &base));
        let (a, b) = (number(&there, "negative_flip_rate"), number(&back, "positive_flip_rate"));
        prop_assert_eq!((a.value, a.low, a.high), (b.value, b.low, b.high));
        let (there, back) = (cells(&there), cells(&back));
        prop_assert_eq!((there[0][0], there[0][2], there[1][0]), (back[0][0], back[1][0], back[0][2]));
        prop_assert_eq!((there[1][1], there[1][2]), (back[1][1], back[1][2]));
    }

    #[test]
    fn two_choices_have_no_other_wrong_answer(all in three(2)) {
        let (base, tuned) = both(&all);
        let task = measured(&base, &tuned);
        prop_assert_eq!(value(&task, "inconsistency_rate"), value(&task, "negative_flip_rate"));
        let same = measured(&base, &base);
        prop_assert_eq!((value(&same, "inconsistency_rate"), value(&same, "positive_flip_rate")), (0.0, 0.0));
    }

    #[test]
    fn gains_less_losses_are_the_mean_change(all in prop::collection::vec((0.0f64..1.0, 0.0f64..1.0), 1..40)) {
        let side = |pick: fn(&(f64, f64)) -> f64| texts("rouge1", &all.iter().map(pick).collect::<Vec<_>>());
        let (base, tuned) = (side(|one| one.0), side(|one| one.1));
        let (there, back) = (measured(&base, &tuned), measured(&tuned, &base));
        let of = |name: &str| value(&there, name);
        let change = of("positive_flip_rate") * of("mean_gain") - of("negative_flip_rate") * of("mean_loss");
        prop_assert!((of("after") - of("before") - change).abs() < 1e-12);
        prop_assert_eq!(of("mean_loss"), value(&back, "mean_gain"));
        prop_assert_eq!(of("negative_flip_rate"), value(&back, "positive_flip_rate"));
    }
}
