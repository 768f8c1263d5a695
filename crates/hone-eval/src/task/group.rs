//! Groups of tasks, in lm-evaluation-harness' words: a file with `group: NAME` and a list under `task`.
//!
//! An entry is one of
//! - the name of a task, a group or a tag; a tag is all its tasks. [`super::index`] says where names are looked for. A name that no file
//!   around the group has is that of a task that ships with the program;
//! - `task: NAME` (or `group: NAME`) with keys that go over those of the task, or of every task of the group or tag;
//! - `task: NAME` with keys of its own, `dataset_path` among them, where nothing is called `NAME`: a task in place;
//! - `group: NAME` with a list under `task`: a group in place.
//!
//! The keys of a file that an entry includes are the entry's. Other keys of a group go over every member, groups in it included. Where
//! a key is set twice, that of an entry goes before that of the group around it, and that of an outer group before that of an inner
//! one, as in the harness. A task that is there twice with other keys is called by its `task_alias` the second time.
//! `group: NAME` beside one task (`task: NAME`) is a group of one.
//!
//! `aggregate_metric_list` says which metrics are averaged over the members, weighted by their numbers of examples (`weight_by_size`,
//! the default) or not. The standard error is the harness': with sizes `n_i` and errors `s_i`,
//! `√( Σ (n_i − 1) n_i s_i² / ((N − k) N) )`, `N = Σ n_i` over `k` tasks.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::index::{Finder, Found};
use super::{DataRoot, Task, TaskConfig, bundled, file, included, keys_of, variants};
use crate::error::{EvalError, did_you_mean};
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
    let loaded = Loaded { tasks: Vec::new(), groups: Vec::new() };
    let mut loader = Loader { loaded, finder: Finder::default(), root };
    loader.add(Member { file, keys, variant: variant.map(str::to_owned), ..Member::default() }, 0)?;
    Ok(loader.loaded)
}

type Keys = Map<String, Value>;

/// Keys of a group that are not handed to its members.
const OF_GROUPS: [&str; 6] = ["group", "task", "group_alias", "aggregate_metric_list", "metadata", "tag"];

/// A task or a group that is to be added.
#[derive(Default)]
struct Member {
    /// Where its keys stand.
    file: String,
    keys: Keys,
    /// Keys that go over those of the task, or of the group's tasks.
    over: Keys,
    /// What a task is called if its name is taken.
    alias: Option<String>,
    /// The one variant that is wanted.
    variant: Option<String>,
}

struct Loader<'a> {
    loaded: Loaded,
    finder: Finder,
    root: &'a DataRoot,
}

