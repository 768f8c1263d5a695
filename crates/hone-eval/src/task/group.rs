//! Groups of tasks, in lm-evaluation-harness' words: a file with `group: NAME` and a list under `task`. An entry is a task's or a
//! group's name, a mapping `task: NAME` with keys that go over those of the task, or a group in place (`group` and a list again).
//! Names are looked for beside the group's file (`NAME.yaml`), then among the tasks that ship with the program.
//!
//! `aggregate_metric_list` says which metrics are averaged over the members, weighted by their numbers of examples (`weight_by_size`,
//! the default) or not. The standard error is the harness': with sizes `n_i` and errors `s_i`,
//! `√( Σ (n_i − 1) n_i s_i² / ((N − k) N) )`, `N = Σ n_i` over `k` tasks.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{DataRoot, Task, TaskConfig, bundled, keys_of, variants};
use crate::error::EvalError;
use crate::scorecard::ScorecardHeader;

/// How deep groups may lie in each other.
const MAX_DEPTH: usize = 8;

/// Tasks and what is averaged over them.
pub struct Loaded {
    /// Every task once, in the order they are named.
    pub tasks: Vec<Task>,
    /// The groups, inner ones behind the outer one.
    pub groups: Vec<Group>,
}

/// A group.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The names of its tasks, those of groups in it included.
    pub tasks: Vec<String>,
    /// What is averaged.
    pub aggregates: Vec<Aggregate>,
}

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
    /// Under which filter lists; none for tasks without.
    #[serde(default)]
    pub filter_list: Option<super::config::OneOrMany>,
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

/// The task or the group that `reference` names; `TASK@NAME` is one variant of a task.
pub fn load(reference: &str, root: &DataRoot) -> Result<Loaded, EvalError> {
    let (task, variant) = variants::split(reference);
    let (file, keys) = keys_of(task)?;
    let mut loaded = Loaded { tasks: Vec::new(), groups: Vec::new() };
    add(&mut loaded, &file, (keys, variant), root, 0)?;
    Ok(loaded)
}

/// Adds a task or a group; gives the names of the tasks that it is.
fn add(
    loaded: &mut Loaded,
    file: &str,
    (mut keys, only): (Map<String, Value>, Option<&str>),
    root: &DataRoot,
    depth: usize,
) -> Result<Vec<String>, EvalError> {
    let problem =
        |place: &str, problem: String| EvalError::TaskFile { file: file.into(), place: place.into(), problem };
    let Some(Value::Array(entries)) = keys.get("task").cloned() else {
        if let Some(variants) = variants::expand(file, &keys, only)? {
            let mut names = Vec::new();
            for (variant, keys) in variants {
                let config = TaskConfig { variant: Some(variant), ..TaskConfig::from_keys(file, keys)? };
                names.push(add_task(loaded, file, config, root)?);
            }
            return Ok(names);
        }
        return Ok(vec![add_task(loaded, file, TaskConfig::from_keys(file, keys)?, root)?]);
    };
    if let Some(only) = only {
        return Err(problem("task", format!("is a group, which has no variant `{only}`")));
    }
    if depth > MAX_DEPTH {
        return Err(problem("task", format!("groups lie more than {MAX_DEPTH} deep; do they name each other?")));
    }
    let Some(Value::String(name)) = keys.remove("group") else {
        return Err(problem("group", "missing; a list of tasks needs a name".into()));
    };
    let known = ["task", "group_alias", "aggregate_metric_list", "metadata", "tag"];
    if let Some(key) = keys.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(problem(key, format!("unknown key of a group; keys: group, {}", known.join(", "))));
    }
    let aggregates: Vec<Aggregate> = match keys.remove("aggregate_metric_list") {
        None | Some(Value::Null) => Vec::new(),
        // One entry may stand alone.
        Some(one @ Value::Object(_)) => {
            vec![serde_json::from_value(one).map_err(|e| problem("aggregate_metric_list", e.to_string()))?]
        }
        Some(list) => serde_json::from_value(list).map_err(|e| problem("aggregate_metric_list", e.to_string()))?,
    };
    if let Some(other) = aggregates.iter().find(|a| a.aggregation != "mean") {
        let found = format!("aggregation `{}` of `{}`; groups are averaged (`mean`)", other.aggregation, other.metric);
        return Err(problem("aggregate_metric_list", found));
    }
    let place = loaded.groups.len();
    loaded.groups.push(Group { name, tasks: Vec::new(), aggregates });
    let mut tasks = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let place = format!("task[{index}]");
        let variant = entry.as_str().and_then(|name| variants::split(name).1).map(str::to_owned);
        let (file, keys) = match entry {
            Value::String(name) => beside(file, variants::split(&name).0)?,
            Value::Object(own) if own.get("task").is_some_and(Value::is_array) => (file.to_owned(), own),
            Value::Object(mut own) => {
                let Some(Value::String(name)) = own.remove("task") else {
                    return Err(problem(&place, "a mapping without `task: NAME`".into()));
                };
                own.remove("task_alias");
                let (file, mut keys) = beside(file, &name)?;
                if keys.get("task").is_some_and(Value::is_array) {
                    return Err(problem(&place, format!("`{name}` is a group, whose keys cannot be overridden")));
                }
                keys.extend(own);
                (file, keys)
            }
            other => return Err(problem(&place, format!("found {other}, expected a task's name or a mapping"))),
        };
        for task in add(loaded, &file, (keys, variant.as_deref()), root, depth + 1)? {
            if !tasks.contains(&task) {
                tasks.push(task);
            }
        }
    }
    if tasks.is_empty() {
        return Err(problem("task", "an empty list; name at least one task".into()));
    }
    loaded.groups[place].tasks.clone_from(&tasks);
    Ok(tasks)
}

