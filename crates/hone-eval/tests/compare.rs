//! Scorecards paired, compared, judged, written and read.

use std::slice::from_ref;

use hone_eval::compare::{CompareOptions, compare};
use hone_eval::ledger::Outcome;
use hone_eval::metrics::Aggregation;
use hone_eval::rules::Rule;
use hone_eval::scorecard::{MetricValue, Scorecard, ScorecardHeader, ScorecardRow};
use hone_eval::{EvalError, files};

fn card(task: &str, metric: MetricValue, rows: Vec<(f64, Vec<f64>)>) -> Scorecard {
    let row = |(i, (score, parts)): (usize, (f64, Vec<f64>))| ScorecardRow {
        id: i.to_string(),
        prompt_sha256: format!("hash {i}"),
        prompt: format!("Question {i}"),
        target: "yes".into(),
        choices: Vec::new(),
        answer: if score > 0.0 { "yes" } else { "no" }.into(),
        scored: None,
        target_score: None,
        scores: [(metric.name.clone(), score)].into(),
        parts: if parts.is_empty() { Default::default() } else { [(metric.name.clone(), parts)].into() },
        score,
        ..ScorecardRow::default()
    };
    let n = rows.len();
    let rows = rows.into_iter().enumerate().map(row).collect();
    let header = ScorecardHeader {
        task: task.into(),
        version: "1.0".into(),
        task_sha256: "abc".into(),
        model: "base".into(),
        model_sha256: "123".into(),
        edit: None,
        edit_sha256: None,
        dtype: "f32".into(),
        kind: "multiple_choice".into(),
        num_fewshot: 0,
        fewshot_seed: 1234,
        chat_template: false,
        main_metric: metric.name.clone(),
        truncated: 0,
        n,
        metrics: vec![metric],
        seconds: 0.5,
        ..ScorecardHeader::default()
    };
    Scorecard { header, rows }
}

fn accuracy(task: &str, right: impl Fn(usize) -> bool, n: usize) -> Scorecard {
    let metric = MetricValue {
        name: "acc".into(),
        value: 0.0,
        stderr: None,
        higher_is_better: true,
        aggregation: Aggregation::Mean,
        is_share: true,
    };
    card(task, metric, (0..n).map(|i| (f64::from(right(i)), Vec::new())).collect())
}

fn perplexity(task: &str, per_word: impl Fn(usize) -> f64, n: usize) -> Scorecard {
    let metric = MetricValue {
        name: "word_perplexity".into(),
        value: 0.0,
        stderr: None,
        higher_is_better: false,
        aggregation: Aggregation::WeightedPerplexity,
        is_share: false,
    };
    let row = |i: usize| {
        let words = (50 + 13 * (i % 7)) as f64;
        (per_word(i).exp(), vec![-per_word(i) * words, words])
    };
    card(task, metric, (0..n).map(row).collect())
}

#[test]
fn gains_losses_and_no_change_are_told_apart() {
    let base = [
        accuracy("telecom", |i| i % 3 == 0, 300),
        accuracy("boolq", |i| i % 10 < 6, 300),
        accuracy("arc_easy", |i| i % 2 == 0, 300),
        perplexity("wikitext", |i| 3.0 + (i % 5) as f64 / 10.0, 60),
    ];
    let tuned = [
        accuracy("arc_easy", |i| i % 2 == 0 || i % 60 == 1, 300),
        accuracy("telecom", |i| i % 3 == 0 || i % 7 == 0, 300),
        accuracy("boolq", |i| i % 10 < 6 && i % 12 != 0, 300),
        perplexity("wikitext", |i| 3.1 + (i % 5) as f64 / 10.0 + (i % 3) as f64 / 100.0, 60),
    ];
    let options = CompareOptions { targets: vec!["telecom".into()], ..CompareOptions::default() };
    let ledger = compare(&base, &tuned, &options).unwrap();
    assert_eq!(ledger.outcome, Outcome::Mixed);
    let words = "better on telecom by 9.3 ± 3.2 points; lost 5.0 ± 2.5 points on boolq; worse on wikitext (word perplexity \
                 24.5 to 27.4); no measurable change on arc_easy; do not ship if you need boolq or wikitext";
    assert_eq!(ledger.verdict, words);
    let telecom = &ledger.tasks[0];
    // Of 300: multiples of 7 that are not multiples of 3.
    assert_eq!((telecom.gained, telecom.lost, telecom.both_right, telecom.both_wrong), (28, 0, 100, 172));
    assert!((telecom.difference - 28.0 / 300.0).abs() < 1e-12);
    let p = telecom.mcnemar_p.unwrap() / 0.5f64.powi(27);
    assert!((p - 1.0).abs() < 1e-9, "{p}");
    assert!(telecom.is_target && telecom.ci_low > 0.0 && telecom.ci_low < telecom.difference);
    let verdicts: Vec<&str> = ledger.tasks.iter().map(|t| t.verdict.as_str()).collect();
    assert_eq!(verdicts, ["better", "worse", "unchanged", "worse"]);
    let wikitext = &ledger.tasks[3];
    assert_eq!(wikitext.mcnemar_p, None);
    // The same documents resampled on both sides: the interval is that of the difference, not of two perplexities.
    assert!(wikitext.ci_low > 0.0 && wikitext.ci_high - wikitext.ci_low < 1.0, "{wikitext:?}");
    let kept =
        |task: &str, change: &str| ledger.examples.iter().filter(|e| e.task == task && e.change == change).count();
    assert_eq!((kept("boolq", "lost"), ledger.tasks[1].lost), (15, 15));
    assert_eq!((kept("telecom", "gained"), kept("telecom", "both_right")), (20, 5));
}