impl Loader<'_> {
    /// Adds a task or a group; gives the names of the tasks that it is.
    fn add(&mut self, mut member: Member, depth: usize) -> Result<Vec<String>, EvalError> {
        let one = member.keys.get("task").is_some_and(Value::is_string) && member.keys.contains_key("group");
        match member.keys.get("task") {
            Some(Value::Array(_)) => return self.add_group(member, depth),
            // A name, and nothing that would make it a task of its own.
            Some(Value::String(name)) if one && !is_task(&member.keys) => {
                let list = vec![Value::from(name.as_str())];
                member.keys.insert("task".into(), list.into());
                return self.add_group(member, depth);
            }
            _ => {}
        }
        if !one {
            return self.add_task(member);
        }
        let group = member.keys.remove("group");
        member.keys.remove("group_alias");
        let aggregates = aggregates(&member.file, &mut member.keys)?;
        let place = self.loaded.groups.len();
        let tasks = self.add_task(member)?;
        // Named in a group's list, it is meant as the task; several groups are tags.
        if let Some(Value::String(name)) = group.filter(|_| depth == 0) {
            self.loaded.groups.insert(place, Group { name, tasks: tasks.clone(), aggregates });
        }
        Ok(tasks)
    }

    fn add_group(&mut self, member: Member, depth: usize) -> Result<Vec<String>, EvalError> {
        let Member { file, mut keys, over, variant, .. } = member;
        let problem =
            |place: &str, problem: String| EvalError::TaskFile { file: file.clone(), place: place.into(), problem };
        if let Some(variant) = variant {
            return Err(problem("task", format!("is a group, which has no variant `{variant}`")));
        }
        if depth > MAX_DEPTH {
            return Err(problem("task", format!("groups lie more than {MAX_DEPTH} deep; do they name each other?")));
        }
        let Some(Value::String(name)) = keys.remove("group") else {
            return Err(problem("group", "missing; a list of tasks needs a name".into()));
        };
        let aggregates = aggregates(&file, &mut keys)?;
        let Some(Value::Array(entries)) = keys.remove("task") else { return Ok(Vec::new()) };
        keys.retain(|key, _| !OF_GROUPS.contains(&key.as_str()) && key != "task_alias");
        if let Some(key) = keys.keys().find(|key| !file::is_key(key)) {
            let what = "is no key of a group, and none that its tasks could have";
            return Err(problem(key, format!("{what}; keys of a group: {}", OF_GROUPS.join(", "))));
        }
        keys.extend(over);
        let place = self.loaded.groups.len();
        self.loaded.groups.push(Group { name, tasks: Vec::new(), aggregates });
        let mut tasks = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            for member in self.members(&file, index, entry, &keys)? {
                for task in self.add(member, depth + 1)? {
                    if !tasks.contains(&task) {
                        tasks.push(task);
                    }
                }
            }
        }
        if tasks.is_empty() {
            return Err(problem("task", "an empty list; name at least one task".into()));
        }
        self.loaded.groups[place].tasks.clone_from(&tasks);
        Ok(tasks)
    }

    /// What an entry of the list of the group in `file` is; `over` are keys for all of the group's members.
    fn members(&mut self, file: &str, index: usize, entry: Value, over: &Keys) -> Result<Vec<Member>, EvalError> {
        let place = format!("task[{index}]");
        let problem = |problem: String| EvalError::TaskFile { file: file.into(), place: place.clone(), problem };
        let mut own = match entry {
            Value::String(name) => Map::from_iter([("task".to_owned(), name.into())]),
            Value::Object(own) => file::with_included(file, own, &|name| included(file, name))?,
            other => return Err(problem(format!("found {other}, expected a task's name or a mapping"))),
        };
        let group = own.get("group").and_then(Value::as_str).map(str::to_owned);
        if own.get("task").is_some_and(Value::is_array) || (group.is_some() && own.contains_key("task")) {
            return Ok(vec![Member { file: file.into(), keys: own, over: over.clone(), ..Member::default() }]);
        }
        own.remove("group");
        let Some(name) = own.remove("task").as_ref().and_then(Value::as_str).map(str::to_owned).or(group) else {
            return Err(problem("a mapping without `task: NAME`".into()));
        };
        let alias = own.remove("task_alias").as_ref().and_then(Value::as_str).map(str::to_owned);
        let (bare, variant) = variants::split(&name);
        let known = self.known(file, bare)?;
        if known.is_empty() {
            let mut keys = over.clone();
            keys.extend(own);
            if !keys.contains_key("dataset_path") && !keys.contains_key("dataset_kwargs") {
                return Err(self.unknown(file, bare));
            }
            keys.insert("task".into(), name.into());
            return Ok(vec![Member { file: file.into(), keys, alias, ..Member::default() }]);
        }
        // In place they would say what a group is; here they name nothing.
        own.remove("group_alias");
        let mut all = over.clone();
        all.extend(own);
        let member = |(file, keys)| Member {
            file,
            keys,
            over: all.clone(),
            alias: alias.clone(),
            variant: variant.map(str::to_owned),
        };
        Ok(known.into_iter().map(member).collect())
    }

    /// The tasks, or the group, called `name`, seen from the group in `file`: files and keys, none if there is no such name.
    fn known(&mut self, file: &str, name: &str) -> Result<Vec<(String, Keys)>, EvalError> {
        let file = Path::new(file);
        // A group that ships with the program has no files around it.
        if file.is_file() {
            match self.finder.find(file, name) {
                Some(Found::File(path)) => return Ok(vec![keys_of(&path.to_string_lossy())?]),
                Some(Found::Tag(paths)) => return paths.iter().map(|path| keys_of(&path.to_string_lossy())).collect(),
                None => {}
            }
        }
        if Path::new(name).extension().is_some_and(|end| end == "yaml" || end == "yml") {
            let near = file.parent().unwrap_or(Path::new("")).join(name);
            return Ok(vec![keys_of(if near.is_file() { near.to_str().unwrap_or(name) } else { name })?]);
        }
        match bundled::task(name) {
            Some(_) => Ok(vec![keys_of(name)?]),
            None => Ok(Vec::new()),
        }
    }

    fn unknown(&mut self, file: &str, name: &str) -> EvalError {
        let hint = match self.finder.hint(Path::new(file), name) {
            hint if hint.is_empty() => did_you_mean(name, bundled::names()),
            hint => hint,
        };
        let problem = format!(
            "no task, group or tag of that name in the directory of this file, below it or up to three above it, and none ships \
             with hone{hint}; a task in place needs `dataset_path`"
        );
        EvalError::TaskFile { file: file.into(), place: format!("task `{name}`"), problem }
    }

    /// Adds a task, or its variants; gives their names.
    fn add_task(&mut self, member: Member) -> Result<Vec<String>, EvalError> {
        let Member { file, mut keys, over, alias, variant } = member;
        keys.extend(over);
        let alias = alias.or_else(|| keys.get("task_alias").and_then(Value::as_str).map(str::to_owned));
        let Some(variants) = variants::expand(&file, &keys, variant.as_deref())? else {
            return Ok(vec![self.add_config(&file, TaskConfig::from_keys(&file, keys)?, alias.as_deref())?]);
        };
        let mut names = Vec::new();
        for (variant, keys) in variants {
            let config = TaskConfig { variant: Some(variant), ..TaskConfig::from_keys(&file, keys)? };
            names.push(self.add_config(&file, config, alias.as_deref())?);
        }
        Ok(names)
    }

    /// Adds a task; gives its name, which is `alias` where another task has the name already.
    fn add_config(&mut self, file: &str, mut config: TaskConfig, alias: Option<&str>) -> Result<String, EvalError> {
        for alias in std::iter::once(None).chain(alias.map(Some)) {
            if let Some(alias) = alias {
                match &mut config.variant {
                    None => config.task = alias.to_owned(),
                    Some(variant) => {
                        variant.of = alias.to_owned();
                        config.task = format!("{alias}{}{}", variants::SEPARATOR, variant.name);
                    }
                }
            }
            let task = Task::from_config(config.clone(), file.into(), self.root)?;
            match self.loaded.tasks.iter().find(|other| other.name() == config.task) {
                // A task may be in several groups; two different ones may not share a name.
                Some(other) if other.sha256() == task.sha256() => return Ok(config.task),
                Some(_) => {}
                None => {
                    self.loaded.tasks.push(task);
                    return Ok(config.task);
                }
            }
        }
        let problem = format!("two different tasks are called `{}`; give one a `task_alias` of its own", config.task);
        Err(EvalError::TaskFile { file: file.into(), place: "task".into(), problem })
    }
}

