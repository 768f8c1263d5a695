//! Two scorecards of one task, paired example by example.
//!
//! A pair is only made where both models answered the same question: same task definition and data, same shots, same
//! prompt. The ledger ([`crate::compare`]) and the measures ([`crate::measures`]) read the same pairs.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::error::EvalError;
use crate::metrics::{ExampleScore, Kind};
use crate::scorecard::{MetricValue, Scorecard, ScorecardHeader, ScorecardRow};

/// What stands where the texts of a sensitive task would.
pub const WITHHELD: &str = "(withheld: the task is marked sensitive; the scorecard has the text)";

/// The examples that both cards of a task have.
pub struct Paired<'a> {
    /// What was measured of the first model.
    pub base: &'a ScorecardHeader,
    /// What was measured of the second model.
    pub tuned: &'a ScorecardHeader,
    /// The metric compared: the main one.
    pub metric: &'a MetricValue,
    /// The rows, the first model's beside the second's.
    pub rows: Vec<(&'a ScorecardRow, &'a ScorecardRow)>,
    /// What each pair's first row contributes to the metric.
    pub before: Vec<ExampleScore>,
    /// What each pair's second row contributes.
    pub after: Vec<ExampleScore>,
    /// Examples that only one of the cards has.
    pub unpaired: usize,
    /// Whether the tuning was for this task: what changed in it is no loss elsewhere.
    pub is_target: bool,
}

impl<'a> Paired<'a> {
    /// Pairs two cards by the ids of their examples.
    ///
    /// # Errors
    /// Cards of different questions, without a common example, or, unless `allow_different_prompts`, of different prompts.
    pub fn new(
        base: &'a Scorecard,
        tuned: &'a Scorecard,
        allow_different_prompts: bool,
    ) -> Result<Paired<'a>, EvalError> {
        let name = &base.header.task;
        check_same_questions(&base.header, &tuned.header)?;
        let metric = main_metric(&base.header)?;
        let by_id: HashMap<&str, &ScorecardRow> = tuned.rows.iter().map(|row| (row.id.as_str(), row)).collect();
        let rows: Vec<(&ScorecardRow, &ScorecardRow)> =
            base.rows.iter().filter_map(|row| Some((row, *by_id.get(row.id.as_str())?))).collect();
        if rows.is_empty() {
            let difference = "no example in common; evaluate both models with the same `--limit`".to_owned();
            return Err(EvalError::NotComparable { task: name.clone(), difference });
        }
        if !allow_different_prompts {
            check_same_prompts(name, &rows)?;
        }
        let part = |row: &ScorecardRow| ExampleScore {
            score: row.scores.get(&metric.name).copied().unwrap_or(row.score),
            parts: row.parts.get(&metric.name).cloned().unwrap_or_default(),
        };
        let before = rows.iter().map(|(row, _)| part(row)).collect();
        let after = rows.iter().map(|(_, row)| part(row)).collect();
        let unpaired = base.rows.len() + tuned.rows.len() - 2 * rows.len();
        Ok(Paired { base: &base.header, tuned: &tuned.header, metric, rows, before, after, unpaired, is_target: false })
    }

    /// The task's name.
    pub fn task(&self) -> &'a str {
        &self.base.task
    }

    /// Number of pairs, at least one.
    pub fn n(&self) -> usize {
        self.rows.len()
    }

    /// The metric's value over some scores of this task.
    pub fn value<'s>(&self, scores: impl Iterator<Item = &'s ExampleScore>) -> f64 {
        self.metric.aggregation.value(scores)
    }

    /// Whether every answer of both models was either right or wrong: its score is 0 or 1. Where less is better, the metric has to
    /// be a share of answers (of refusals, say): a Brier score of 1 is no answer of one kind.
    pub fn right_or_wrong(&self) -> bool {
        let counts = self.metric.higher_is_better || self.metric.counts_answers_to_avoid();
        counts && self.before.iter().chain(&self.after).all(|e| e.score == 0.0 || e.score == 1.0)
    }

    /// Whether an answer with this score was right, where answers are right or wrong: it scores 1, or 0 where less is better.
    pub fn is_right(&self, score: f64) -> bool {
        if self.metric.higher_is_better { score == 1.0 } else { score == 0.0 }
    }

    /// Whether both cards hold log-likelihoods of choices: not of written answers, and not rewards in their place.
    pub fn has_log_likelihoods(&self) -> bool {
        let chosen = Kind::from_name(&self.base.kind) == Some(Kind::MultipleChoice);
        chosen && self.base.rewards.is_none() && self.tuned.rewards.is_none()
    }

    /// A text of the task as reports show it: not at all where the task is sensitive.
    pub fn shown(&self, text: &str) -> String {
        if self.base.sensitive { WITHHELD.into() } else { text.into() }
    }

    /// 1 where more is better, else -1.
    pub fn sign(&self) -> f64 {
        if self.metric.higher_is_better { 1.0 } else { -1.0 }
    }
}