/// A perplexity weighs long texts more: the mean over documents may go the other way than the score. The effect goes with the score.
#[test]
fn an_effect_has_the_sign_of_its_difference() {
    let base = perplexity("code", |_| 3.0, 70);
    // Every seventh document has 128 words and gets likelier; the others have 50 to 115 and get a little less likely.
    let tuned = perplexity("code", |i| if i % 7 == 6 { 2.9 } else { 3.02 }, 70);
    let by_document: f64 = base.rows.iter().zip(&tuned.rows).map(|(b, a)| a.score - b.score).sum();
    assert!(by_document > 0.0);
    let ledger = compare(from_ref(&base), from_ref(&tuned), &CompareOptions::default()).unwrap();
    let task = &ledger.tasks[0];
    let effect = task.effect.unwrap();
    assert!(task.difference < 0.0 && effect < 0.0, "{} and {effect}", task.difference);
    // √n effects are the difference in its standard errors.
    let errors = task.difference / ((task.ci_high - task.ci_low) / (2.0 * 1.959_964));
    assert!((effect * 70f64.sqrt() / errors - 1.0).abs() < 1e-4, "{effect} and {errors}");
}

#[test]
fn chance_is_not_called_a_change() {
    // Six of eight flips one way: 25 points, but McNemar's p is 0.29.
    let base = [accuracy("small", |i| (6..8).contains(&i), 24)];
    let tuned = [accuracy("small", |i| i < 6, 24)];
    let ledger = compare(&base, &tuned, &CompareOptions::default()).unwrap();
    assert_eq!(ledger.tasks[0].verdict, "unchanged");
    assert_eq!(ledger.outcome, Outcome::Unchanged);
    // One example, however clear, is none.
    let one = compare(&[accuracy("one", |_| false, 1)], &[accuracy("one", |_| true, 1)], &CompareOptions::default());
    assert_eq!(one.unwrap().tasks[0].verdict, "unchanged");
}

#[test]
fn cards_of_different_questions_are_not_paired() {
    let base = accuracy("boolq", |_| true, 10);
    let refused = |change: &dyn Fn(&mut Scorecard)| {
        let mut tuned = base.clone();
        change(&mut tuned);
        compare(std::slice::from_ref(&base), &[tuned], &CompareOptions::default()).unwrap_err().to_string()
    };
    let message = refused(&|c| c.header.version = "2.0".into());
    assert!(message.contains("task version 1.0 against 2.0"), "{message}");
    let message = refused(&|c| c.header.chat_template = true);
    assert!(message.contains("chat template off against on"), "{message}");
    let message = refused(&|c| {
        c.rows[3].prompt = "Question 3, please".into();
        c.rows[3].prompt_sha256 = "other".into();
    });
    assert!(message.contains("1 of 10 prompts differ; example 3") && message.contains("please"), "{message}");
    let message = refused(&|c| c.header.task = "piqa".into());
    assert!(message.contains("no task in common: boolq against piqa"), "{message}");
    let message = refused(&|c| c.rows.iter_mut().for_each(|r| r.id += "x"));
    assert!(message.contains("no example in common"), "{message}");
}

#[test]
fn what_one_side_lacks_is_left_out_and_said() {
    let base = [accuracy("boolq", |i| i % 2 == 0, 40), accuracy("piqa", |_| true, 5)];
    let tuned = [accuracy("boolq", |i| i % 2 == 0, 30), accuracy("arc", |_| true, 5)];
    let ledger = compare(&base, &tuned, &CompareOptions::default()).unwrap();
    assert_eq!((ledger.tasks.len(), ledger.tasks[0].n, ledger.tasks[0].unpaired), (1, 30, 10));
    assert_eq!(ledger.notes.len(), 3, "{:?}", ledger.notes);
}

