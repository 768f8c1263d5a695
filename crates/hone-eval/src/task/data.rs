//! Where a task's examples come from: the data root, the files that ship with the program, and the readers.
//!
//! Files are read by `hone-data`, as streams; two layouts that are no list of rows by [`super::layouts`].

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_data::config::{FileKind, SampleBy};
use hone_data::example::SourceRef;
use hone_data::readers::{RawRow, ReaderOptions, stream};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::bundled;
use super::config::TaskConfig;
use super::docs::Docs;
use super::layouts::{WikitextPages, squad};
use super::template::Templates;
use crate::error::EvalError;

/// Names of `dataset_path` that say how files are read; the files stand in `dataset_kwargs.data_files`.
const READERS: [&str; 6] = ["json", "csv", "parquet", "text", "squad", "wikitext_pages"];

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

    /// A file: an absolute path, a path beside the task file, in a data root, or one that ships with the program.
    fn find(&self, task: &str, file: &str, beside: Option<&Path>) -> Result<Found, EvalError> {
        let directories = beside.into_iter().chain(self.directories.iter().map(PathBuf::as_path));
        let paths: Vec<PathBuf> = match Path::new(file).is_absolute() {
            true => vec![file.into()],
            false => directories.map(|directory| directory.join(file)).collect(),
        };
        if let Some(path) = paths.iter().find(|path| path.is_file()) {
            return Ok(Found { path: path.as_path().into(), shipped: None });
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
struct Found {
    /// For messages.
    path: Arc<Path>,
    /// Its bytes, if it ships with the program.
    shipped: Option<&'static [u8]>,
}

impl Found {
    /// From its beginning, however long it is.
    fn open(&self) -> Result<Box<dyn BufRead + Send>, EvalError> {
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

    fn failed(&self, source: std::io::Error) -> EvalError {
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

/// Reads a split: its file's rows, those wanted, with the task's own columns.
pub fn load_split(config: &TaskConfig, file: &str, split: &str, root: &DataRoot) -> Result<Split, EvalError> {
    let problem =
        |place: &str, problem: String| EvalError::TaskFile { file: file.into(), place: place.into(), problem };
    let dataset = config.dataset_path.as_deref().unwrap_or("json");
    let is_reader = READERS.contains(&dataset);
    let entry = config.dataset_kwargs.data_files.get(split);
    let data_file = match entry {
        Some(entry) => entry.path(),
        None if !is_reader && FileKind::of(Path::new(dataset)).is_some() => dataset,
        None if !is_reader && config.dataset_kwargs.data_files.is_empty() => {
            let what = format!(
                "`{dataset}` is neither a file nor a reader ({}); give local files in `dataset_kwargs.data_files`",
                READERS.join(", ")
            );
            return Err(problem("dataset_path", what));
        }
        None => {
            let known: Vec<&str> = config.dataset_kwargs.data_files.keys().map(String::as_str).collect();
            let what = format!("no file for the split `{split}`; there are: {}", known.join(", "));
            return Err(problem("dataset_kwargs.data_files", what));
        }
    };
    let beside = Path::new(file).parent().filter(|_| Path::new(file).is_file());
    let found = root.find(&config.task, data_file, beside)?;
    let sha256 = found.sha256()?;
    let path = found.path.clone();
    let rows: Box<dyn Iterator<Item = Result<Doc, EvalError>>> = match dataset {
        "squad" => Box::new(squad(path.clone(), raw_rows(FileKind::Json, &found, Some("data".into()))?)),
        "wikitext_pages" => Box::new(WikitextPages::new(path.clone(), found.open()?)),
        _ => {
            let kind = match dataset {
                "csv" => Some(FileKind::Csv),
                "parquet" => Some(FileKind::Parquet),
                "text" => Some(FileKind::Text),
                _ => FileKind::of(&path),
            };
            let unknown = || format!("{}: what kind of file is this? Name a reader", path.display());
            let kind = kind.ok_or_else(|| problem("dataset_path", unknown()))?;
            let rows = raw_rows(kind, &found, config.dataset_kwargs.field.clone())?;
            Box::new(rows.map(|row| row.map(|row| Doc { columns: row.columns, place: row.source })))
        }
    };
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
        return Err(EvalError::Empty { task: config.task.clone(), place: format!("{data_file} (split `{split}`)") });
    }
    Ok(Split { docs, sha256 })
}

/// Rows of a file that is a list of rows, as they are read.
fn raw_rows(
    kind: FileKind,
    found: &Found,
    field: Option<String>,
) -> Result<impl Iterator<Item = Result<RawRow, EvalError>> + use<>, EvalError> {
    let options = ReaderOptions { field, sample_by: SampleBy::Line, ..ReaderOptions::default() };
    let rows = stream(found.open()?, kind, found.path.clone(), &options)?;
    Ok(rows.map(|row| row.map_err(EvalError::from)))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
