//! Which files a recipe means: paths, globs and directories, in a fixed order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::FileKind;
use crate::error::DataError;

/// A file and how it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct DataFile {
    /// The file.
    pub path: Arc<Path>,
    /// How it is read.
    pub kind: FileKind,
}

const EXTENSIONS: [(&str, FileKind); 9] = [
    ("jsonl", FileKind::Jsonl),
    ("ndjson", FileKind::Jsonl),
    ("json", FileKind::Json),
    ("csv", FileKind::Csv),
    ("tsv", FileKind::Tsv),
    ("parquet", FileKind::Parquet),
    ("txt", FileKind::Text),
    ("text", FileKind::Text),
    ("md", FileKind::Text),
];

impl FileKind {
    /// The kind a file's extension says.
    pub fn of(path: &Path) -> Option<FileKind> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        EXTENSIONS.iter().find(|(e, _)| *e == extension).map(|(_, kind)| *kind)
    }
}

/// Directories deeper than this are taken for a loop of links.
const MAX_DEPTH: usize = 32;

/// The files behind `patterns`, each of which is a file, a glob (`*`, `?`, `[…]`, `**`) or a directory (all its data files,
/// at any depth). Relative patterns start at `base`. Files of a glob or directory come sorted by path; a file that is meant
/// twice comes once.
pub fn resolve(patterns: &[String], base: &Path, reader: Option<FileKind>) -> Result<Vec<DataFile>, DataError> {
    let mut files: Vec<DataFile> = Vec::new();
    for pattern in patterns {
        for file in resolve_one(pattern, base, reader)? {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

fn resolve_one(pattern: &str, base: &Path, reader: Option<FileKind>) -> Result<Vec<DataFile>, DataError> {
    let path = base.join(pattern);
    let shown = path.display().to_string();
    let nothing = |found: &str, next: &str| DataError::Files {
        pattern: shown.clone(),
        found: found.into(),
        expected: format!("data files ({})", EXTENSIONS.map(|(e, _)| format!(".{e}")).join(", ")),
        next: next.into(),
    };
    // A file whose name holds a bracket is a file first and a glob second.
    if path.is_dir() {
        let files = directory(&path, reader, 0)?;
        return match files.is_empty() {
            true => Err(nothing("a directory without data files", "name the files, and their kind with `reader`")),
            false => Ok(files),
        };
    }
    if path.exists() {
        let kind = reader.or_else(|| FileKind::of(&path)).ok_or_else(|| {
            nothing("a file of unknown kind", "say how to read it with `reader: jsonl` (json, csv, tsv, parquet, text)")
        })?;
        return Ok(vec![DataFile { path: path.into(), kind }]);
    }
    if !pattern.contains(['*', '?', '[']) {
        return Err(nothing("no such file", "check the path; relative paths start at the recipe's directory"));
    }
    let paths =
        glob::glob(&shown).map_err(|e| nothing(&format!("a glob that cannot be read ({e})"), "correct the glob"))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|e| DataError::Io { path: e.path().to_path_buf(), source: e.into() })?;
        if path.is_dir() {
            continue;
        }
        match reader.or_else(|| FileKind::of(&path)) {
            Some(kind) => files.push(DataFile { path: path.into(), kind }),
            None => continue,
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    match files.is_empty() {
        true => Err(nothing("a glob that matches no data file", "check the path before the `*`")),
        false => Ok(files),
    }
}

fn directory(path: &Path, reader: Option<FileKind>, depth: usize) -> Result<Vec<DataFile>, DataError> {
    if depth > MAX_DEPTH {
        return Ok(Vec::new());
    }
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(DataError::io(path))? {
        entries.push(entry.map_err(DataError::io(path))?.path());
    }
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
            continue;
        }
        if entry.is_dir() && !entry.is_symlink() {
            files.extend(directory(&entry, reader, depth + 1)?);
        } else if let Some(kind) = FileKind::of(&entry).filter(|_| entry.is_file()) {
            files.push(DataFile { path: entry.into(), kind: reader.unwrap_or(kind) });
        }
    }
    Ok(files)
}
