//! Where a task's examples come from: the data root, the files that ship with the program, and the readers.
//!
//! Files are read by `hone-data`, as streams; the types of their columns are found by [`super::typed`]; two layouts that are no list of rows
//! are read by [`super::layouts`].

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_data::config::{FileKind, SampleBy};
use hone_data::example::SourceRef;
use hone_data::readers::{DataFile, RawRow, ReaderOptions, open, resolve, stream};
use hone_model::pull::cached_data_set;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::bundled;
use super::config::TaskConfig;
use super::data_set;
use super::docs::Docs;
use super::layouts::{WikitextPages, squad};
use super::template::Templates;
use super::typed::{self, First};
use crate::error::EvalError;

/// Names of `dataset_path` that say how files are read; the files stand in `dataset_kwargs.data_files`.
const READERS: [&str; 6] = ["json", "csv", "parquet", "text", "squad", "wikitext_pages"];

/// What a file of a data set of the hub is called by: `hf://datasets/OWNER/NAME/PATH`, perhaps with `@REVISION` behind the name.
const HUB_FILE: &str = "hf://datasets/";

/// An example of a task: a row's columns and where it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Doc {
    /// The row.
    pub columns: Map<String, Value>,
    /// File and row.
    pub place: SourceRef,
}

/// Where data files are looked for.
#[derive(Clone, Debug, Default)]
pub struct DataRoot {
    /// Directories, in order.
    pub directories: Vec<PathBuf>,
}

impl DataRoot {
    /// The directory asked for, else that of `HONE_DATA`, else `data` and `shared/data` in the working directory and those
    /// above it. Files that ship with the program are found in any case.
    pub fn discover(asked_for: Option<&Path>) -> DataRoot {
        if let Some(root) = asked_for {
            return DataRoot { directories: vec![root.to_owned()] };
        }
        if let Some(root) = std::env::var_os("HONE_DATA").filter(|root| !root.is_empty()) {
            return DataRoot { directories: vec![root.into()] };
        }
        let here = std::env::current_dir().unwrap_or_default();
        let candidates = here.ancestors().flat_map(|above| [above.join("data"), above.join("shared/data")]);
        DataRoot { directories: candidates.filter(|directory| directory.is_dir()).collect() }
    }

    /// The directory of a data set: a path like a file's, or that of the hub's cache.
    fn data_set(&self, name: &str, revision: Option<&str>, beside: Option<&Path>) -> Option<PathBuf> {
        let directories = beside.into_iter().chain(self.directories.iter().map(PathBuf::as_path));
        let paths = directories.map(|directory| directory.join(name));
        let local = std::iter::once(PathBuf::from(name)).filter(|path| path.is_absolute()).chain(paths);
        local.into_iter().find(|path| path.is_dir()).or_else(|| cached_data_set(name, revision))
    }

    /// A file, or those of a pattern (`*`, `?`, `[…]`, `**`), sorted, from the first directory that has any.
    fn find_all(&self, task: &str, pattern: &str, near: &[&Path]) -> Result<Vec<Found>, EvalError> {
        let found = self.find(task, pattern, near);
        if found.is_ok() || !pattern.contains(['*', '?', '[']) {
            return found.map(|one| vec![one]);
        }
        for directory in near.iter().copied().chain(self.directories.iter().map(PathBuf::as_path)) {
            let files = resolve(&[pattern.to_owned()], directory, None).unwrap_or_default();
            if !files.is_empty() {
                return Ok(files.into_iter().map(|file| Found::at(file.path.to_path_buf())).collect());
            }
        }
        found.map(|one| vec![one])
    }

