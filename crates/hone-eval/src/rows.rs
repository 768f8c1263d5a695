//! From answers to a scorecard: the row of an example, and a task's scores from its rows.

use sha2::{Digest, Sha256};

use crate::code::{self, CodeRunner};
use crate::error::EvalError;
use crate::metrics::choice::ChoiceOutcome;
use crate::metrics::{Aggregation, ExampleScore, Metric, MetricError, RollingOutcome, TextOutcome, calibration};
use crate::rewards::Worth;
use crate::scorecard::{ChoiceScore, Completion, MetricValue, ScorecardRow};
use crate::scorer::Scored;
use crate::statistics;
use crate::tally::Tally;
use crate::task::data::hex;
use crate::task::{Item, Question, Task};

/// Resamples of a standard error of BLEU, chrF and TER; other bootstraps take [`EvalOptions::bootstrap_iterations`].
const TRANSLATION_ITERATIONS: usize = 100;

/// Resamples of a calibration error's standard error: enough for its two digits, in no time.
const CALIBRATION_ITERATIONS: usize = 1000;

/// The row of an example whose continuations were scored: one group of choices (and perhaps one without the question), or one a
/// window of a document.
pub(crate) fn of_scores(task: &Task, item: &Item, groups: &[Vec<Scored>]) -> ScorecardRow {
    let mut row = empty_row(item);
    match &item.question {
        Question::Choices { choices, gold, .. } => {
            let [scored, rest @ ..] = groups else { return row };
            let log_likelihoods: Vec<f64> = scored.iter().map(Scored::log_likelihood).collect();
            let is_greedy: Vec<bool> = scored.iter().map(|s| s.is_greedy).collect();
            let unconditional: Option<Vec<f64>> =
                rest.first().map(|alone| alone.iter().map(Scored::log_likelihood).collect());
            let outcome = ChoiceOutcome {
                choices,
                log_likelihoods: &log_likelihoods,
                is_greedy: &is_greedy,
                unconditional: unconditional.as_deref(),
                gold,
                group: item.group.as_deref(),
            };
            row.choices = (choices.iter().zip(scored)).map(|(text, scored)| choice_score(text, scored)).collect();
            let scores: Vec<_> = task.columns().map(|(name, metric, _)| (name, metric.of_choices(&outcome))).collect();
            let main = task.main_metric().unwrap_or_default();
            let metric = task.columns().find(|(name, ..)| *name == main).map(|(_, metric, _)| metric);
            let picked = metric.and_then(|metric| metric.picked(&outcome));
            row.answer = picked.map_or_else(String::new, |i| choices[i].clone());
            fill(task, &mut row, scores);
        }
        Question::Target { continuation, .. } => {
            let Some(scored) = groups.first().and_then(|group| group.first()) else { return row };
            row.target_score = Some(choice_score(continuation, scored));
            row.answer = if scored.is_greedy { continuation.clone() } else { String::new() };
            let of = |metric: &Metric| metric.of_target(scored.log_likelihood(), scored.is_greedy, continuation);
            let scores = task.columns().map(|(name, metric, _)| (name, of(metric))).collect();
            fill(task, &mut row, scores);
        }
        Question::Document { text, words, bytes } => {
            let windows = groups.iter().flatten();
            let log_likelihood = windows.clone().map(Scored::log_likelihood).sum();
            let tokens = windows.clone().map(|s| s.log_probs.len()).sum();
            let is_greedy = windows.clone().all(|s| s.is_greedy);
            // The document is the row's target already.
            let sum = not_infinite(log_likelihood);
            row.target_score = Some(ChoiceScore { text: String::new(), log_likelihood: sum, tokens, is_greedy });
            row.target = excerpt(text);
            let outcome = RollingOutcome { log_likelihood, words: *words, bytes: *bytes };
            let scores = task.columns().map(|(name, metric, _)| (name, metric.of_rolling(outcome))).collect();
            fill(task, &mut row, scores);
        }
        Question::Generate { .. } => {}
    }
    row
}

/// The row of an example whose choices were given rewards, one each.
pub(crate) fn of_rewards(task: &Task, item: &Item, worth: &[Worth]) -> ScorecardRow {
    let mut row = empty_row(item);
    let Question::Choices { choices, gold, .. } = &item.question else { return row };
    let rewards: Vec<f64> = worth.iter().map(|worth| worth.reward).collect();
    let outcome = ChoiceOutcome {
        choices,
        log_likelihoods: &rewards,
        is_greedy: &[],
        unconditional: None,
        gold,
        group: item.group.as_deref(),
    };
    let completion = |(i, (text, worth)): (usize, (&String, &Worth))| Completion {
        text: text.clone(),
        right: gold.indices.contains(&i),
        reward: worth.reward,
        characters: text.chars().count(),
        tokens: worth.tokens,
        reply: worth.reply.clone(),
    };
    row.rewards = choices.iter().zip(worth).enumerate().map(completion).collect();
    row.answer = outcome.predicted().map_or_else(String::new, |i| choices[i].clone());
    let scores = task.columns().map(|(name, metric, _)| (name, metric.of_choices(&outcome))).collect();
    fill(task, &mut row, scores);
    row
}

