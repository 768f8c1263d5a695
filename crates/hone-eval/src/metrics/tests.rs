//! Scores of single examples, worked out by hand or by the packages that are named.

use super::*;

fn metric(kind: Kind, name: &str) -> Metric {
    Metric::new(kind, name, &Map::new()).unwrap()
}

#[test]
fn perplexities_are_the_harness() {
    let documents = [(-12.5, 7, 40), (-3.25, 2, 11)];
    let value = |name: &str| {
        let metric = metric(Kind::LoglikelihoodRolling, name);
        let rows: Vec<_> = documents
            .iter()
            .map(|&(log_likelihood, words, bytes)| metric.of_rolling(RollingOutcome { log_likelihood, words, bytes }))
            .collect();
        metric.aggregation.value(rows.iter())
    };
    assert!((value("word_perplexity") - (15.75f64 / 9.0).exp()).abs() < 1e-12);
    assert!((value("byte_perplexity") - (15.75f64 / 51.0).exp()).abs() < 1e-12);
    assert!((value("bits_per_byte") - 15.75 / 51.0 / 2f64.ln()).abs() < 1e-12);
    let perplexity = metric(Kind::Loglikelihood, "perplexity");
    let rows = [perplexity.of_target(-1.0, true, "a"), perplexity.of_target(-4.0, false, "b")];
    assert!((perplexity.aggregation.value(rows.iter()) - 2.5f64.exp()).abs() < 1e-12);
    let by_word = metric(Kind::Loglikelihood, "word_perplexity").of_target(-6.0, false, " two words");
    assert!((by_word.score - 3f64.exp()).abs() < 1e-12);
}

/// The harness: `-sum(a) / sum(b) / math.log(2)` over all examples, whatever one of them is.
#[test]
fn a_text_without_a_byte_adds_none_and_has_a_score_that_is_a_number() {
    let bits = metric(Kind::LoglikelihoodRolling, "bits_per_byte");
    let rolling = |log_likelihood, bytes| bits.of_rolling(RollingOutcome { log_likelihood, words: 1, bytes });
    let rows = [rolling(-12.5, 40), rolling(0.0, 0), rolling(-3.25, 11)];
    assert_eq!((rows[1].score, &rows[1].parts), (0.0, &vec![0.0, 0.0]));
    assert!((bits.aggregation.value(rows.iter()) - 15.75 / 51.0 / 2f64.ln()).abs() < 1e-12);
    let perplexity = metric(Kind::LoglikelihoodRolling, "byte_perplexity");
    assert_eq!(perplexity.of_rolling(RollingOutcome { log_likelihood: 0.0, words: 1, bytes: 0 }).score, 1.0);
    // White space as a target: its bits, as of one byte; of several such the sum.
    let bits = metric(Kind::Loglikelihood, "bits_per_byte");
    let blank = bits.of_target(-2.0, false, " ");
    assert!((blank.score - 2.0 / 2f64.ln()).abs() < 1e-12 && blank.parts == [-2.0, 0.0]);
    let both = [blank.clone(), blank.clone()];
    assert!((bits.aggregation.value(both.iter()) - 4.0 / 2f64.ln()).abs() < 1e-12);
    let with_another = [blank, bits.of_target(-1.0, false, " ran")];
    assert!((bits.aggregation.value(with_another.iter()) - 3.0 / 3.0 / 2f64.ln()).abs() < 1e-12);
    // Beyond every number.
    for name in ["bits_per_byte", "byte_perplexity"] {
        let metric = metric(Kind::Loglikelihood, name);
        assert_eq!(metric.of_target(f64::NEG_INFINITY, false, "a").score, f64::MAX, "{name}");
        assert!(metric.of_target(f64::NAN, false, "a").score.is_nan(), "{name}");
        assert!(metric.aggregation.value(std::iter::empty()).is_nan(), "{name}");
    }
}

/// NumPy, with `l` the log-likelihoods and `g` the right choices: `p = np.exp(l); p /= p.sum(1, keepdims=True)`, then
/// as in `calibration.rs` over `p.max(1)` and `p.argmax(1) == g`.
#[test]
fn calibration_is_computed_anew_on_every_set_of_examples() {
    let options = serde_json::json!({"bins": 4}).as_object().cloned().unwrap();
    let metric = Metric::new(Kind::MultipleChoice, "ece", &options).unwrap();
    assert!(!metric.higher_is_better && metric.is_share() && metric.aggregated_by() == "ece");
    let choices = ["no", "yes"].map(String::from);
    let rows: Vec<ExampleScore> = [([-1.0, -2.0], 0), ([-3.0, -1.0], 0), ([-0.5, -0.6], 1), ([-2.0, -2.5], 0)]
        .iter()
        .map(|(log_likelihoods, gold)| {
            metric.of_choices(&ChoiceOutcome {
                choices: &choices,
                log_likelihoods,
                is_greedy: &[false; 2],
                unconditional: None,
                gold: &choice::Gold { indices: vec![*gold] },
                group: None,
            })
        })
        .collect();
    let confidences = [0.731_058_578_630_004_9, 0.880_797_077_977_882_3, 0.524_979_187_478_94, 0.622_459_331_201_854_6];
    for (row, expected) in rows.iter().zip(confidences) {
        assert!((row.parts[0] - expected).abs() < 1e-12, "{} expected {expected}", row.parts[0]);
    }
    assert_eq!(rows.iter().map(|row| row.parts[1]).collect::<Vec<_>>(), [1.0, 0.0, 0.0, 1.0]);
    let value = |of: &[usize]| metric.aggregation.value(of.iter().map(|&i| &rows[i]));
    assert!((value(&[0, 1, 2, 3]) - 0.250_574_995_166_770_7).abs() < 1e-12, "{}", value(&[0, 1, 2, 3]));
    assert!((value(&[0, 0, 2]) - 0.004_301_218_420_350_065).abs() < 1e-12, "{}", value(&[0, 0, 2]));
    // The mean of the examples' own scores is something else.
    let mean = rows.iter().map(|row| row.score).sum::<f64>() / 4.0;
    assert!(mean > value(&[0, 1, 2, 3]) + 0.1);
}

