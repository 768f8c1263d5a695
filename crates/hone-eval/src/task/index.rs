//! Where a name lies, in a group's list or behind `--tasks`: the tasks, groups and tags of the YAML files in a directory and below it,
//! and of those that ship with the program.
//!
//! In lm-evaluation-harness a name is a task's `task`, a group's `group` or a `tag` of tasks, in whatever file. Here the files around
//! the group's own are looked at: those of its directory and below, then those of the directory above and below that, up to three
//! levels up; the nearest one that knows the name decides. On the way up a repository (`.git`), the home directory, the directory of
//! temporary files and the root are borders, so that no stranger's file is ever taken for a task, and no disk is searched. A name
//! behind `--tasks` is looked for in one directory and below ([`Finder::below`]), never above.
//!
//! A file is not parsed for this but looked at, line by line, for the keys that matter at the start of a line; files that it includes
//! are looked at, too, because a tag often stands there. What cannot be read that way is passed over: it is refused, with its place,
//! when it is named by its path. `group` beside a `task` that is one name, or a list in `group`, is an old way to write tags.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_yaml_ng::Value as Yaml;

use super::bundled;
use crate::error::did_you_mean;

/// How many directories above the group's own are looked at.
const LEVELS_UP: usize = 3;

/// Most files and directories that are looked at below one directory; the harness' own tree has 16,000.
const MAX_ENTRIES: usize = 60_000;

/// Most bytes of a file that is looked at.
const MAX_BYTES: u64 = 4 << 20;

/// Files may include files, so deep.
const MAX_INCLUDES: usize = 8;

/// Keys that say what a file is; one of the last six makes it a task of its own.
const KEYS: [&str; 10] = [
    "task",
    "group",
    "tag",
    "include",
    "dataset_path",
    "custom_dataset",
    "output_type",
    "doc_to_text",
    "doc_to_target",
    "class",
];

/// What a name is.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A task or a group: its file.
    File(PathBuf),
    /// A tag: its tasks' names and files, in the order of the names.
    Tag(Vec<(String, PathBuf)>),
}

/// Finds names; what it saw of a directory it keeps.
#[derive(Default)]
pub struct Finder {
    indexes: HashMap<PathBuf, Rc<Index>>,
    looks: HashMap<PathBuf, Rc<Look>>,
}

/// The names in a directory and below.
#[derive(Default)]
struct Index {
    tasks: BTreeMap<String, PathBuf>,
    groups: BTreeMap<String, PathBuf>,
    /// The tasks of each tag.
    tags: BTreeMap<String, BTreeMap<String, PathBuf>>,
    /// Whether everything was looked at.
    whole: bool,
}

/// What a file says it is; the outer `None` is a key that is not there.
#[derive(Clone, Default)]
struct Look {
    task: Option<TaskKey>,
    group: Option<Vec<String>>,
    tag: Option<Vec<String>>,
    include: Vec<String>,
    defines: bool,
}

#[derive(Clone)]
enum TaskKey {
    Name(String),
    List,
}

impl Finder {
    /// What `name` is, seen from the group in `file`; `None` where no file around it knows the name.
    pub fn find(&mut self, file: &Path, name: &str) -> Option<Found> {
        let own = directory_of(file);
        let full = own.canonicalize().ok()?;
        let index = self.index(&own, !is_shared(&full));
        if let Some(found) = index.get(name) {
            return Some(found);
        }
        // A file of that name, whatever it calls its task.
        let beside = own.join(format!("{name}.yaml"));
        if beside.is_file() {
            return Some(Found::File(beside));
        }
        let mut below = full.as_path();
        let mut whole = index.whole;
        for _ in 0..LEVELS_UP {
            let above = below.parent().filter(|above| whole && !is_shared(above) && !below.join(".git").exists())?;
            let index = self.index(above, true);
            if let Some(found) = index.get(name) {
                return Some(found);
            }
            (below, whole) = (above, index.whole);
        }
        None
    }

    /// What `name` is in `directory` and below; of a directory that holds what does not belong together, in itself alone.
    pub fn below(&mut self, directory: &Path, name: &str) -> Option<Found> {
        let deep = !is_shared(&directory.canonicalize().ok()?);
        self.index(directory, deep).get(name)
    }