/// The row of an example that was asked for words and gave none, for the reason `why`: scored as an empty answer is.
pub(crate) fn unanswered(
    task: &Task,
    item: &Item,
    why: &str,
    runner: Option<&CodeRunner>,
) -> Result<ScorecardRow, EvalError> {
    let empty = vec![String::new(); task.config.repeats.max(1)];
    Ok(ScorecardRow { unanswered: Some(why.into()), ..of_texts(task, item, &empty, runner)? })
}

/// The `row` of an example of whose ratings one could not be had, for the reason `why`. The ratings that are there stay; the scores
/// are those of right answers below all others, so that it helps nobody to lack the rating of a wrong one.
pub(crate) fn unrated(task: &Task, item: &Item, row: ScorecardRow, why: String) -> ScorecardRow {
    let worth = |completion: &Completion| Worth {
        reward: if completion.right { -1.0 } else { 0.0 },
        tokens: completion.tokens,
        reply: None,
    };
    let wrong = of_rewards(task, item, &row.rewards.iter().map(worth).collect::<Vec<_>>());
    ScorecardRow { rewards: row.rewards, answer: String::new(), unanswered: Some(why), ..wrong }
}

/// The row of an example that was answered in words, once or several times. Programs among the answers are run by `runner`.
pub(crate) fn of_texts(
    task: &Task,
    item: &Item,
    responses: &[String],
    runner: Option<&CodeRunner>,
) -> Result<ScorecardRow, EvalError> {
    let Question::Generate { context, references } = &item.question else { return Ok(empty_row(item)) };
    let wrong = |error: MetricError| EvalError::Request {
        task: task.name().into(),
        id: item.id.clone(),
        problem: error.to_string(),
    };
    let mut row = empty_row(item);
    let mut scores = Vec::new();
    let main = task.main_metric().unwrap_or_default();
    for (name, metric, filter) in task.columns() {
        if let Some(options) = metric.code() {
            let Some(runner) = runner else {
                return Err(EvalError::CodeNotAllowed { task: task.name().into(), metric: name });
            };
            let target = references.first().map_or("", String::as_str);
            let outcome = code::score(runner, responses, target, options).map_err(|source| EvalError::Code {
                task: task.name().into(),
                id: item.id.clone(),
                source,
            })?;
            if name == main {
                row.scored = Some(outcome.summary());
            }
            let parts = vec![outcome.outcomes.len() as f64, outcome.passed() as f64];
            scores.push((name, ExampleScore { score: outcome.score, parts }));
            continue;
        }
        let text = filter.apply(responses, &item.choices).map_err(|error| wrong(error.into()))?;
        let outcome =
            TextOutcome { text: &text, references, prompt: context, passage: item.passage.as_deref(), responses };
        let score = metric.of_text(&outcome).map_err(wrong)?;
        if name == main {
            row.scored = Some(text);
        }
        scores.push((name, score));
    }
    row.answer = responses.first().cloned().unwrap_or_default();
    fill(task, &mut row, scores);
    Ok(row)
}

fn fill(task: &Task, row: &mut ScorecardRow, scores: Vec<(String, ExampleScore)>) {
    let main = task.main_metric().unwrap_or_default();
    for (name, score) in scores {
        let value = not_infinite(score.score);
        if name == main {
            row.score = value;
        }
        row.scores.insert(name.clone(), value);
        if !score.parts.is_empty() {
            row.parts.insert(name, score.parts.into_iter().map(not_infinite).collect());
        }
    }
}

/// The number nearest to it: JSON has no infinity, and a row is read back as it was made.
fn not_infinite(number: f64) -> f64 {
    number.clamp(f64::MIN, f64::MAX)
}

/// What is known of a row before anything is asked.
pub(crate) fn empty_row(item: &Item) -> ScorecardRow {
    let asked = match &item.question {
        Question::Choices { contexts, continuations, .. } => serde_json::json!([contexts, continuations]),
        Question::Target { context, continuation } => serde_json::json!([context, continuation]),
        Question::Document { text, .. } => serde_json::json!([text]),
        Question::Generate { context, .. } => serde_json::json!([context]),
    };
    ScorecardRow {
        id: item.id.clone(),
        prompt_sha256: hex(&Sha256::digest(asked.to_string())),
        prompt: item.prompt.clone(),
        target: item.target.clone(),
        choices: Vec::new(),
        rewards: Vec::new(),
        group: item.group.clone(),
        answer: String::new(),
        scored: None,
        unanswered: None,
        gold_missing: matches!(&item.question, Question::Choices { gold, .. } if gold.indices.is_empty()),
        target_score: None,
        reasoning: None,
        scores: Default::default(),
        parts: Default::default(),
        score: 0.0,
    }
}