    /// A file: an absolute path, a path in a directory of `near` or in a data root, or one that ships with the program.
    fn find(&self, task: &str, file: &str, near: &[&Path]) -> Result<Found, EvalError> {
        let directories = near.iter().copied().chain(self.directories.iter().map(PathBuf::as_path));
        let paths: Vec<PathBuf> = match Path::new(file).is_absolute() {
            true => vec![file.into()],
            false => directories.map(|directory| directory.join(file)).collect(),
        };
        if let Some(path) = paths.iter().find(|path| path.is_file()) {
            return Ok(Found::at(path.clone()));
        }
        if let Some(bytes) = bundled::data(file) {
            return Ok(Found { path: Path::new(file).into(), shipped: Some(bytes) });
        }
        let mut looked: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        looked.push("the files that ship with the program".into());
        Err(EvalError::NoData { task: task.into(), file: file.into(), looked: looked.join(", ") })
    }
}

/// A data file that is there.
#[derive(Debug)]
pub(super) struct Found {
    /// For messages.
    pub(super) path: Arc<Path>,
    /// Its bytes, if it ships with the program.
    shipped: Option<&'static [u8]>,
}

impl Found {
    /// A file of the file system.
    fn at(path: PathBuf) -> Found {
        Found { path: path.into(), shipped: None }
    }

    /// From its beginning, however long it is.
    pub(super) fn open(&self) -> Result<Box<dyn BufRead + Send>, EvalError> {
        match self.shipped {
            Some(bytes) => Ok(Box::new(Cursor::new(bytes))),
            None => Ok(Box::new(BufReader::new(File::open(&self.path).map_err(|source| self.failed(source))?))),
        }
    }

    /// Its SHA-256, in hexadecimal.
    fn sha256(&self) -> Result<String, EvalError> {
        let (mut hash, mut file) = (Sha256::new(), self.open()?);
        loop {
            let read = file.fill_buf().map_err(|source| self.failed(source))?;
            if read.is_empty() {
                return Ok(hex(&hash.finalize()));
            }
            hash.update(read);
            let length = read.len();
            file.consume(length);
        }
    }

    pub(super) fn failed(&self, source: std::io::Error) -> EvalError {
        EvalError::Io { path: self.path.to_path_buf(), source }
    }
}