    /// `; did you mean …?`, of the names in `directory` and below.
    pub fn hint(&mut self, directory: &Path, name: &str) -> String {
        let deep = directory.canonicalize().is_ok_and(|full| !is_shared(&full));
        let index = self.index(directory, deep);
        let known = index.tasks.keys().chain(index.groups.keys()).chain(index.tags.keys());
        did_you_mean(name, known.map(String::as_str))
    }

    /// The index of a directory, with what lies below it if `deep`. Nearer files come first, then those of earlier names.
    fn index(&mut self, directory: &Path, deep: bool) -> Rc<Index> {
        if let Some(index) = self.indexes.get(directory) {
            return index.clone();
        }
        let mut index = Index { whole: true, ..Index::default() };
        let mut waiting = VecDeque::from([directory.to_owned()]);
        let mut seen = 0;
        while let Some(directory) = waiting.pop_front() {
            let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
            let mut paths: Vec<(PathBuf, bool)> =
                entries.map(|entry| (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()))).collect();
            paths.sort();
            seen += paths.len();
            if seen > MAX_ENTRIES {
                index.whole = false;
                break;
            }
            for (path, is_directory) in paths {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if is_directory {
                    if deep && !name.starts_with('.') && name != "__pycache__" {
                        waiting.push_back(path);
                    }
                } else if name.ends_with(".yaml") || name.ends_with(".yml") {
                    let look = self.look(&path, 0);
                    index.add(&look, path);
                }
            }
        }
        let index = Rc::new(index);
        self.indexes.insert(directory.to_owned(), index.clone());
        index
    }

    /// What a file is, by its own keys and those of files it includes.
    fn look(&mut self, path: &Path, depth: usize) -> Rc<Look> {
        if let Some(look) = self.looks.get(path) {
            return look.clone();
        }
        let small = path.metadata().is_ok_and(|data| data.is_file() && data.len() <= MAX_BYTES);
        let text = small.then(|| std::fs::read_to_string(path).ok()).flatten();
        let mut look = text.map(|text| Look::at(&text)).unwrap_or_default();
        if depth < MAX_INCLUDES {
            // Later files lie over earlier ones.
            for name in std::mem::take(&mut look.include).iter().rev() {
                let other = self.look(&directory_of(path).join(name), depth + 1);
                look.task = look.task.or_else(|| other.task.clone());
                look.group = look.group.or_else(|| other.group.clone());
                look.tag = look.tag.or_else(|| other.tag.clone());
                look.defines |= other.defines;
            }
        }
        let look = Rc::new(look);
        self.looks.insert(path.to_owned(), look.clone());
        look
    }
}

impl Index {
    fn get(&self, name: &str) -> Option<Found> {
        if let Some(path) = self.tasks.get(name).or_else(|| self.groups.get(name)) {
            return Some(Found::File(path.clone()));
        }
        let task = |(name, path): (&String, &PathBuf)| (name.clone(), path.clone());
        self.tags.get(name).map(|tasks| Found::Tag(tasks.iter().map(task).collect()))
    }

    fn add(&mut self, look: &Look, path: PathBuf) {
        let groups = look.group.as_deref().unwrap_or_default();
        match &look.task {
            Some(TaskKey::Name(name)) if look.defines || groups.is_empty() => {
                for tag in groups.iter().chain(look.tag.iter().flatten()) {
                    let tasks = self.tags.entry(tag.clone()).or_default();
                    tasks.entry(name.clone()).or_insert_with(|| path.clone());
                }
                self.tasks.entry(name.clone()).or_insert(path);
            }
            Some(_) => {
                if let Some(name) = groups.first() {
                    self.groups.entry(name.clone()).or_insert(path);
                }
            }
            None => {}
        }
    }
}

