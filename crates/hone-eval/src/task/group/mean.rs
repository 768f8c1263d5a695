//! Means over a group's tasks: what a group's file asks for, and what the scorecards make of it.
//!
//! `aggregate_metric_list` says which metrics are averaged over the members, weighted by their numbers of examples (`weight_by_size`,
//! the default) or not, each of its filter lists apart. The standard error is the harness': with sizes `n_i` and errors `s_i`,
//! `√( Σ (n_i − 1) n_i s_i² / ((N − k) N) )`, `N = Σ n_i` over `k` tasks, of a weighted mean, `√(Σ s_i²) / k` of another.
//!
//! Where members are left out, no mean is given: one over some of the tasks would be another number under the group's name. Of a metric
//! that some members do not have, the mean is over those that have it, as the harness takes it; [`GroupScore::tasks`] says how many.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Group;
use crate::error::EvalError;
use crate::scorecard::{MetricValue, ScorecardHeader};
use crate::task::config::OneOrMany;
use crate::task::yaml::python_in;

/// The filter list of a task that names none.
const NO_FILTER: &str = "none";

/// An entry of `aggregate_metric_list`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The metric.
    pub metric: String,
    /// `mean`.
    #[serde(default = "mean")]
    pub aggregation: String,
    /// Whether a task counts by its number of examples.
    #[serde(default = "yes")]
    pub weight_by_size: bool,
    /// Under which filter lists; every one that a task has where none is named. `none` is that of tasks without.
    #[serde(default)]
    pub filter_list: Option<OneOrMany>,
}

fn mean() -> String {
    "mean".into()
}

fn yes() -> bool {
    true
}

/// A metric over the tasks of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupScore {
    /// The group.
    pub group: String,
    /// The metric.
    pub metric: String,
    /// Its mean.
    pub value: f64,
    /// Standard error, where every member has one.
    pub stderr: Option<f64>,
    /// Tasks that have the metric.
    pub tasks: usize,
    /// Their examples.
    pub n: usize,
}

/// What a group averages, or why that cannot be; takes the key.
pub(super) fn aggregates(
    file: &str,
    keys: &mut Map<String, Value>,
) -> Result<(Vec<Aggregate>, Option<String>), EvalError> {
    let problem =
        |problem: String| EvalError::TaskFile { file: file.into(), place: "aggregate_metric_list".into(), problem };
    let said = keys.remove("aggregate_metric_list");
    if let Some((place, _)) = said.as_ref().and_then(|said| python_in(said, "aggregate_metric_list")) {
        return Ok((Vec::new(), Some(format!("`{place}` is Python, which is never run"))));
    }
    let aggregates: Vec<Aggregate> = match said {
        None | Some(Value::Null) => Vec::new(),
        // One entry may stand alone.
        Some(one @ Value::Object(_)) => vec![serde_json::from_value(one).map_err(|e| problem(e.to_string()))?],
        Some(list) => serde_json::from_value(list).map_err(|e| problem(e.to_string()))?,
    };
    match aggregates.iter().find(|aggregate| aggregate.aggregation != "mean") {
        None => Ok((aggregates, None)),
        Some(Aggregate { aggregation, metric, .. }) => {
            Err(problem(format!("aggregation `{aggregation}` of `{metric}`; groups are averaged (`mean`)")))
        }
    }
}

impl Group {
    /// Why the mean that the group's file asks for is not given, if it is not: members are left out, or have no score (those among
    /// `failed`), so that it would be another number under the group's name; or it would need Python.
    pub fn no_mean(&self, failed: &[&str]) -> Option<String> {
        const SHOWN: usize = 5;
        if self.not_averaged.is_some() || self.aggregates.is_empty() {
            return self.not_averaged.clone();
        }
        let failed = self.tasks.iter().filter(|task| failed.contains(&task.as_str()));
        let missing: Vec<&str> = self.left_out.iter().chain(failed).map(String::as_str).collect();
        let mut shown = missing.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        if missing.len() > SHOWN {
            shown.push_str(&format!(" and {} more", missing.len() - SHOWN));
        }
        let all = self.tasks.len() + self.left_out.len();
        (!missing.is_empty()).then(|| format!("{} of its {all} tasks have no score: {shown}", missing.len()))
    }