/// A split's examples and the hash of the file they came from.
pub struct Split {
    /// The examples.
    pub docs: Docs,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

/// Reads a split: its files' rows, those wanted, with the task's own columns.
pub fn load_split(config: &TaskConfig, file: &str, split: &str, root: &DataRoot) -> Result<Split, EvalError> {
    let entry = config.dataset_kwargs.data_files.get(split);
    let files = files_of(config, file, split, root)?;
    let sha256 = sha256_of(&files)?;
    // One after the other: a data set may have more files than may be open.
    let first = First::of(config, file, root, &files).map(Arc::new);
    let rows = files.iter().flat_map(|found| {
        let rows = rows_of(found, config, file, first.clone());
        rows.unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
    });
    let condition = entry.and_then(|entry| entry.condition()).map(|condition| format!("{{{{ {condition} }}}}"));
    let templates = Templates::new();
    let mut docs = Docs::default();
    for doc in rows {
        let mut doc = doc?;
        let at = doc.place.clone();
        let wrong = |key: &str, what: String| EvalError::Row {
            file: at.file.display().to_string(),
            row: at.row,
            problem: format!("{key}: {what}"),
        };
        if let Some(condition) = &condition {
            let mut columns = doc.columns.clone();
            columns.insert("row_number".into(), Value::from(doc.place.row));
            let value = templates.column(condition, &columns).map_err(|e| wrong("where", e))?;
            if value != Value::Bool(true) {
                continue;
            }
        }
        for (column, source) in config.process_docs.iter().flatten() {
            let value = match source {
                Value::String(source) => {
                    templates.column(source, &doc.columns).map_err(|e| wrong(&format!("process_docs.{column}"), e))?
                }
                other => other.clone(),
            };
            doc.columns.insert(column.clone(), value);
        }
        docs.push(doc)?;
    }
    if docs.is_empty() {
        let named: Vec<String> = files.iter().map(|found| found.path.display().to_string()).collect();
        let place = format!("{} (split `{split}`)", named.join(", "));
        return Err(EvalError::Empty { task: config.task.clone(), place });
    }
    Ok(Split { docs, sha256 })
}

/// SHA-256 of a split's files, in hexadecimal, without reading their rows.
pub(super) fn split_sha256(config: &TaskConfig, file: &str, split: &str, root: &DataRoot) -> Result<String, EvalError> {
    sha256_of(&files_of(config, file, split, root)?)
}

/// SHA-256 of a file, or of those of several.
fn sha256_of(files: &[Found]) -> Result<String, EvalError> {
    match files {
        [one] => one.sha256(),
        several => {
            let each = several.iter().map(Found::sha256).collect::<Result<Vec<_>, _>>()?;
            Ok(hex(&Sha256::digest(each.join("\n"))))
        }
    }
}

/// The files of a split: those that the task names, the one file that it is, or those of a data set.
pub(super) fn files_of(config: &TaskConfig, file: &str, split: &str, root: &DataRoot) -> Result<Vec<Found>, EvalError> {
    let problem =
        |place: &str, problem: String| EvalError::TaskFile { file: file.into(), place: place.into(), problem };
    let dataset = config.dataset_path.as_deref().unwrap_or("json");
    let kwargs = &config.dataset_kwargs;
    let is_reader = READERS.contains(&dataset);
    let beside = Path::new(file).parent().filter(|_| Path::new(file).is_file());
    let near: Vec<&Path> = beside.into_iter().collect();
    let data_set = || match is_reader {
        true => None,
        false => root.data_set(dataset, kwargs.revision.as_deref(), beside),
    };
    let absent = || EvalError::NoDataSet { file: file.into(), data_set: dataset.into(), readers: READERS.join(", ") };
    if let Some(entry) = kwargs.data_files.get(split) {
        // Of a data set the files are named from its directory.
        let inside = data_set();
        let near: Vec<&Path> = beside.into_iter().chain(inside.as_deref()).collect();
        let mut files = Vec::new();
        for path in entry.paths() {
            if let Some((name, revision, inside)) = hub_file(path) {
                let absent =
                    || EvalError::NoDataSet { file: file.into(), data_set: name.clone(), readers: READERS.join(", ") };
                let directory = root.data_set(&name, revision, beside).ok_or_else(absent)?;
                files.extend(DataRoot::default().find_all(&config.task, inside, &[&directory])?);
                continue;
            }
            match root.find_all(&config.task, path, &near) {
                Err(EvalError::NoData { .. }) if !is_reader && inside.is_none() => return Err(absent()),
                found => files.extend(found?),
            }
        }
        return Ok(files);
    }
    if is_reader || !kwargs.data_files.is_empty() {
        let known: Vec<&str> = kwargs.data_files.keys().map(String::as_str).collect();
        let what = format!("no file for the split `{split}`; there are: {}", known.join(", "));
        return Err(problem("dataset_kwargs.data_files", what));
    }
    let Some(mut directory) = data_set() else {
        return match FileKind::of(Path::new(dataset)) {
            Some(_) => root.find(&config.task, dataset, &near).map(|found| vec![found]),
            None => Err(absent()),
        };
    };
    if let Some(inside) = &kwargs.data_dir {
        directory.push(inside);
    }
    let splits = data_set::splits(&directory, config.dataset_name.as_deref()).map_err(|what| {
        let place = directory.display();
        match data_set::script(&directory) {
            None => problem("dataset_path", format!("{place}: {what}")),
            Some(script) => EvalError::NotRead {
                file: file.into(),
                place: "dataset_path".into(),
                problem: format!("{place}: {what}; its rows are made by Python (`{script}`), which is never run"),
            },
        }
    })?;
    let names = || splits.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match splits.iter().find(|(name, _)| name == split) {
        Some((_, files)) if files.is_empty() => {
            Err(problem("dataset_path", format!("{}: no file of the split `{split}` is there", directory.display())))
        }
        Some((_, files)) => Ok(files.iter().map(|path| Found::at(directory.join(path))).collect()),
        None => {
            Err(problem("dataset_path", format!("{}: no split `{split}`; there are {}", directory.display(), names())))
        }
    }
}

/// The data set, its revision and the path in it of a file that is called by its place on the hub.
fn hub_file(path: &str) -> Option<(String, Option<&str>, &str)> {
    let mut parts = path.strip_prefix(HUB_FILE)?.splitn(3, '/');
    let (owner, name, inside) = (parts.next()?, parts.next()?, parts.next()?);
    let (name, revision) = name.split_once('@').map_or((name, None), |(name, revision)| (name, Some(revision)));
    Some((format!("{owner}/{name}"), revision, inside))
}

/// The split that a task's files, or those of its data set, begin with.
pub(super) fn first_split(config: &TaskConfig, file: &str, root: &DataRoot) -> Option<String> {
    let kwargs = &config.dataset_kwargs;
    if !kwargs.data_files.is_empty() {
        let only = kwargs.data_files.keys().next().filter(|_| kwargs.data_files.len() == 1);
        return kwargs.first_split.as_ref().filter(|split| kwargs.data_files.contains_key(*split)).or(only).cloned();
    }
    let dataset = config.dataset_path.as_deref().filter(|dataset| !READERS.contains(dataset))?;
    let beside = Path::new(file).parent().filter(|_| Path::new(file).is_file());
    let mut directory = root.data_set(dataset, kwargs.revision.as_deref(), beside)?;
    directory.extend(kwargs.data_dir.as_ref());
    let splits = data_set::splits(&directory, config.dataset_name.as_deref()).ok()?;
    splits.into_iter().next().map(|(name, _)| name)
}

/// The rows of a file, as the task's reader, or else its name, says they are read.
fn rows_of(found: &Found, config: &TaskConfig, file: &str, first: Option<Arc<First>>) -> Result<DocRows, EvalError> {
    let path = found.path.clone();
    let dataset = config.dataset_path.as_deref().unwrap_or("json");
    Ok(match dataset {
        "squad" => Box::new(squad(path, raw_rows(FileKind::Json, found, Some("data".into()))?)),
        "wikitext_pages" => Box::new(WikitextPages::new(path, found.open()?)),
        _ => typed::rows(kind_of(dataset, found, file)?, found, config, first)?,
    })
}

/// What kind of file it is, as the task's reader, or else its name, says.
pub(super) fn kind_of(dataset: &str, found: &Found, file: &str) -> Result<FileKind, EvalError> {
    let kind = match dataset {
        "csv" => Some(FileKind::Csv),
        "parquet" => Some(FileKind::Parquet),
        "text" => Some(FileKind::Text),
        _ => FileKind::of(&found.path),
    };
    kind.ok_or_else(|| EvalError::TaskFile {
        file: file.into(),
        place: "dataset_path".into(),
        problem: format!("{}: what kind of file is this? Name a reader", found.path.display()),
    })
}

pub(super) type DocRows = Box<dyn Iterator<Item = Result<Doc, EvalError>>>;

/// Rows of a file that is a list of rows, as they are read.
pub(super) fn raw_rows(
    kind: FileKind,
    found: &Found,
    field: Option<String>,
) -> Result<impl Iterator<Item = Result<RawRow, EvalError>> + use<>, EvalError> {
    let options = ReaderOptions { field, sample_by: SampleBy::Line, python: true, ..ReaderOptions::default() };
    let rows = match found.shipped {
        Some(_) => stream(found.open()?, kind, found.path.clone(), &options)?,
        None => open(&DataFile { path: found.path.clone(), kind }, &options)?,
    };
    Ok(rows.map(|row| row.map_err(EvalError::from)))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
