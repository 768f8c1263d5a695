//! Reading a collection of tasks: the YAML file, key by key, and the rows of each task.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hone_data::config::ChatUse;
use hone_data::levels::{CollectionTask, Held, HoldOut, LevelsError, Row};
use hone_data::readers::resolve;
use hone_data::yaml::line_of;
use hone_data::{Abilities, Body, DataConfig, DataError, load};
use hone_edit::error::did_you_mean;
use hone_eval::DataRoot;
use hone_eval::task::data::hex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::fail::Failure;

/// Longest collection file that is read, in bytes.
const MAX_LENGTH: u64 = 4 << 20;
/// Keys of a collection.
const KEYS: [&str; 3] = ["seed", "hold_out", "tasks"];
/// Keys of `hold_out`.
const HOLD_OUT: [&str; 4] = ["categories", "tasks", "rows", "limit"];
/// Keys of a task that say how its rows are read, as in a recipe's `data`.
const SOURCE: [&str; 9] =
    ["path", "files", "reader", "field", "sample_by", "format", "columns", "prompt_template", "completion_template"];

/// A collection as its file has it.
pub struct Collection {
    /// Seed of what is drawn.
    pub seed: u64,
    /// What is held out.
    pub hold_out: HoldOut,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    tasks: Vec<Entry>,
    file: PathBuf,
    text: String,
}

/// A task of the file.
struct Entry {
    name: String,
    category: String,
    data: DataConfig,
}

/// What was read for a task.
#[derive(Clone, Debug, Serialize)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A task with its rows.
pub struct Read {
    /// For the split.
    pub task: CollectionTask,
    /// The files the rows are from.
    pub sources: Vec<Source>,
    /// Rows without an answer, which are left out.
    pub empty: usize,
}

impl Collection {
    /// Reads the file.
    pub fn read(file: &Path) -> Result<Collection, Failure> {
        let at = |error: std::io::Error| Failure::from(error).doing(format!("reading {}", file.display()));
        let length = std::fs::metadata(file).map_err(at)?.len();
        if length > MAX_LENGTH {
            let cause = format!("{}: {length} bytes, a collection is at most {MAX_LENGTH}", file.display());
            return Err(Failure::user(cause, "name the file that lists the tasks, not their data"));
        }
        let text = std::fs::read_to_string(file).map_err(at)?;
        let sha256 = hex(&Sha256::digest(text.as_bytes()));
        let (seed, hold_out) = (0, HoldOut::default());
        let mut collection = Collection { seed, hold_out, sha256, tasks: Vec::new(), file: file.to_owned(), text };
        collection.parse()?;
        Ok(collection)
    }

    fn parse(&mut self) -> Result<(), Failure> {
        let value: Value = serde_yaml_ng::from_str(&self.text).map_err(|error| {
            let line = error.location().map_or_else(String::new, |at| format!(", line {}", at.line()));
            let cause = format!("{}{line}: {error}", self.file.display());
            Failure::user(cause, "correct the YAML; text with a colon or a brace needs quotes")
        })?;
        let root = self.object("", &value, &KEYS)?;
        if let Some(seed) = root.get("seed") {
            self.seed = self.value("seed", seed, "a whole number, 0 or more")?;
        }
        if let Some(hold_out) = root.get("hold_out") {
            self.hold_out = self.hold_out(self.object("hold_out", hold_out, &HOLD_OUT)?)?;
        }
        let Some(Value::Array(tasks)) = root.get("tasks") else {
            let found = root.get("tasks").map_or_else(|| "nothing".into(), shown);
            let next = "list the tasks, each with `name`, `category` and `path`";
            return Err(self.error("tasks", &found, "a list of tasks", next));
        };
        let mut names = BTreeSet::new();
        for (index, task) in tasks.iter().enumerate() {
            let entry = self.task(&format!("tasks.{index}"), task)?;
            // Files are named after tasks, and some file systems do not tell capitals apart.
            if !names.insert(entry.name.to_lowercase()) {
                let place = format!("tasks.{index}.name");
                return Err(self.error(&place, &format!("`{}` again", entry.name), "a name of its own", "rename one"));
            }
            self.tasks.push(entry);
        }
        Ok(())
    }

    fn hold_out(&self, keys: &Map<String, Value>) -> Result<HoldOut, Failure> {
        let mut hold_out = HoldOut::default();
        for (key, value) in keys {
            let place = format!("hold_out.{key}");
            match key.as_str() {
                "categories" => hold_out.categories = self.held(&place, value)?,
                "tasks" => hold_out.tasks = self.held(&place, value)?,
                "rows" => hold_out.rows = self.value(&place, value, "a share from 0 up to, but not including, 1")?,
                _ => hold_out.limit = self.value(&place, value, "a whole number of rows, 2 or more")?,
            }
        }
        if hold_out.limit.is_some_and(|limit| limit < 2) {
            let found = hold_out.limit.map_or_else(String::new, |limit| limit.to_string());
            let next = "leave it out to take all rows";
            return Err(self.error("hold_out.limit", &found, "a whole number of rows, 2 or more", next));
        }
        Ok(hold_out)
    }

    fn held(&self, place: &str, value: &Value) -> Result<Held, Failure> {
        self.value(place, value, "how many (a whole number), or a list of names")
    }

