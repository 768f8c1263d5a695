//! The ledger: two scorecards paired example by example. Plain data; `ledger.json` is this, serialised.

use serde::{Deserialize, Serialize};

use crate::measures::MeasureResult;
use crate::statistics::json;

/// Two models compared on a set of tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Format version of this file.
    pub format: u32,
    /// The first model, as named.
    pub base: String,
    /// The second model, as named.
    pub tuned: String,
    /// In words: what got better, what got worse, whether to ship.
    pub verdict: String,
    /// In one word.
    pub outcome: Outcome,
    /// User-set rules that were broken, in words; not empty means exit code 3.
    pub broken_rules: Vec<String>,
    /// What the reader should know besides: tasks and examples left out.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Task by task.
    pub tasks: Vec<TaskComparison>,
    /// Paired examples behind `tasks`, for the report: the flips, and some unchanged ones.
    pub examples: Vec<PairedExample>,
    /// What was asked besides, by name: see [`crate::measures`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<MeasureResult>,
}

impl Ledger {
    /// The tasks that the verdict is over: those asked in several ways once, by their first one.
    pub fn asked(&self) -> impl Iterator<Item = &TaskComparison> {
        self.tasks.iter().filter(|task| !task.is_variant)
    }
}

/// What the comparison says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Something gained, nothing measurably lost.
    Better,
    /// Something gained, something lost.
    Mixed,
    /// Nothing gained, something lost.
    Worse,
    /// No measurable change.
    Unchanged,
}

/// One task: differences are `tuned - base`, signed so that more is what the metric says is better or worse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskComparison {
    /// Task name.
    pub name: String,
    /// Metric compared.
    pub metric: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Whether the metric is a share in 0..1 (printed as points) or a free number.
    pub is_share: bool,
    /// Paired examples.
    pub n: usize,
    /// Score of the first model; NaN, in the file `null`, where its examples have none.
    #[serde(deserialize_with = "json::end")]
    pub base: f64,
    /// Score of the second model.
    #[serde(deserialize_with = "json::end")]
    pub tuned: f64,
    /// `tuned - base`.
    #[serde(deserialize_with = "json::end")]
    pub difference: f64,
    /// Lower end of the paired-bootstrap 95 % interval; NaN, in the file `null`, of a single example.
    #[serde(deserialize_with = "json::end")]
    pub ci_low: f64,
    /// Upper end.
    #[serde(deserialize_with = "json::end")]
    pub ci_high: f64,
    /// Exact McNemar p-value; `None` where scores are not right-or-wrong.
    pub mcnemar_p: Option<f64>,
    /// Two-sided p-value of the paired bootstrap, for every kind of metric.
    #[serde(default)]
    pub bootstrap_p: Option<f64>,
    /// Effect size, signed as `difference`: Cohen's h where scores are right or wrong, else his d_z
    /// ([`crate::statistics::effect`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<f64>,
    /// The p-value (McNemar's where there is one, else the bootstrap's) after Holm's correction over the tasks.
    pub p_holm: Option<f64>,
    /// Examples that only one of the two scorecards has; they are left out.
    #[serde(default)]
    pub unpaired: usize,
    /// Wrong before, right after. Right is a score of 1, of a share of which less is better (refusals of harmless requests) one
    /// of 0.
    pub gained: usize,
    /// Right before, wrong after.
    pub lost: usize,
    /// Right both times.
    pub both_right: usize,
    /// Wrong both times.
    pub both_wrong: usize,
    /// `lost / n`.
    pub negative_flip_rate: f64,
    /// `gained / n`.
    pub positive_flip_rate: f64,
    /// `better`, `worse`, `unchanged`.
    pub verdict: String,
    /// Whether this task is what the tuning was for.
    pub is_target: bool,
    /// Whether this is a further way of asking a task that stands here already: measures read it, the verdict does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_variant: bool,
}

impl TaskComparison {
    /// Whether its answers are right or wrong by a share of which less is better: what its examples name as target is to be
    /// avoided.
    pub fn target_is_to_avoid(&self) -> bool {
        self.mcnemar_p.is_some() && !self.higher_is_better
    }
}

/// An example with both models' answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedExample {
    /// Task name.
    pub task: String,
    /// Example id.
    pub id: String,
    /// `gained`, `lost`, `both_right`, `both_wrong`.
    pub change: String,
    /// The prompt.
    pub prompt: String,
    /// The right answer.
    pub target: String,
    /// The first model's answer.
    pub base_answer: String,
    /// The second model's answer.
    pub tuned_answer: String,
    /// Score before.
    #[serde(deserialize_with = "json::end")]
    pub base_score: f64,
    /// Score after.
    #[serde(deserialize_with = "json::end")]
    pub tuned_score: f64,
}
