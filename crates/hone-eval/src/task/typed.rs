//! Rows of data files with the types that their columns have ([`super::types`]): a first pass over a file finds the types, a second
//! one reads the rows. What is kept in between are the types, whatever the number of rows.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use hone_data::config::FileKind;

use super::config::TaskConfig;
use super::data::{DataRoot, Doc, DocRows, Found, files_of, first_split, kind_of, raw_rows};
use super::types::{Fields, FileTypes, csv, json};
use crate::error::EvalError;

/// The first file of a task's first split, and the types of its columns, which are those of the data set.
pub(super) struct First {
    path: Arc<Path>,
    columns: Fields,
}

impl First {
    /// What other files than the first are cast to. `None` if there are no others among `files`, if types are not asked for, or if
    /// the first one cannot be read: it may not be needed.
    pub fn of(config: &TaskConfig, file: &str, root: &DataRoot, files: &[Found]) -> Option<First> {
        let kwargs = &config.dataset_kwargs;
        let dataset = config.dataset_path.as_deref().unwrap_or("json");
        if kwargs.untyped {
            return None;
        }
        let split = first_split(config, file, root)?;
        let first = files_of(config, file, &split, root).ok()?.into_iter().next()?;
        if files.iter().all(|other| other.path == first.path) {
            return None;
        }
        let kind = kind_of(dataset, &first, file).ok()?;
        let types = types_of(kind, &first, kwargs.field.as_deref(), true).ok()??;
        Some(First { path: first.path, columns: types.columns() })
    }
}

/// The rows of a file that is a list of rows.
pub(super) fn rows(
    kind: FileKind,
    found: &Found,
    config: &TaskConfig,
    first: Option<Arc<First>>,
) -> Result<DocRows, EvalError> {
    let field = config.dataset_kwargs.field.as_deref();
    let types = match config.dataset_kwargs.untyped {
        true => None,
        false => types_of(kind, found, field, false)?,
    };
    let first = first.filter(|first| first.path != found.path);
    let rows = raw_rows(kind, found, field.map(str::to_owned))?;
    Ok(Box::new(rows.map(move |row| {
        let mut row = row?;
        if let Some(types) = &types {
            let first = first.as_ref().map(|first| &first.columns);
            row.columns = types.typed(row.source.row, row.columns, first);
        }
        Ok(Doc { columns: row.columns, place: row.source })
    })))
}

/// The types of a file's columns; `None` where a file states them itself or has none. With `start`, as the rows say that `datasets` types
/// a data set by.
fn types_of(kind: FileKind, found: &Found, field: Option<&str>, start: bool) -> Result<Option<FileTypes>, EvalError> {
    let rows = || raw_rows(kind, found, field.map(str::to_owned));
    match kind {
        FileKind::Parquet | FileKind::Text => Ok(None),
        FileKind::Csv | FileKind::Tsv => {
            let mut types = csv::Types::default();
            for row in rows()?.take(if start { csv::CHUNK } else { usize::MAX }) {
                types.see(&row?.columns);
            }
            Ok(Some(FileTypes::Csv(types.finish())))
        }
        FileKind::Json | FileKind::Jsonl => {
            let reader = match field {
                Some(_) => json::Reader::Field,
                None if is_list(found)? => json::Reader::List,
                None => json::Reader::Lines,
            };
            let mut types = json::Types::new(reader);
            let mut left = json::FIRST_BLOCK;
            for row in rows()? {
                let columns = row?.columns;
                types.see(&columns);
                if start && reader == json::Reader::Lines {
                    left = left.saturating_sub(serde_json::to_vec(&columns).map_or(0, |text| text.len() + 1));
                    if left == 0 {
                        break;
                    }
                }
            }
            Ok(Some(FileTypes::Json(types.finish())))
        }
    }
}

/// Whether a JSON file is a list.
fn is_list(found: &Found) -> Result<bool, EvalError> {
    let mut file = found.open()?;
    let start = file.fill_buf().map_err(|source| found.failed(source))?;
    let start = start.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(start);
    Ok(start.trim_ascii_start().first() == Some(&b'['))
}
