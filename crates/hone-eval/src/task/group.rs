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
//! A member that is right, but of a kind that is not read (it needs Python, say), is left out: the others are loaded, and the group's
//! mean, which would be that of other tasks, is not given ([`Group::no_mean`]). A group of which no member is read is an error, as is
//! a member with a mistake.
//! What `aggregate_metric_list` makes of the others: [`mean`].
//!
//! What is named alone, as behind `--tasks`, is the first of: a file by its path; a task, group or tag that ships with the program, by
//! its name; in `DIRECTORY/NAME`, a task, group or tag of the files in the directory and below; in a plain `NAME`, one of those in
//! the working directory and below. A tag is its tasks, and no group: nothing is averaged.

mod mean;

use std::path::Path;

use serde_json::{Map, Value};

use super::index::{Finder, Found, directory_of, shipped_tags, shipped_with_tag};
use super::{DataRoot, Task, TaskConfig, bundled, file, included, keys_of, variants};
use crate::error::{EvalError, did_you_mean};
use mean::aggregates;
pub use mean::{Aggregate, GroupScore};

/// How deep groups may lie in each other.
const MAX_DEPTH: usize = 8;

/// Tasks and what is averaged over them.
pub struct Loaded {
    /// Every task once, in the order they are named.
    pub tasks: Vec<Task>,
    /// The groups, inner ones behind the outer one.
    pub groups: Vec<Group>,
    /// Members of groups and tags that are of a kind that is not read.
    pub left_out: Vec<LeftOut>,
}

/// A member of a group or a task of a tag that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// File, key and why it is not read.
    pub reason: String,
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
    /// The names of its members that are left out, those of groups in it included.
    pub left_out: Vec<String>,
    /// Why nothing can be averaged as the file says.
    pub not_averaged: Option<String>,
}

/// What `reference` names (the [module](self) says how): a task, a group, or the tasks of a tag; `TASK@NAME` is one variant of a task.
///
/// # Errors
/// No such name; a file with a mistake; a task of a kind that is not read, or a group or tag of which none is.
pub fn load(reference: &str, root: &DataRoot) -> Result<Loaded, EvalError> {
    let (name, variant) = variants::split(reference);
    let loaded = Loaded { tasks: Vec::new(), groups: Vec::new(), left_out: Vec::new() };
    let mut loader = Loader { loaded, finder: Finder::default(), root };
    let member = |(file, keys)| Member { file, keys, variant: variant.map(str::to_owned), ..Member::default() };
    match loader.named(name)? {
        Named::One(one) => {
            loader.add(member(one), 0)?;
        }
        Named::Tag(tasks) => {
            for task in tasks {
                loader.add_or_leave(member(task), 1)?;
            }
            if loader.loaded.tasks.is_empty() {
                return Err(none_read(reference, "tag", &loader.loaded.left_out));
            }
        }
    }
    Ok(loader.loaded)
}

/// What a name behind `--tasks` is: files and keys.
enum Named {
    One((String, Keys)),
    Tag(Vec<(String, Keys)>),
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

impl Member {
    /// What it calls itself.
    fn name(&self) -> String {
        let key = |key: &str| self.keys.get(key).and_then(Value::as_str);
        key("task").or(key("group")).unwrap_or(&self.file).to_owned()
    }
}

/// What a member came to: the names of its tasks, and of those that are left out, each once.
#[derive(Default)]
struct Added {
    tasks: Vec<String>,
    left_out: Vec<String>,
}

impl Added {
    fn tasks(tasks: Vec<String>) -> Added {
        Added { tasks, left_out: Vec::new() }
    }

    fn extend(&mut self, other: Added) {
        for (own, others) in [(&mut self.tasks, other.tasks), (&mut self.left_out, other.left_out)] {
            for name in others {
                if !own.contains(&name) {
                    own.push(name);
                }
            }
        }
    }
}

struct Loader<'a> {
    loaded: Loaded,
    finder: Finder,
    root: &'a DataRoot,
}