/// Whether keys are those of a task, and not just a name and what goes over it; [`super::index`] looks for the same ones.
fn is_task(keys: &Keys) -> bool {
    ["dataset_path", "custom_dataset", "output_type", "doc_to_text", "doc_to_target", "class"]
        .iter()
        .any(|key| keys.contains_key(*key))
}

/// What a group averages; takes the key.
fn aggregates(file: &str, keys: &mut Keys) -> Result<Vec<Aggregate>, EvalError> {
    let problem =
        |problem: String| EvalError::TaskFile { file: file.into(), place: "aggregate_metric_list".into(), problem };
    let aggregates: Vec<Aggregate> = match keys.remove("aggregate_metric_list") {
        None | Some(Value::Null) => Vec::new(),
        // One entry may stand alone.
        Some(one @ Value::Object(_)) => vec![serde_json::from_value(one).map_err(|e| problem(e.to_string()))?],
        Some(list) => serde_json::from_value(list).map_err(|e| problem(e.to_string()))?,
    };
    match aggregates.iter().find(|aggregate| aggregate.aggregation != "mean") {
        None => Ok(aggregates),
        Some(Aggregate { aggregation, metric, .. }) => {
            Err(problem(format!("aggregation `{aggregation}` of `{metric}`; groups are averaged (`mean`)")))
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