#[test]
fn translations_are_scored_over_all_of_them() {
    let answers = [("the cat sat", "the cat sat"), ("on mat the", "on the mat"), ("", "quietly")];
    for (name, higher_is_better) in [("chrf", true), ("chrf++", true), ("ter", false)] {
        let metric = metric(Kind::GenerateUntil, name);
        assert_eq!((metric.higher_is_better, metric.is_share()), (higher_is_better, false), "{name}");
        assert_eq!(metric.aggregated_by(), name);
        let score = |(text, reference): (&str, &str)| {
            let references = [reference.to_owned()];
            let outcome = TextOutcome { text, references: &references, prompt: "", passage: None, responses: &[] };
            metric.of_text(&outcome).unwrap()
        };
        let rows = answers.map(score);
        let value = metric.aggregation.value(rows.iter());
        let mean = rows.iter().map(|row| row.score).sum::<f64>() / 3.0;
        assert!((value - mean).abs() > 1.0, "{name}: {value} is the mean of the scores");
        let name_of = serde_json::to_value(metric.aggregation).unwrap();
        assert_eq!(name_of, name);
        if name == "ter" {
            assert_eq!(rows.each_ref().map(|row| row.score), [0.0, 100.0 * (1.0 / 3.0), 100.0]);
            assert!((value - 200.0 / 7.0).abs() < 1e-12, "{value}");
        }
    }
}

#[test]
fn an_aggregation_is_for_examples_of_its_kind() {
    let refused = |kind, name: &str, aggregation: &str| {
        metric(kind, name).aggregate_by(aggregation).map_err(|error| error.to_string()).err()
    };
    let message = refused(Kind::MultipleChoice, "f1", "median").unwrap();
    assert_eq!(message, "metric `f1` is not aggregated by `median`; it can be by `f1`, `matthews_corrcoef`, `bypass`");
    for (kind, name, aggregation) in [
        (Kind::MultipleChoice, "brier_score", "mean"),
        (Kind::MultipleChoice, "acc", "f1"),
        (Kind::LoglikelihoodRolling, "word_perplexity", "perplexity"),
        (Kind::GenerateUntil, "bleu", "mean"),
        (Kind::GenerateUntil, "exact_match", "bleu"),
        (Kind::GenerateUntil, "pass@1", "perplexity"),
        (Kind::MultipleChoice, "acc", "max"),
    ] {
        assert!(refused(kind, name, aggregation).is_some(), "{name} by {aggregation}");
    }
    for name in Kind::MultipleChoice.metrics() {
        let mut metric = metric(Kind::MultipleChoice, name);
        metric.aggregate_by("bypass").unwrap();
        assert_eq!((metric.aggregation, metric.is_share()), (Aggregation::Bypass, false));
    }
}

#[test]
fn unknown_metrics_and_options_are_named() {
    let error = |kind, name: &str, options: Value| {
        let options = options.as_object().cloned().unwrap();
        Metric::new(kind, name, &options).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let message = error(Kind::MultipleChoice, "acc_nrom", serde_json::json!({}));
    assert!(message.contains("did you mean `acc_norm`?"), "{message}");
    let message = error(Kind::GenerateUntil, "exact_match", serde_json::json!({"ignore_cases": true}));
    assert!(message.contains("`ignore_cases`") && message.contains("ignore_case,"), "{message}");
    assert!(error(Kind::GenerateUntil, "bleu", serde_json::json!({"smooth_method": "x"})).contains("add-k"));
    assert!(error(Kind::MultipleChoice, "ece", serde_json::json!({"bin": 5})).contains("one of the options bins"));
    assert!(error(Kind::MultipleChoice, "ece", serde_json::json!({"bins": 0})).contains("from 1 to 1000"));
    let message = error(Kind::GenerateUntil, "f1", serde_json::json!({"average": "macro"}));
    assert!(message.contains("option `average`"), "{message}");
    let evaluate = |name| error(Kind::GenerateUntil, name, serde_json::json!({"hf_evaluate": true}));
    assert!(evaluate("bleu").contains("of the metrics of `evaluate` there are exact_match, accuracy, f1"));
    assert_eq!(["f1", "recall", "accuracy", "exact_match"].map(evaluate), [const { String::new() }; 4]);
}