    fn task(&self, place: &str, value: &Value) -> Result<Entry, Failure> {
        let known: Vec<&str> = ["name", "category"].into_iter().chain(SOURCE).collect();
        let keys = self.object(place, value, &known)?;
        let text = |key: &str, next: &str| match keys.get(key) {
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.clone()),
            other => {
                let found = other.map_or_else(|| "nothing".into(), shown);
                Err(self.error(&format!("{place}.{key}"), &found, "text", next))
            }
        };
        let name = text("name", "give the task a name; its files are called after it")?;
        let sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !name.chars().all(sign) || name.starts_with('.') || name.len() > 100 {
            let expected = "at most 100 letters, digits, `-`, `_` and `.`, the last not in front";
            let next = "rename the task; its files are called after it";
            return Err(self.error(&format!("{place}.name"), &format!("`{name}`"), expected, next));
        }
        let category = text("category", "name the kind of task it is; tasks of a category are held out together")?;
        let mut own = Map::new();
        for (key, value) in keys.iter().filter(|(key, _)| SOURCE.contains(&key.as_str())) {
            // One by one first, so that an error names its key.
            let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
            serde_json::from_value::<DataConfig>(alone).map_err(|error| {
                let found = format!("{} ({error})", shown(value));
                self.error(&format!("{place}.{key}"), &found, "what a recipe's `data` has there", "correct the value")
            })?;
            own.insert(key.clone(), value.clone());
        }
        let data: DataConfig = self.value(place, &Value::Object(own), "keys of a recipe's `data`")?;
        if data.path.is_none() && data.files.is_empty() {
            return Err(self.error(place, "neither `path` nor `files`", "the task's data", "add `path: FILE`"));
        }
        Ok(Entry { name, category, data: DataConfig { chat_template: ChatUse::Never, ..data } })
    }

    /// The rows of every task. Paths start at the collection's directory, else at a data root.
    pub fn rows(&self, root: &DataRoot) -> Result<Vec<Read>, Failure> {
        self.tasks.iter().enumerate().map(|(index, entry)| self.rows_of(index, entry, root)).collect()
    }

    fn rows_of(&self, index: usize, entry: &Entry, root: &DataRoot) -> Result<Read, Failure> {
        let place = format!("tasks.{index}");
        let own = self.file.parent().unwrap_or(Path::new(""));
        let patterns: Vec<String> = entry.data.path.iter().chain(&entry.data.files).cloned().collect();
        let bases: Vec<&Path> = std::iter::once(own).chain(root.directories.iter().map(PathBuf::as_path)).collect();
        let there = |base: &&&Path| {
            let one = |pattern: &String| {
                base.join(pattern).exists() || resolve(std::slice::from_ref(pattern), base, entry.data.reader).is_ok()
            };
            patterns.iter().all(one)
        };
        let Some(base) = bases.iter().find(there) else {
            let looked: Vec<String> = bases.iter().map(|base| base.join("").display().to_string()).collect();
            let looked = looked.iter().map(|at| if at.is_empty() { "./" } else { at }).collect::<Vec<_>>().join(", ");
            let found = format!("no data at {} (looked in {looked})", patterns.join(", "));
            let next = "check the path, or say where data lie with `--data-root DIR` or HONE_DATA";
            return Err(self.error(&format!("{place}.path"), &found, "files of the task's rows", next));
        };
        let loaded = load(&entry.data, base, Abilities { chat_template: false, tool_calls: false });
        let loaded = loaded.map_err(|error| match error {
            DataError::Config { key, found, expected, next } => {
                self.error(&format!("{place}.{key}"), &found, &expected, &next)
            }
            other => {
                Failure::from(other).doing(format!("reading the task `{}` of {}", entry.name, self.file.display()))
            }
        })?;
        let mut rows = Vec::with_capacity(loaded.train.len());
        for example in loaded.train {
            let Body::PromptCompletion { prompt, completion } = example.body else {
                let found = format!("{}: a row that is no prompt with one answer", example.source);
                let next = "write a `prompt_template` and a `completion_template`";
                return Err(self.error(&place, &found, "rows with a prompt and a completion", next));
            };
            rows.push(Row { prompt, completion });
        }
        let files = loaded.report.files.into_iter();
        Ok(Read {
            task: CollectionTask { name: entry.name.clone(), category: entry.category.clone(), rows },
            sources: files.map(|file| Source { file: file.path, sha256: file.sha256 }).collect(),
            empty: loaded.report.drops.total(),
        })
    }

    /// An error of the split, at its line.
    pub fn refused(&self, error: &LevelsError) -> Failure {
        self.error(&error.place, &error.found, &error.expected, &error.next)
    }

    fn object<'v>(&self, place: &str, value: &'v Value, known: &[&str]) -> Result<&'v Map<String, Value>, Failure> {
        let expected = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let Value::Object(keys) = value else {
            let next = "write `key: value` lines";
            return Err(self.error(place, &shown(value), &format!("a mapping with {expected}"), next));
        };
        if let Some(unknown) = keys.keys().find(|key| !known.contains(&key.as_str())) {
            let place = if place.is_empty() { unknown.clone() } else { format!("{place}.{unknown}") };
            let found = format!("an unknown key{}", did_you_mean(unknown, known.iter().copied()));
            return Err(self.error(&place, &found, &expected, "correct the key, or remove it"));
        }
        Ok(keys)
    }

    fn value<T: DeserializeOwned>(&self, place: &str, value: &Value, expected: &str) -> Result<T, Failure> {
        serde_json::from_value(value.clone())
            .map_err(|_| self.error(place, &shown(value), expected, "correct the value"))
    }

    fn error(&self, place: &str, found: &str, expected: &str, next: &str) -> Failure {
        let keys: Vec<String> = place.split('.').map(str::to_owned).collect();
        let line = line_of(&self.text, &keys).map_or_else(String::new, |line| format!(", line {line}"));
        let place = if place.is_empty() { String::new() } else { format!(" `{place}`:") };
        Failure::user(format!("{}{line}:{place} found {found}, expected {expected}", self.file.display()), next)
    }
}

/// A value in a few words.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