impl Look {
    fn at(text: &str) -> Look {
        let mut look = Look::default();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let Some((key, rest)) = key_of(line) else { continue };
            let mut value = rest.to_owned();
            while let Some(more) = lines.next_if(|line| line.is_empty() || line.starts_with([' ', '\t', '-', '#'])) {
                // A group's list may be long, and hold whole tasks; that it is one is enough.
                if matches!(key, "group" | "tag" | "include") {
                    value.push('\n');
                    value.push_str(more);
                }
            }
            match key {
                "task" => {
                    look.task = match serde_yaml_ng::from_str(&value) {
                        Ok(Yaml::Null | Yaml::Sequence(_)) | Err(_) => Some(TaskKey::List),
                        Ok(name) => texts(&name).into_iter().next().map(TaskKey::Name),
                    }
                }
                "group" => look.group = serde_yaml_ng::from_str(&value).ok().map(|value| texts(&value)),
                "tag" => look.tag = serde_yaml_ng::from_str(&value).ok().map(|value| texts(&value)),
                "include" => {
                    look.include = serde_yaml_ng::from_str(&value).map(|value| texts(&value)).unwrap_or_default()
                }
                _ => look.defines = true,
            }
        }
        look
    }
}

/// The tasks that ship with the program and have the tag, in the order of their names.
pub fn shipped_with_tag(tag: &str) -> Vec<&'static str> {
    let has = |name: &&str| {
        let look = bundled::task(name).map(Look::at).unwrap_or_default();
        look.tag.is_some_and(|tags| tags.iter().any(|known| known == tag))
    };
    bundled::names().filter(has).collect()
}

/// The tags of the tasks that ship with the program, each once.
pub fn shipped_tags() -> BTreeSet<String> {
    bundled::names().filter_map(bundled::task).filter_map(|text| Look::at(text).tag).flatten().collect()
}

/// The key of [`KEYS`] that a line begins with, perhaps in quotes, and what stands behind the colon.
fn key_of(line: &str) -> Option<(&'static str, &str)> {
    let (quote, inner) = match line.chars().next()? {
        quote @ ('"' | '\'') => (Some(quote), &line[1..]),
        _ => (None, line),
    };
    KEYS.into_iter().find_map(|key| {
        let mut rest = inner.strip_prefix(key)?;
        if let Some(quote) = quote {
            rest = rest.strip_prefix(quote)?;
        }
        let rest = rest.trim_start().strip_prefix(':')?;
        (rest.is_empty() || rest.starts_with([' ', '\t'])).then_some((key, rest))
    })
}

/// A text, or the texts of a list.
fn texts(value: &Yaml) -> Vec<String> {
    match value {
        Yaml::String(text) => vec![text.clone()],
        Yaml::Number(number) => vec![number.to_string()],
        Yaml::Sequence(items) => items.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// The directory that a file lies in.
pub fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(directory) if directory != Path::new("") => directory.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A directory that holds what does not belong together: the root, the home directory and those above it, the temporary files.
fn is_shared(full: &Path) -> bool {
    let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
    full.parent().is_none()
        || std::env::home_dir().is_some_and(|home| real(home).starts_with(full))
        || real(std::env::temp_dir()) == full
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> (Option<String>, Option<Vec<String>>, Option<Vec<String>>, Vec<String>) {
        let look = Look::at(text);
        let task = look.task.map(|task| match task {
            TaskKey::Name(name) => name,
            TaskKey::List => "[]".into(),
        });
        (task, look.group, look.tag, look.include)
    }

    #[test]
    fn keys_are_seen_at_the_start_of_a_line_alone() {
        let text = "# task: no\n\"task\": \"a b\" # yes\ntasks: no\ndoc: |\n  task: no\ntag:\n- x\n  # but\n- 'y'\ninclude: [c, d]\n";
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(text), (Some("a b".into()), None, Some(strings(&["x", "y"])), strings(&["c", "d"])));
        let group = "group: g\ntask:\n  - one\n  - {task: two}\ngroup: h\n";
        assert_eq!(names(group), (Some("[]".into()), Some(strings(&["h"])), None, vec![]));
        assert_eq!(names("task: [a,\n  b]\ntag: null\n").0.as_deref(), Some("[]"));
        assert_eq!(names("task:x\n? task\n- task: y\n"), (None, None, None, vec![]));
    }

    #[test]
    fn borders_are_the_root_and_where_strangers_write() {
        assert!(is_shared(Path::new("/")) && is_shared(&std::env::temp_dir().canonicalize().unwrap()));
        let inside = tempfile::tempdir().unwrap();
        assert!(!is_shared(&inside.path().canonicalize().unwrap()));
    }
}
