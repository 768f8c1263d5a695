//! A scorecard: one model on one task, one row per example. Plain data; written as JSON lines, the header first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::metrics::Aggregation;
use crate::reasoning::Trace;
use crate::statistics::json;
use crate::task::variants::Variant;

/// What was measured, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScorecardHeader {
    /// Task name.
    pub task: String,
    /// Task version.
    pub version: String,
    /// SHA-256 over the task's definition and data file: cards with different ones are not paired.
    pub task_sha256: String,
    /// What the task's file says, key by key, to tell what differs. Cards written before this was kept lack it.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub definition: Map<String, Value>,
    /// SHA-256 of the data file alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_sha256: Option<String>,
    /// The model as the user named it.
    pub model: String,
    /// SHA-256 of the model's weights.
    pub model_sha256: String,
    /// The edit's directory, if one was applied.
    pub edit: Option<String>,
    /// SHA-256 of what the edit's directory holds; of several, joined by `+`. Cards written before this was kept lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit_sha256: Option<String>,
    /// Compute type.
    pub dtype: String,
    /// Kind of task: `multiple_choice`, `generate_until`, `loglikelihood`, `loglikelihood_rolling`.
    pub kind: String,
    /// Shots in the prompt.
    pub num_fewshot: usize,
    /// Seed of the shots.
    pub fewshot_seed: u64,
    /// Whether prompts went through the chat template.
    pub chat_template: bool,
    /// The metric that decides the verdict.
    pub main_metric: String,
    /// Prompts cut from the left because they were over the model's length.
    pub truncated: usize,
    /// Questions that a server could not be brought to answer: they count as wrong.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unanswered: usize,
    /// What the server said to the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_unanswered: Option<String>,
    /// Questions whose right choice is none of their choices: they count as wrong.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gold_missing: usize,
    /// Replies that were to be ratings of answers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ratings: usize,
    /// Those of them that held none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unrated: usize,
    /// Number of rows.
    pub n: usize,
    /// Aggregated metrics: name, value, standard error.
    pub metrics: Vec<MetricValue>,
    /// Wall seconds.
    pub seconds: f64,
    /// Of a task that is asked in several ways: which of them this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// What the task file's `metadata` says besides the version; measures group tasks by it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Hash of everything that decides the rows: a finished card with the same one is not scored again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whether prompts and answers are kept out of reports.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sensitive: bool,
    /// Of choices that were scored by rewards: where those come from ([`crate::rewards`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<String>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl ScorecardHeader {
    /// The model with its edit, in words.
    pub fn named(&self) -> String {
        match &self.edit {
            Some(edit) => format!("{} + {edit}", self.model),
            None => self.model.clone(),
        }
    }

    /// Whether the choice that a row's `target` names is one to avoid, as a refusal of a harmless request is: the main metric, or
    /// `acc` where the main one counts no answers, is a share of which less is better.
    pub fn target_is_to_avoid(&self) -> bool {
        let counts = |metric: &&MetricValue| metric.is_share && metric.aggregation == Aggregation::Mean;
        let called = |name: &str| self.metrics.iter().filter(counts).find(|metric| metric.name == name);
        called(&self.main_metric).or_else(|| called("acc")).is_some_and(MetricValue::counts_answers_to_avoid)
    }
}

/// An aggregated metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricValue {
    /// `acc`, `exact_match` …
    pub name: String,
    /// Its value (shares in 0..1, not per cent); NaN, in the file `null`, where the examples have none.
    #[serde(deserialize_with = "json::end")]
    pub value: f64,
    /// Standard error, where it is defined.
    pub stderr: Option<f64>,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// How rows make the value.
    #[serde(default)]
    pub aggregation: Aggregation,
    /// Whether the value is a share in 0..1 (printed as points) or a free number.
    #[serde(default)]
    pub is_share: bool,
}

impl MetricValue {
    /// Whether it is the share of answers that are to be avoided, such as refusals of harmless requests: an answer that scores 0
    /// is right.
    pub fn counts_answers_to_avoid(&self) -> bool {
        !self.higher_is_better && self.is_share && self.aggregation == Aggregation::Mean
    }
}

/// One example.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScorecardRow {
    /// The example's id within the task's data file.
    pub id: String,
    /// SHA-256 of the prompt.
    pub prompt_sha256: String,
    /// The prompt itself.
    pub prompt: String,
    /// The right answer as text.
    pub target: String,
    /// Choices with their log-likelihoods (multiple choice), in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<ChoiceScore>,
    /// Completions with their rewards, in order, in place of choices with log-likelihoods ([`crate::rewards`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<Completion>,
    /// What the example shares with others of its prompt, where the task says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The model's answer as text: the chosen choice, or what it generated.
    pub answer: String,
    /// Of a written answer, what the main metric's filters left of it: the text that was scored. Cards written before this was
    /// kept lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scored: Option<String>,
    /// Of a question that a server could not be brought to answer: its words, shortened. The scores are those of an empty answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<String>,
    /// Whether the right choice is none of the choices, as an index beyond them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gold_missing: bool,
    /// Log-likelihood of the target (log-likelihood and perplexity tasks).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_score: Option<ChoiceScore>,
    /// Of a task that is answered after reasoning: the reasoning, and the answers when it was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Trace>,
    /// This example's score on every metric. No number here is infinite; one that is not there is NaN, in the file `null`.
    #[serde(deserialize_with = "json::by_name")]
    pub scores: BTreeMap<String, f64>,
    /// For metrics whose value is no mean of scores: what this example contributes (log-likelihood and words, n-gram
    /// counts …), see [`Aggregation`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "json::lists_by_name")]
    pub parts: BTreeMap<String, Vec<f64>>,
    /// This example's score on the main metric.
    #[serde(deserialize_with = "json::end")]
    pub score: f64,
}

/// A completion and its reward.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The completion.
    pub text: String,
    /// Whether it is a right one.
    pub right: bool,
    /// Its reward.
    pub reward: f64,
    /// Characters of the text; kept where the text is not.
    pub characters: usize,
    /// Tokens read; 0 where nobody counted.
    #[serde(default)]
    pub tokens: usize,
    /// What the model wrote about it, of ratings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
}

/// A continuation's log-likelihood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChoiceScore {
    /// The continuation.
    pub text: String,
    /// Sum of natural log-probabilities.
    #[serde(deserialize_with = "json::end")]
    pub log_likelihood: f64,
    /// Tokens.
    pub tokens: usize,
    /// Whether every token was the most likely one.
    pub is_greedy: bool,
}

/// One model on one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scorecard {
    /// What was measured.
    pub header: ScorecardHeader,
    /// Example by example.
    pub rows: Vec<ScorecardRow>,
}
