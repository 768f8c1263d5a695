//! Rules that fail a comparison: `fail_if: {boolq: {drop_over: 3}}`. A broken rule sets the exit code, so that a
//! comparison can guard a merge.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::ledger::TaskComparison;

/// Rules by task name.
pub type Rules = BTreeMap<String, Rule>;

/// When a task's comparison counts as failed. Numbers are points (hundredths) for metrics that are shares, else in the
/// metric's own unit; "worse" follows the metric's direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// The tuned model is worse than the base by more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_over: Option<f64>,
    /// The tuned model scores worse than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worse_than: Option<f64>,
    /// Count a drop only if it is measurable (the task's verdict is `worse`).
    pub measurable: bool,
}

/// The broken rules in words. Every rule is of a task that was compared (`CompareOptions::check_names`).
pub fn broken(rules: &Rules, tasks: &[TaskComparison]) -> Result<Vec<String>, EvalError> {
    let mut broken = Vec::new();
    for (name, rule) in rules {
        let Some(task) = tasks.iter().find(|task| task.name == *name) else { continue };
        if rule.drop_over.is_none() && rule.worse_than.is_none() {
            let problem = format!("task `{name}`: give `drop_over` or `worse_than`");
            return Err(EvalError::Rule { what: "fail_if", problem });
        }
        if let Some(drop) = rule.drop_over.filter(|drop| drop.is_nan() || *drop < 0.0) {
            // Under 0 no drop at all would break it.
            let problem = format!("task `{name}`: `drop_over`: found {drop}, expected 0 or more");
            return Err(EvalError::Rule { what: "fail_if", problem });
        }
        let unit = if task.is_share { 100.0 } else { 1.0 };
        let words = if task.is_share { " points" } else { "" };
        let harm = if task.higher_is_better { -1.0 } else { 1.0 };
        let drop = harm * task.difference * unit;
        if let Some(limit) = rule.drop_over.filter(|limit| drop > *limit)
            && (!rule.measurable || task.verdict == "worse")
        {
            broken.push(format!("{name}: {} worse by {drop:.1}{words}, over the limit of {limit}", task.metric));
        }
        let score = task.tuned * unit;
        if let Some(limit) = rule.worse_than.filter(|limit| harm * (score - limit) > 0.0) {
            broken.push(format!("{name}: {} is {score:.1}{words}, worse than the limit of {limit}", task.metric));
        }
    }
    Ok(broken)
}
