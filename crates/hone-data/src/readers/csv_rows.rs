//! CSV and TSV with a header, by the `csv` crate. Every value is text; an empty cell is an empty text.

use std::collections::HashSet;
use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::{Limits, RawRow, Row, Rows, guarded, row_error};
use crate::error::DataError;
use crate::example::SourceRef;

/// Rows of a text with a header and a delimiter.
pub fn csv_rows(
    reader: impl BufRead + Send + 'static,
    delimiter: u8,
    path: Arc<Path>,
    limits: Limits,
) -> Result<Rows, DataError> {
    let budget = Arc::new(AtomicUsize::new(limits.row_bytes));
    let reader = Budgeted { reader, left: budget.clone() };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(reader);
    let headers = reader.headers().map_err(|e| unreadable(&path, &e, limits))?.clone();
    let header: Vec<String> = headers.iter().map(|h| h.trim().to_string()).collect();
    let mut seen = HashSet::new();
    if let Some(twice) = header.iter().find(|h| !seen.insert(h.as_str())) {
        return Err(DataError::Unreadable {
            path: path.to_path_buf(),
            place: "header".into(),
            found: format!("the column `{twice}` twice"),
            expected: "every column once".into(),
            next: "rename one of them; if the file has no header, add one as its first line".into(),
        });
    }
    let file = path.clone();
    let (mut record, mut row) = (csv::StringRecord::new(), 0);
    let rows = std::iter::from_fn(move || {
        // The reader takes blocks ahead of the record; the budget is renewed, so a row may be a block longer than the limit.
        budget.store(limits.row_bytes, Ordering::Relaxed);
        let line = reader.position().line() as usize;
        row += 1;
        let source = SourceRef { file: file.clone(), row, line: Some(line) };
        match reader.read_record(&mut record) {
            Ok(false) => None,
            Ok(true) => {
                let line = record.position().map(|p| p.line() as usize);
                let source = SourceRef { line: line.or(source.line), ..source };
                let cells = record.iter().map(|cell| Value::String(cell.to_string()));
                let columns: Row = header.iter().cloned().zip(cells).collect();
                Some(Ok(RawRow { source, columns }))
            }
            Err(error) => Some(Err(bad_record(error, source, &header, limits))),
        }
    });
    Ok(guarded(rows, path, limits))
}

fn bad_record(error: csv::Error, source: SourceRef, header: &[String], limits: Limits) -> DataError {
    let line = error.position().map(|p| p.line() as usize).or(source.line);
    let source = SourceRef { line, ..source };
    match error.kind() {
        csv::ErrorKind::UnequalLengths { len, .. } => row_error(
            source,
            format!("{len} columns"),
            format!("{}, as in the header", header.len()),
            "put quotes around cells that hold the delimiter or a line end, or set `on_bad_row: skip`",
        ),
        csv::ErrorKind::Utf8 { err, .. } => {
            let found = format!("bytes that are not UTF-8 in column {}", err.field() + 1);
            row_error(source, found, "text in UTF-8", "convert the file to UTF-8")
        }
        _ => unreadable(&source.file, &error, limits),
    }
}

fn unreadable(path: &Path, error: &csv::Error, limits: Limits) -> DataError {
    let place = error.position().map_or_else(|| "header".into(), |p| format!("line {}", p.line()));
    let too_long = matches!(error.kind(), csv::ErrorKind::Io(e) if e.kind() == std::io::ErrorKind::FileTooLarge);
    let (found, next) = match too_long {
        true => (format!("a row of more than {} bytes", limits.row_bytes), "look for a quote that is never closed"),
        false => (error.to_string(), "check that the file is whole and its text in UTF-8"),
    };
    let expected = "rows of comma- or tab-separated values".into();
    DataError::Unreadable { path: path.to_path_buf(), place, found, expected, next: next.into() }
}

/// Fails once more than the budget was read: an open quote would else read the rest of the file into one cell.
struct Budgeted<R> {
    reader: R,
    left: Arc<AtomicUsize>,
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left.load(Ordering::Relaxed) == 0 {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        let read = self.reader.read(buffer)?;
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(read), Ordering::Relaxed);
        Ok(read)
    }
}