fn choice_score(text: &str, scored: &Scored) -> ChoiceScore {
    ChoiceScore {
        text: text.into(),
        log_likelihood: not_infinite(scored.log_likelihood()),
        tokens: scored.log_probs.len(),
        is_greedy: scored.is_greedy,
    }
}

/// The beginning of a document, for people.
fn excerpt(text: &str) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The task's scores from its examples' numbers, with standard errors where the harness has them.
pub fn aggregate(task: &Task, tally: &Tally, bootstrap_iterations: usize) -> Vec<MetricValue> {
    let value = |(name, metric, _): (String, &Metric, _)| {
        let aggregation = metric.aggregation;
        if aggregation == Aggregation::Mean {
            // Of a mean the numbers are read where they stand, however many they are.
            let scores = tally.scores(&name);
            let value = scores.iter().fold(0.0, |sum, score| sum + score) / scores.len() as f64;
            let stderr = (metric.aggregated_by() == "mean").then(|| statistics::mean_stderr(scores)).flatten();
            return metric_value(name, metric, value, stderr);
        }
        let examples = tally.of_metric(&name);
        let on = |indices: &[usize]| aggregation.value(indices.iter().map(|&i| &examples[i]));
        let bootstrap = |iterations| statistics::bootstrap_stderr(examples.len(), iterations, &on);
        // The harness goes by the metric's name.
        let iterations = match metric.name.as_str() {
            "bleu" | "chrf" | "chrf++" | "ter" => bootstrap_iterations.min(TRANSLATION_ITERATIONS),
            _ => bootstrap_iterations,
        };
        let stderr = match metric.aggregated_by() {
            "median" | "nanmean" | "f1" | "matthews_corrcoef" | "perplexity" => bootstrap(iterations),
            "bleu" | "chrf" | "chrf++" | "ter" => bootstrap(iterations),
            calibration::NAME => bootstrap(iterations.min(CALIBRATION_ITERATIONS)),
            _ => None,
        };
        metric_value(name, metric, aggregation.value(examples.iter()), stderr)
    };
    task.columns().map(value).collect()
}