    /// What the group scores, from the scorecards of its tasks.
    pub fn scores(&self, headers: &[&ScorecardHeader]) -> Vec<GroupScore> {
        let members: Vec<&&ScorecardHeader> = headers.iter().filter(|h| self.tasks.contains(&h.task)).collect();
        let mut scores = Vec::new();
        for aggregate in &self.aggregates {
            let named = |metric: &MetricValue| -> Option<String> {
                let (bare, filter) = metric.name.split_once(',').unwrap_or((&metric.name, NO_FILTER));
                (bare == aggregate.metric).then(|| filter.to_owned())
            };
            let filters = match &aggregate.filter_list {
                Some(filters) => filters.to_vec(),
                None => {
                    let all = members.iter().flat_map(|header| &header.metrics).filter_map(named);
                    all.collect::<BTreeSet<_>>().into_iter().collect()
                }
            };
            for filter in filters {
                let value = |header: &&&ScorecardHeader| {
                    let metric = header.metrics.iter().find(|metric| named(metric).as_ref() == Some(&filter))?;
                    Some((metric.value, metric.stderr, header.n))
                };
                let found: Vec<(f64, Option<f64>, usize)> = members.iter().filter_map(value).collect();
                if found.is_empty() {
                    continue;
                }
                let column = match filter == NO_FILTER {
                    true => aggregate.metric.clone(),
                    false => format!("{},{filter}", aggregate.metric),
                };
                let n: usize = found.iter().map(|(.., n)| n).sum();
                let weight = |n: usize| if aggregate.weight_by_size { n as f64 } else { 1.0 };
                let whole: f64 = found.iter().map(|(.., n)| weight(*n)).sum();
                scores.push(GroupScore {
                    group: self.name.clone(),
                    metric: column,
                    value: found.iter().map(|(value, _, n)| value * weight(*n)).sum::<f64>() / whole,
                    stderr: if aggregate.weight_by_size { pooled(&found) } else { unweighted(&found) },
                    tasks: found.len(),
                    n,
                });
            }
        }
        scores
    }
}

/// The harness' standard error of a mean without weights.
fn unweighted(found: &[(f64, Option<f64>, usize)]) -> Option<f64> {
    let squares: Option<f64> = found.iter().map(|(_, stderr, _)| stderr.map(|s| s * s)).sum();
    squares.map(|squares| squares.sqrt() / found.len() as f64)
}

/// The harness' pooled standard error; see the [module](self).
fn pooled(found: &[(f64, Option<f64>, usize)]) -> Option<f64> {
    let n: usize = found.iter().map(|(.., n)| n).sum();
    let free = n.checked_sub(found.len()).filter(|free| *free > 0)?;
    let squares: Option<f64> =
        found.iter().map(|(_, stderr, n)| stderr.map(|s| (*n as f64 - 1.0) * *n as f64 * s * s)).sum();
    squares.map(|squares| (squares / (free as f64 * n as f64)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pooled_sample_stderr([0.02, 0.03, 0.01], [100, 50, 200])` of lm-evaluation-harness 0.4.
    #[test]
    fn standard_errors_are_pooled_as_the_harness_does() {
        let found = [(0.5, Some(0.02), 100), (0.7, Some(0.03), 50), (0.6, Some(0.01), 200)];
        let by_hand =
            ((99.0 * 0.0004 * 100.0 + 49.0 * 0.0009 * 50.0 + 199.0 * 0.0001 * 200.0) / 347.0 / 350.0_f64).sqrt();
        assert!((pooled(&found).unwrap() - by_hand).abs() < 1e-15);
        assert_eq!(pooled(&[(0.5, None, 3), (0.5, Some(0.1), 3)]), None);
        assert_eq!(pooled(&[(0.5, Some(0.0), 1)]), None);
    }
}