/// Adds a task; gives its name.
fn add_task(loaded: &mut Loaded, file: &str, config: TaskConfig, root: &DataRoot) -> Result<String, EvalError> {
    let task = Task::from_config(config, file.into(), root)?;
    let name = task.name().to_owned();
    match loaded.tasks.iter().find(|other| other.name() == name) {
        // A task may be in several groups; two different ones may not share a name.
        Some(other) if other.sha256() == task.sha256() => {}
        Some(_) => {
            let problem = format!("two different tasks are called `{name}`; give one another name");
            return Err(EvalError::TaskFile { file: file.into(), place: "task".into(), problem });
        }
        None => loaded.tasks.push(task),
    }
    Ok(name)
}

/// The file of the task or group called `name` beside `file`, or the one that ships with the program.
fn beside(file: &str, name: &str) -> Result<(String, Map<String, Value>), EvalError> {
    let own = Path::new(file).parent().unwrap_or(Path::new("")).join(format!("{name}.yaml"));
    match own.is_file() {
        true => keys_of(&own.to_string_lossy()),
        false if bundled::task(name).is_some() || Path::new(name).extension().is_some() => keys_of(name),
        false => {
            let place = own.display().to_string();
            let problem = format!("no `{place}`, and no task of that name ships with hone");
            Err(EvalError::TaskFile { file: file.into(), place: format!("task `{name}`"), problem })
        }
    }
}

impl Group {
    /// What the group scores, from the scorecards of its tasks.
    pub fn scores(&self, headers: &[&ScorecardHeader]) -> Vec<GroupScore> {
        let members: Vec<&&ScorecardHeader> = headers.iter().filter(|h| self.tasks.contains(&h.task)).collect();
        let mut scores = Vec::new();
        for aggregate in &self.aggregates {
            let columns = match &aggregate.filter_list {
                None => vec![aggregate.metric.clone()],
                Some(filters) => filters
                    .to_vec()
                    .iter()
                    .map(|filter| {
                        if filter == "none" {
                            aggregate.metric.clone()
                        } else {
                            format!("{},{filter}", aggregate.metric)
                        }
                    })
                    .collect(),
            };
            for column in columns {
                let found: Vec<(f64, Option<f64>, usize)> = members
                    .iter()
                    .filter_map(|h| h.metrics.iter().find(|m| m.name == column).map(|m| (m.value, m.stderr, h.n)))
                    .collect();
                if found.is_empty() {
                    continue;
                }
                let n: usize = found.iter().map(|(.., n)| n).sum();
                let weight = |n: usize| if aggregate.weight_by_size { n as f64 } else { 1.0 };
                let whole: f64 = found.iter().map(|(.., n)| weight(*n)).sum();
                scores.push(GroupScore {
                    group: self.name.clone(),
                    metric: column,
                    value: found.iter().map(|(value, _, n)| value * weight(*n)).sum::<f64>() / whole,
                    stderr: pooled(&found),
                    tasks: found.len(),
                    n,
                });
            }
        }
        scores
    }
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
