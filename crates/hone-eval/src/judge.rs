//! A model as judge of written answers: the second opinion beside metrics that count words.
//!
//! A judge is a task like any other, whose examples are the rows of a scorecard (`prompt`, `target`, `answer`): it is asked a
//! question about each answer, its reply is filtered to a verdict, and the verdict is the reply's score. So judging is evaluating:
//! by a model here or behind a server, with the same retries and the same going on after a stop ([`crate::evaluate_to`]).
//! [`apply`] writes the verdicts into the judged card as two metrics:
//!
//! ```text
//! judge            share of the replies with a verdict that say yes
//! judge_unparsed   share of the replies without one; those rows have no `judge` score, and count as neither
//! ```
//!
//! Yes-or-no judging of correctness and support follows Adlakha et al. 2024, arXiv 2307.16877.
//!
//! What it does not know: whether the judge is right. A small model is a bad judge; models prefer answers like their own.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::error::EvalError;
use crate::metrics::Kind;
use crate::scorecard::{MetricValue, Scorecard};
use crate::statistics::mean_stderr;
use crate::task::{DataRoot, Task, TaskConfig, bundled, file};

/// The metric of verdicts.
pub const JUDGE: &str = "judge";
/// The metric of replies without a verdict.
pub const UNPARSED: &str = "judge_unparsed";

/// The judge's task over the rows of the card in `path`. `reference` is a judge that ships with the program or a task file.
///
/// # Errors
/// A task file that is wrong or no judge's, a card without written answers.
pub fn task(reference: &str, path: &std::path::Path, card: &Scorecard) -> Result<Task, EvalError> {
    if Kind::from_name(&card.header.kind) != Some(Kind::GenerateUntil) {
        return Err(EvalError::NotComparable {
            task: card.header.task.clone(),
            difference: format!(
                "its answers are not written ones (`{}`), so there is nothing to judge",
                card.header.kind
            ),
        });
    }
    let (file, mut keys) = question(reference)?;
    let path = std::path::absolute(path).map_err(|source| EvalError::Io { path: path.into(), source })?;
    // The first line of a card is its header; its texts are texts, whatever they look like.
    let rows = json!({"data_files": {"rows": {"path": path, "where": "row_number > 1"}}, "untyped": true});
    for (key, value) in [("dataset_path", json!("json")), ("dataset_kwargs", rows), ("test_split", json!("rows"))] {
        keys.insert(key.into(), value);
    }
    let name = keys.get("task").and_then(Value::as_str).unwrap_or(JUDGE).to_owned();
    keys.insert("task".into(), format!("{name}.{}", card.header.task).into());
    let config = checked(TaskConfig::from_keys(&file, keys)?, &file)?;
    Task::from_config(config, file, &DataRoot::default())
}

/// The file and the keys of a judge's question: one that ships with the program, or a task file.
pub(crate) fn question(reference: &str) -> Result<(String, Map<String, Value>), EvalError> {
    let (file, text) = match bundled::task(reference) {
        Some(text) => (format!("tasks/{reference}.yaml"), text.to_owned()),
        None => {
            let path = std::path::Path::new(reference);
            let text = std::fs::read_to_string(path).map_err(|source| EvalError::Io { path: path.into(), source })?;
            (reference.to_owned(), text)
        }
    };
    let no_include = |name: &str| -> Result<String, EvalError> {
        let problem = format!("`{name}`: a judge's file includes no other");
        Err(EvalError::TaskFile { file: file.clone(), place: "include".into(), problem })
    };
    let keys = file::read_keys(&file, &text, &no_include)?;
    Ok((file, keys))
}

/// A judge writes, and its verdict is read by one list of filters.
pub(crate) fn checked(config: TaskConfig, file: &str) -> Result<TaskConfig, EvalError> {
    let writes = Kind::from_name(&config.output_type) == Some(Kind::GenerateUntil);
    if writes && config.filter_list.as_ref().is_some_and(|lists| lists.len() == 1) {
        return Ok(config);
    }
    let problem =
        "a judge is a generate_until task with one filter list, which leaves of a reply the verdict".to_owned();
    Err(EvalError::TaskFile { file: file.into(), place: "filter_list".into(), problem })
}

