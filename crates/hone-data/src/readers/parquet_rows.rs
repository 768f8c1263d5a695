//! Parquet, by the `parquet` crate's row reader (no Arrow).
//!
//! That reader panics on some schemas and on some damaged files (`unimplemented!` for types, assertions on list shapes), so
//! each call into it is caught and becomes an error about the file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use serde_json::Value;

use super::parquet_values::python_row;
use super::{RawRow, ReaderOptions, Rows, guarded, parquet_footer};
use crate::error::{DataError, shorten};
use crate::example::SourceRef;

/// Rows of a Parquet file.
pub fn parquet_rows(
    file: impl ChunkReader + 'static,
    path: Arc<Path>,
    options: &ReaderOptions,
) -> Result<Rows, DataError> {
    parquet_footer::check(&file).map_err(|found| unreadable(&path, "schema", found))?;
    let opened = guard(|| SerializedFileReader::new(file)).map_err(|found| unreadable(&path, "footer", found))?;
    let stated = opened.metadata().file_metadata().num_rows();
    let declared: i64 = opened.metadata().row_groups().iter().fold(0, |sum: i64, g| sum.saturating_add(g.num_rows()));
    if stated != declared || stated < 0 {
        let found = format!("{stated} rows stated, {declared} in its row groups");
        return Err(unreadable(&path, "footer", found));
    }
    let schema = options.python.then(|| opened.metadata().file_metadata().schema_descr().root_schema_ptr());
    let mut rows = guard(move || Ok(RowIter::from_file_into(Box::new(opened))))
        .map_err(|found| unreadable(&path, "schema", found))?;
    let (file, mut row) = (path.clone(), 0);
    let rows = std::iter::from_fn(move || {
        row += 1;
        let source = SourceRef { file: file.clone(), row, line: None };
        let read = guard(|| match rows.next() {
            None => Ok(None),
            Some(read) => read.map(|row| {
                Some(schema.as_ref().map_or_else(|| row.to_json_value(), |schema| python_row(&row, schema).into()))
            }),
        });
        match read {
            Ok(None) => None,
            Ok(Some(Value::Object(columns))) => Some(Ok(RawRow { source, columns })),
            Ok(Some(_)) => Some(Err(unreadable(&file, &format!("row {row}"), "a row without columns".into()))),
            Err(found) => Some(Err(unreadable(&file, &format!("row {row}"), found))),
        }
    });
    Ok(guarded(rows, path, options.limits))
}

/// Runs a call into the crate; its error or panic as text.
fn guard<T>(call: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, String> {
    // What is left half-done by a panic is never used again: the stream ends with this error.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(format!("contents its reader cannot take ({message})"))
        }
    }
}

fn unreadable(path: &Path, place: &str, found: String) -> DataError {
    DataError::Unreadable {
        path: path.to_path_buf(),
        place: place.into(),
        found: shorten(&found, 300),
        expected: "a whole Parquet file of texts, numbers, lists and structs".into(),
        next:
            "fetch or write the file anew; other column types can be left out, or turned into text, where it is written"
                .into(),
    }
}