#[test]
fn rules_break_on_the_side_that_harms() {
    let base = [accuracy("boolq", |i| i % 10 < 6, 300), perplexity("wikitext", |_| 3.0, 20)];
    let tuned = [accuracy("boolq", |i| i % 10 < 5, 300), perplexity("wikitext", |_| 3.2, 20)];
    let broken = |rules: &str| {
        let fail_if = serde_json::from_str(rules).unwrap();
        compare(&base, &tuned, &CompareOptions { fail_if, ..CompareOptions::default() }).map(|l| l.broken_rules)
    };
    assert_eq!(
        broken(r#"{"boolq": {"drop_over": 3}}"#).unwrap(),
        ["boolq: acc worse by 10.0 points, over the limit of 3"]
    );
    assert_eq!(broken(r#"{"boolq": {"drop_over": 12}, "wikitext": {"drop_over": 5}}"#).unwrap(), [""; 0]);
    assert_eq!(
        broken(r#"{"wikitext": {"drop_over": 2, "worse_than": 24}, "boolq": {"worse_than": 55}}"#).unwrap().len(),
        3
    );
    let message = broken(r#"{"bolq": {"drop_over": 3}}"#).unwrap_err().to_string();
    assert!(message.contains("did you mean `boolq`?"), "{message}");
    assert!(broken(r#"{"boolq": {}}"#).is_err());
    let message = broken(r#"{"boolq": {"drop_over": -5}}"#).unwrap_err().to_string();
    assert!(message.contains("`boolq`: `drop_over`: found -5, expected 0 or more"), "{message}");
    assert!(serde_json::from_str::<Rule>(r#"{"drop": 3}"#).is_err());
}

#[test]
fn cards_read_back_and_bad_lines_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("scorecards/wikitext.jsonl");
    let card = perplexity("wikitext", |i| 2.0 + i as f64 / 3.0, 4);
    files::write_scorecard(&path, &card).unwrap();
    assert_eq!(files::read_scorecard(&path).unwrap(), card);
    assert_eq!(files::read_scorecards(directory.path()).unwrap(), [card]);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file stays behind");

    let text = std::fs::read_to_string(&path).unwrap();
    let with = |text: String| {
        std::fs::write(&path, text).unwrap();
        files::read_scorecard(&path).unwrap_err()
    };
    let cut: String = text.lines().take(4).map(|l| format!("{l}\n")).collect();
    assert!(matches!(with(cut), EvalError::Scorecard { line: 4, .. }));
    let broken = with(text.replace(r#""id":"2","#, ""));
    assert!(matches!(&broken, EvalError::Scorecard { line: 4, problem, .. } if problem.contains("`id`")), "{broken}");
    assert!(matches!(with(String::new()), EvalError::Scorecard { line: 1, .. }));
    assert!(matches!(files::read_scorecards(&directory.path().join("none")), Err(EvalError::Io { .. })));
}

/// What counts as wrong without having been answered, or could not be right, is said where the scores stand.
#[test]
fn answers_that_could_not_be_had_are_said() {
    let (before, mut after) = (accuracy("boolq", |i| i % 2 == 0, 8), accuracy("boolq", |i| i % 4 == 0, 8));
    after.header.unanswered = 2;
    after.header.model = "served".into();
    let notes = compare(from_ref(&before), &[after], &CompareOptions::default()).unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("2 answers of served could not be had")), "{notes:?}");
    let notes = compare(from_ref(&before), from_ref(&before), &CompareOptions::default()).unwrap().notes;
    assert!(notes.is_empty(), "{notes:?}");
}

/// What differs between two cards' tasks is said: the key and both values, or the data.
#[test]
fn cards_of_different_tasks_are_refused_with_what_differs() {
    let side = |hash: &str, question: &str, data: &str| {
        let mut card = accuracy("boolq", |i| i % 2 == 0, 8);
        card.header.task_sha256 = hash.into();
        card.header.definition.insert("doc_to_text".into(), question.into());
        card.header.definition.insert("task".into(), "boolq".into());
        card.header.data_sha256 = Some(data.into());
        vec![card]
    };
    let refused = |a: &[Scorecard], b: &[Scorecard]| compare(a, b, &CompareOptions::default()).unwrap_err().to_string();
    let long = "{{passage}}\nQuestion: {{question}}?\nAnswer:";
    let (before, after) = (side("a", long, "d1"), side("b", &long.replace("Answer", "Reply"), "d1"));
    let message = refused(&before, &after);
    assert!(
        message.contains("`doc_to_text` …") && message.contains("Answer:") && message.contains("Reply:"),
        "{message}"
    );
    assert!(!message.contains("data (SHA-256)") && !message.contains("`task`"), "{message}");
    let message = refused(&before, &side("b", long, "d2"));
    assert!(message.contains("data (SHA-256) d1 against d2") && !message.contains("doc_to_text"), "{message}");
    // Cards from before the definition was kept: the hashes.
    let mut old = side("b", long, "d1");
    old[0].header.definition.clear();
    assert!(refused(&before, &old).contains("task definition or data (SHA-256) a against b"));
}