fn main_metric(header: &ScorecardHeader) -> Result<&MetricValue, EvalError> {
    header.metrics.iter().find(|m| m.name == header.main_metric).ok_or_else(|| EvalError::NotComparable {
        task: header.task.clone(),
        difference: format!("the card's main metric `{}` is not among its metrics; evaluate again", header.main_metric),
    })
}

/// Refuses cards of different questions; says what differs.
pub(crate) fn check_same_questions(base: &ScorecardHeader, tuned: &ScorecardHeader) -> Result<(), EvalError> {
    let told = base.task_sha256 != tuned.task_sha256 && !base.definition.is_empty() && !tuned.definition.is_empty();
    let hash = |header: &ScorecardHeader| if told { String::new() } else { short(&header.task_sha256) };
    let data = |header: &ScorecardHeader| header.data_sha256.as_deref().map(short).filter(|_| told).unwrap_or_default();
    let fields = [
        ("task version", base.version.clone(), tuned.version.clone()),
        ("task definition or data (SHA-256)", hash(base), hash(tuned)),
        ("data (SHA-256)", data(base), data(tuned)),
        ("kind", base.kind.clone(), tuned.kind.clone()),
        ("shots", base.num_fewshot.to_string(), tuned.num_fewshot.to_string()),
        ("seed of the shots", base.fewshot_seed.to_string(), tuned.fewshot_seed.to_string()),
        ("chat template", on_off(base.chat_template), on_off(tuned.chat_template)),
        ("main metric", base.main_metric.clone(), tuned.main_metric.clone()),
    ];
    let mut differing: Vec<String> =
        fields.iter().filter(|(_, b, t)| b != t).map(|(what, b, t)| format!("{what} {b} against {t}")).collect();
    if told {
        differing.extend(differing_keys(&base.definition, &tuned.definition));
    }
    if differing.is_empty() {
        return Ok(());
    }
    let difference = format!("{}; evaluate both models with the same settings", differing.join(", "));
    Err(EvalError::NotComparable { task: base.task.clone(), difference })
}

/// The keys of two task files that differ, with what they say from a little before the first difference.
fn differing_keys(base: &Map<String, Value>, tuned: &Map<String, Value>) -> Vec<String> {
    let text = |value: Option<&Value>| value.map_or_else(|| "nothing".into(), Value::to_string);
    let keys = base.keys().chain(tuned.keys().filter(|key| !base.contains_key(*key)));
    let differing = keys.filter(|key| base.get(*key) != tuned.get(*key)).map(|key| {
        let (before, after) = (text(base.get(key)), text(tuned.get(key)));
        let from = before.chars().zip(after.chars()).take_while(|(b, a)| b == a).count();
        let excerpt = |text: &str| -> String {
            let begins = if from > 20 { "…" } else { "" };
            let shown: String = text.chars().skip(from.saturating_sub(20)).take(60).collect();
            format!("{begins}{shown}")
        };
        format!("`{key}` {} against {}", excerpt(&before), excerpt(&after))
    });
    differing.collect()
}

fn short(sha256: &str) -> String {
    sha256.chars().take(12).collect()
}

fn on_off(on: bool) -> String {
    if on { "on".into() } else { "off".into() }
}

pub(crate) fn check_same_prompts(task: &str, pairs: &[(&ScorecardRow, &ScorecardRow)]) -> Result<(), EvalError> {
    let differing: Vec<_> = pairs.iter().filter(|(b, t)| b.prompt_sha256 != t.prompt_sha256).collect();
    let Some((base, tuned)) = differing.first() else { return Ok(()) };
    let from = base.prompt.chars().zip(tuned.prompt.chars()).take_while(|(b, t)| b == t).count();
    let excerpt = |text: &str| -> String { text.chars().skip(from.saturating_sub(20)).take(60).collect() };
    Err(EvalError::NotComparable {
        task: task.to_owned(),
        difference: format!(
            "{} of {} prompts differ; example {}: {:?} against {:?}; allow it with `--allow-different-prompts`",
            differing.len(),
            pairs.len(),
            base.id,
            excerpt(&base.prompt),
            excerpt(&tuned.prompt)
        ),
    })
}