/// The card with the verdicts of its judge: `verdicts` is the judge's own card.
///
/// # Errors
/// A judge's card of other rows.
pub fn apply(mut card: Scorecard, verdicts: &Scorecard, words: &Words) -> Result<Scorecard, EvalError> {
    if verdicts.rows.len() > card.rows.len() {
        return Err(EvalError::NotComparable {
            task: card.header.task,
            difference: format!("{} verdicts on {} answers", verdicts.rows.len(), card.rows.len()),
        });
    }
    // The judge's examples are the rows in their order.
    let by_place: HashMap<usize, &str> =
        verdicts.rows.iter().filter_map(|row| Some((row.id.parse().ok()?, row.scored.as_deref()?.trim()))).collect();
    let (mut scores, mut unparsed) = (Vec::new(), Vec::new());
    for (place, row) in card.rows.iter_mut().enumerate() {
        row.scores.remove(JUDGE);
        row.scores.remove(UNPARSED);
        let Some(verdict) = by_place.get(&place) else { continue };
        let score = words.score(verdict);
        unparsed.push(f64::from(score.is_none()));
        row.scores.insert(UNPARSED.into(), f64::from(score.is_none()));
        if let Some(score) = score {
            scores.push(score);
            row.scores.insert(JUDGE.into(), score);
        }
    }
    let value = |name: &str, scores: &[f64], higher_is_better: bool| MetricValue {
        name: name.into(),
        value: if scores.is_empty() { 0.0 } else { crate::statistics::mean(scores) },
        stderr: mean_stderr(scores).filter(|stderr| stderr.is_finite()),
        higher_is_better,
        is_share: true,
        ..MetricValue::default()
    };
    card.header.metrics.retain(|metric| metric.name != JUDGE && metric.name != UNPARSED);
    if !scores.is_empty() {
        card.header.metrics.push(value(JUDGE, &scores, words.yes_is_better));
    }
    card.header.metrics.push(value(UNPARSED, &unparsed, false));
    Ok(card)
}

/// What a verdict's words mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// Means 1.
    pub yes: String,
    /// Means 0.
    pub no: String,
    /// Whether a yes is good.
    pub yes_is_better: bool,
}

impl Words {
    /// Of a judge's task: `metadata` may say `yes`, `no` and `yes_is_better`.
    pub fn of(metadata: &Map<String, Value>) -> Words {
        let word = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or(key).to_lowercase();
        let yes_is_better = metadata.get("yes_is_better").and_then(Value::as_bool).unwrap_or(true);
        Words { yes: word("yes"), no: word("no"), yes_is_better }
    }

    fn score(&self, verdict: &str) -> Option<f64> {
        let verdict = verdict.to_lowercase();
        if verdict == self.yes {
            Some(1.0)
        } else if verdict == self.no {
            Some(0.0)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scorecard::{ScorecardHeader, ScorecardRow};

    fn card(answers: &[&str], scored: &[Option<&str>]) -> Scorecard {
        let row = |(i, (answer, scored)): (usize, (&&str, &Option<&str>))| ScorecardRow {
            id: i.to_string(),
            answer: (*answer).into(),
            scored: scored.map(str::to_owned),
            ..ScorecardRow::default()
        };
        let header = ScorecardHeader { task: "t".into(), kind: "generate_until".into(), ..ScorecardHeader::default() };
        Scorecard { header, rows: answers.iter().zip(scored).enumerate().map(row).collect() }
    }

    #[test]
    fn replies_without_a_verdict_count_as_neither() {
        let judged = card(&["a", "b", "c", "d"], &[None; 4]);
        let verdicts = card(&["", "", ""], &[Some("Yes"), Some("[invalid]"), Some(" no ")]);
        let words = Words::of(&Map::new());
        let found = apply(judged.clone(), &verdicts, &words).unwrap();
        let scores: Vec<Option<f64>> = found.rows.iter().map(|row| row.scores.get(JUDGE).copied()).collect();
        assert_eq!(scores, [Some(1.0), None, Some(0.0), None], "the fourth was not asked");
        let metric = |name: &str| found.header.metrics.iter().find(|m| m.name == name).map(|m| m.value);
        assert_eq!((metric(JUDGE), metric(UNPARSED)), (Some(0.5), Some(1.0 / 3.0)));
        // Judging again replaces the verdicts.
        let again = apply(found, &card(&[""], &[Some("no")]), &words).unwrap();
        assert_eq!(again.header.metrics.len(), 2);
        assert_eq!(again.rows[2].scores.get(JUDGE), None);
        let none = apply(judged.clone(), &card(&[""], &[Some("?")]), &words).unwrap();
        assert!(none.header.metrics.iter().all(|metric| metric.name != JUDGE));
        assert!(apply(judged, &card(&[""; 5], &[None; 5]), &words).is_err());
    }

    #[test]
    fn a_guards_words_are_its_own() {
        let metadata = json!({"yes": "unsafe", "no": "safe", "yes_is_better": false}).as_object().cloned().unwrap();
        let words = Words::of(&metadata);
        assert_eq!((words.score("UNSAFE"), words.score("safe"), words.score("yes")), (Some(1.0), Some(0.0), None));
        assert!(!words.yes_is_better);
    }
}