fn metric_value(name: String, metric: &Metric, value: f64, stderr: Option<f64>) -> MetricValue {
    MetricValue {
        value: not_infinite(value),
        stderr: stderr.filter(|s| s.is_finite()),
        higher_is_better: metric.higher_is_better,
        aggregation: metric.aggregation,
        is_share: metric.is_share(),
        name,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;

    use hone_data::example::SourceRef;
    use serde::Deserialize;

    use super::*;
    use crate::metrics::choice::Gold;
    use crate::task::TaskConfig;
    use crate::task::data::{Doc, Split};

    /// Of each aggregation its value and its standard error, if it has one.
    type Of = BTreeMap<String, (f64, Option<f64>)>;

    #[derive(Deserialize)]
    struct Golden {
        iterations: usize,
        numbers: Vec<f64>,
        of_numbers: Of,
        classes: Vec<(usize, usize)>,
        of_classes: Of,
        several: Vec<(usize, usize)>,
        of_several: Of,
        texts: Vec<(String, String)>,
        of_texts: Of,
        lengths: Vec<(f64, usize)>,
        of_lengths: Of,
        translations: Vec<(String, String)>,
        of_translations: Of,
    }

    fn task(kind: &str, metric: &str, aggregation: &str) -> Task {
        let text = format!(
            "task: t\noutput_type: {kind}\ndoc_to_text: q\ndoc_to_target: '{{{{a}}}}'\n{}\
             metric_list: [{{metric: {metric}, aggregation: {aggregation}}}]\n",
            if kind == "multiple_choice" { "doc_to_choice: [x, y]\n" } else { "" },
        );
        let config = TaskConfig::parse("t.yaml", &text, &|_| unreachable!("includes nothing")).unwrap();
        let columns = serde_json::json!({"q": "?", "a": "0"}).as_object().cloned().unwrap();
        let place = SourceRef { file: Arc::from(Path::new("t.jsonl")), row: 1, line: None };
        let docs = std::iter::once(Doc { columns, place }).collect();
        Task::over(config, "t.yaml".into(), Split { docs, sha256: String::new() }).unwrap()
    }

    /// Every aggregation of `expected` over examples of `metric`, scored by `score`.
    fn check<T>(
        (kind, metric, iterations): (&str, &str, usize),
        examples: &[T],
        expected: &Of,
        score: impl Fn(&Metric, &T) -> ExampleScore,
    ) {
        assert!(!expected.is_empty());
        for (aggregation, (value, stderr)) in expected {
            let task = task(kind, metric, aggregation);
            let row = |example: &T| {
                let mut row = ScorecardRow::default();
                let scores = task.columns().map(|(name, metric, _)| (name, score(metric, example))).collect();
                fill(&task, &mut row, scores);
                row
            };
            let rows: Vec<ScorecardRow> = examples.iter().map(row).collect();
            let found = aggregate(&task, &Tally::of(&rows), iterations).remove(0);
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs().max(1.0);
            let what = format!("{metric} by {aggregation}");
            assert!(close(found.value, *value), "{what}: {}, expected {value}", found.value);
            assert_eq!(found.stderr.is_some(), stderr.is_some(), "{what}: {:?}, expected {stderr:?}", found.stderr);
            let (ours, theirs) = (found.stderr.unwrap_or(0.0), stderr.unwrap_or(0.0));
            assert!(close(ours, theirs), "{what}: standard error {ours}, expected {theirs}");
        }
    }

    /// `tools/golden/aggregations.py`
    #[test]
    fn aggregations_and_standard_errors_are_the_harness() {
        let golden: Golden = serde_json::from_str(include_str!("../tests/golden/aggregations.json")).unwrap();
        let n = golden.iterations;
        let target = |metric: &Metric, ll: &f64| metric.of_target(*ll, false, "x");
        check(("loglikelihood", "perplexity", n), &golden.numbers, &golden.of_numbers, target);
        let chosen = |metric: &Metric, (gold, picked): &(usize, usize)| {
            let log_likelihoods: Vec<f64> = (0..4).map(|i| if i == *picked { -1.0 } else { -2.0 }).collect();
            metric.of_choices(&ChoiceOutcome {
                choices: &["a", "b", "c", "d"].map(String::from),
                log_likelihoods: &log_likelihoods,
                is_greedy: &[false; 4],
                unconditional: None,
                gold: &Gold { indices: vec![*gold] },
                group: None,
            })
        };
        for metric in ["f1", "mcc"] {
            check(("multiple_choice", metric, n), &golden.classes, &golden.of_classes, chosen);
        }
        check(("multiple_choice", "mcc", n), &golden.several, &golden.of_several, chosen);
        let text = |metric: &Metric, (reference, text): &(String, String)| {
            let references = std::slice::from_ref(reference);
            metric.of_text(&TextOutcome { text, references, prompt: "", passage: None, responses: &[] }).unwrap()
        };
        for metric in ["f1", "mcc"] {
            check(("generate_until", metric, n), &golden.texts, &golden.of_texts, text);
        }
        let numbers: Vec<(String, String)> =
            golden.classes.iter().map(|(gold, picked)| (gold.to_string(), picked.to_string())).collect();
        check(("generate_until", "f1", n), &numbers, &golden.of_classes, text);
        let document = |metric: &Metric, (log_likelihood, length): &(f64, usize)| {
            metric.of_rolling(RollingOutcome { log_likelihood: *log_likelihood, words: *length, bytes: *length })
        };
        for metric in ["word_perplexity", "byte_perplexity", "bits_per_byte"] {
            check(("loglikelihood_rolling", metric, n), &golden.lengths, &golden.of_lengths, document);
        }
        for metric in ["bleu", "chrf", "ter"] {
            check(("generate_until", metric, n), &golden.translations, &golden.of_translations, text);
        }
    }

    /// What is 0 or 1 is aggregated as any other number is.
    #[test]
    fn a_right_answer_is_a_number_to_every_aggregation() {
        let target = |metric: &Metric, right: &bool| metric.of_target(-1.0, *right, "x");
        let expected = |value: f64| Of::from([("median".into(), (value, Some(0.0)))]);
        check(("loglikelihood", "acc", 0), &[true], &Of::from([("median".into(), (1.0, None))]), target);
        check(("loglikelihood", "acc", 100), &[true; 4], &expected(1.0), target);
        let half = Of::from([("perplexity".into(), ((-0.5f64).exp(), None))]);
        let rows: Vec<f64> = [true, false].iter().map(|right| f64::from(*right)).collect();
        let task = task("loglikelihood", "acc", "perplexity");
        let metric = &task.metrics[0];
        let scores: Vec<ExampleScore> = [true, false].map(|right| target(metric, &right)).to_vec();
        assert_eq!(scores.iter().map(|score| score.parts[0]).collect::<Vec<_>>(), rows);
        let value = metric.aggregation.value(scores.iter());
        assert!((value - half["perplexity"].0).abs() < 1e-12 && !metric.is_share(), "{value}");
    }
}