impl Loader<'_> {
    /// What is named alone.
    fn named(&mut self, name: &str) -> Result<Named, EvalError> {
        if is_file_name(name) || bundled::task(name).is_some() {
            return Ok(Named::One(keys_of(name)?));
        }
        let shipped = shipped_with_tag(name);
        if !shipped.is_empty() {
            return Ok(Named::Tag(shipped.into_iter().map(keys_of).collect::<Result<_, _>>()?));
        }
        let path = Path::new(name);
        let directory = directory_of(path);
        let inside = path.file_name().and_then(|name| name.to_str()).unwrap_or(name);
        match self.finder.below(&directory, inside) {
            Some(Found::File(file)) => Ok(Named::One(keys_of(&file.to_string_lossy())?)),
            Some(Found::Tag(tasks)) => {
                let keys = tasks.iter().map(|(_, file)| keys_of(&file.to_string_lossy()));
                Ok(Named::Tag(keys.collect::<Result<_, _>>()?))
            }
            None => Err(self.unknown_alone(name, &directory, inside)),
        }
    }

    fn unknown_alone(&mut self, name: &str, directory: &Path, inside: &str) -> EvalError {
        let in_directory = name != inside;
        if in_directory && directory.is_dir() {
            let hint = self.finder.hint(directory, inside);
            let problem = format!(
                "no task, group or tag of that name in this directory or below it{hint}; a task file is named by its path, which \
                 ends in `.yaml`"
            );
            return EvalError::TaskFile {
                file: directory.display().to_string(),
                place: format!("task `{inside}`"),
                problem,
            };
        }
        let tags = shipped_tags();
        let mut known: Vec<&str> = bundled::names().collect();
        known.extend(tags.iter().map(String::as_str));
        let hint = match did_you_mean(name, known.iter().copied()) {
            none if none.is_empty() && !in_directory => self.finder.hint(directory, inside),
            hint => hint,
        };
        EvalError::UnknownTask { name: name.into(), hint, known: known.join(", ") }
    }

    /// Adds a member of a group or tag; one of a kind that is not read is left out.
    fn add_or_leave(&mut self, member: Member, depth: usize) -> Result<Added, EvalError> {
        let name = member.name();
        match self.add(member, depth) {
            Err(error @ EvalError::NotRead { .. }) => {
                let left = LeftOut { name: name.clone(), reason: error.to_string() };
                if !self.loaded.left_out.contains(&left) {
                    self.loaded.left_out.push(left);
                }
                Ok(Added { left_out: vec![name], ..Added::default() })
            }
            added => added,
        }
    }

    /// Adds a task or a group.
    fn add(&mut self, mut member: Member, depth: usize) -> Result<Added, EvalError> {
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
            return self.add_task(member).map(Added::tasks);
        }
        let group = member.keys.remove("group");
        member.keys.remove("group_alias");
        let (aggregates, not_averaged) = aggregates(&member.file, &mut member.keys)?;
        let place = self.loaded.groups.len();
        let tasks = self.add_task(member)?;
        // Named in a group's list, it is meant as the task; several groups are tags.
        if let Some(Value::String(name)) = group.filter(|_| depth == 0) {
            let group = Group { name, tasks: tasks.clone(), aggregates, left_out: Vec::new(), not_averaged };
            self.loaded.groups.insert(place, group);
        }
        Ok(Added::tasks(tasks))
    }

    fn add_group(&mut self, member: Member, depth: usize) -> Result<Added, EvalError> {
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
        let (aggregates, not_averaged) = aggregates(&file, &mut keys)?;
        let Some(Value::Array(entries)) = keys.remove("task") else { return Ok(Added::default()) };
        keys.retain(|key, _| !OF_GROUPS.contains(&key.as_str()) && key != "task_alias");
        if let Some(key) = keys.keys().find(|key| !file::is_key(key)) {
            let what = "is no key of a group, and none that its tasks could have";
            return Err(problem(key, format!("{what}; keys of a group: {}", OF_GROUPS.join(", "))));
        }
        keys.extend(over);
        let place = self.loaded.groups.len();
        let group = Group { name, tasks: Vec::new(), aggregates, left_out: Vec::new(), not_averaged };
        self.loaded.groups.push(group);
        let mut all = Added::default();
        for (index, entry) in entries.into_iter().enumerate() {
            for member in self.members(&file, index, entry, &keys)? {
                all.extend(self.add_or_leave(member, depth + 1)?);
            }
        }
        if all.tasks.is_empty() {
            // In another group its members are left out one by one.
            self.loaded.groups.truncate(place);
            return match (all.left_out.is_empty(), depth) {
                (true, _) => Err(problem("task", "an empty list; name at least one task".into())),
                (false, 0) => Err(none_read(&file, "task", &self.loaded.left_out)),
                (false, _) => Ok(all),
            };
        }
        self.loaded.groups[place].tasks.clone_from(&all.tasks);
        self.loaded.groups[place].left_out.clone_from(&all.left_out);
        Ok(all)
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
                Some(Found::Tag(tasks)) => {
                    return tasks.iter().map(|(_, path)| keys_of(&path.to_string_lossy())).collect();
                }
                None => {}
            }
        }
        if is_file_name(name) {
            let near = file.parent().unwrap_or(Path::new("")).join(name);
            return Ok(vec![keys_of(if near.is_file() { near.to_str().unwrap_or(name) } else { name })?]);
        }
        match bundled::task(name) {
            Some(_) => Ok(vec![keys_of(name)?]),
            None => shipped_with_tag(name).into_iter().map(keys_of).collect(),
        }
    }

    fn unknown(&mut self, file: &str, name: &str) -> EvalError {
        let hint = match self.finder.hint(&directory_of(Path::new(file)), name) {
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

fn is_file_name(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "yaml" || end == "yml")
}

/// An error for a group or a tag without a task that is read.
fn none_read(file: &str, place: &str, left_out: &[LeftOut]) -> EvalError {
    const SHOWN: usize = 3;
    let mut reasons: Vec<String> =
        left_out.iter().take(SHOWN).map(|left| format!("{}: {}", left.name, left.reason)).collect();
    if left_out.len() > SHOWN {
        reasons.push(format!("and {} more", left_out.len() - SHOWN));
    }
    let problem = format!("no task of it is of a kind that is read: {}", reasons.join("; "));
    EvalError::NotRead { file: file.into(), place: place.into(), problem }
}
