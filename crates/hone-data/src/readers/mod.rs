//! Readers: files to rows, one room a file kind. A reader streams: it holds one row at a time (Parquet: a batch of a row
//! group). Every reader has limits, so that a broken file ends in a message and not in all memory used up.
//!
//! Readers know nothing of formats: a row is a JSON object, whatever its columns mean.

pub mod civil;
mod csv_rows;
mod files;
mod json_array;
mod json_text;
mod jsonl;
mod parquet_footer;
mod parquet_rows;
mod parquet_values;
mod text;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{FileKind, SampleBy};
use crate::error::{DataError, RowError, describe};
use crate::example::SourceRef;

pub use csv_rows::csv_rows;
pub use files::{DataFile, resolve};
pub use json_array::json_rows;
pub use jsonl::jsonl_rows;
pub use parquet_rows::parquet_rows;
pub use text::text_rows;

/// A row's columns.
pub type Row = Map<String, Value>;

/// A row and where it was.
#[derive(Clone, Debug, PartialEq)]
pub struct RawRow {
    /// Where.
    pub source: SourceRef,
    /// Its columns, in the file's order.
    pub columns: Row,
}

/// Rows as they are read. After a [`DataError::Row`] reading goes on with the next row; any other error is the last item.
pub type Rows = Box<dyn Iterator<Item = Result<RawRow, DataError>> + Send>;

/// What a reader takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one row as the file has it (a line, a record, an element, a text).
    pub row_bytes: usize,
    /// Bytes of a JSON file that holds one object and no list is named of, or of Parquet that cannot be sought in: what is read as a
    /// whole.
    pub document_bytes: u64,
    /// Rows of one file.
    pub rows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { row_bytes: 64 << 20, document_bytes: 2 << 30, rows: 1 << 31 }
    }
}

/// How a file is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReaderOptions {
    /// Where the list of rows lies in a JSON object: `splits.train`.
    pub field: Option<String>,
    /// What one row of a text file is.
    pub sample_by: SampleBy,
    /// Whether values of Parquet that JSON has no kind of (times, decimals, bytes, infinities) come as Python prints them, and not as
    /// the `parquet` crate does.
    pub python: bool,
    /// Limits.
    pub limits: Limits,
}

/// Opens a file and streams its rows.
pub fn open(file: &DataFile, options: &ReaderOptions) -> Result<Rows, DataError> {
    let path: Arc<Path> = file.path.clone();
    let opened = File::open(&path).map_err(DataError::io(&path))?;
    if opened.metadata().map_err(DataError::io(&path))?.is_dir() {
        return Err(DataError::Files {
            pattern: path.display().to_string(),
            found: "a directory".into(),
            expected: "a file".into(),
            next: "name the files, or leave `reader` out to read every data file of the directory".into(),
        });
    }
    if file.kind == FileKind::Parquet {
        return parquet_rows(opened, path, options);
    }
    stream(BufReader::with_capacity(1 << 16, opened), file.kind, path, options)
}

/// Streams rows of any kind but Parquet (which needs to seek) from a reader; `path` is for messages.
pub fn stream(
    reader: impl BufRead + Send + 'static,
    kind: FileKind,
    path: Arc<Path>,
    options: &ReaderOptions,
) -> Result<Rows, DataError> {
    let mut reader = reader;
    skip_byte_order_mark(&mut reader).map_err(DataError::io(&path))?;
    match kind {
        FileKind::Jsonl => Ok(jsonl_rows(reader, path, options.limits)),
        FileKind::Json => json_rows(reader, path, options),
        FileKind::Csv => csv_rows(reader, b',', path, options.limits),
        FileKind::Tsv => csv_rows(reader, b'\t', path, options.limits),
        FileKind::Text => Ok(text_rows(reader, path, options)),
        FileKind::Parquet => {
            let mut bytes = Vec::new();
            reader.take(options.limits.document_bytes).read_to_end(&mut bytes).map_err(DataError::io(&path))?;
            parquet_rows(bytes::Bytes::from(bytes), path, options)
        }
    }
}

fn skip_byte_order_mark(reader: &mut impl BufRead) -> std::io::Result<()> {
    const MARK: &[u8] = b"\xEF\xBB\xBF";
    if reader.fill_buf()?.starts_with(MARK) {
        reader.consume(MARK.len());
    }
    Ok(())
}

/// Ends a stream after an error that is not a row's, and after too many rows.
struct Guarded<I> {
    rows: I,
    path: Arc<Path>,
    left: usize,
    done: bool,
    limits: Limits,
}

fn guarded<I>(rows: I, path: Arc<Path>, limits: Limits) -> Rows
where
    I: Iterator<Item = Result<RawRow, DataError>> + Send + 'static,
{
    Box::new(Guarded { rows, path, left: limits.rows, done: false, limits })
}

impl<I: Iterator<Item = Result<RawRow, DataError>>> Iterator for Guarded<I> {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.rows.next()?;
        if self.left == 0 {
            self.done = true;
            return Some(Err(DataError::Unreadable {
                path: self.path.to_path_buf(),
                place: "the file as a whole".into(),
                found: format!("more than {} rows", self.limits.rows),
                expected: "fewer".into(),
                next: "split the file, or set `limit`".into(),
            }));
        }
        self.left -= 1;
        self.done = matches!(&item, Err(error) if !matches!(error, DataError::Row(_)));
        Some(item)
    }
}

/// A line with its end, at most `limit` bytes; the rest of a longer line is skipped.
enum Line {
    End,
    Read,
    TooLong,
}

fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, limit: usize) -> std::io::Result<Line> {
    line.clear();
    reader.by_ref().take(limit as u64 + 1).read_until(b'\n', line)?;
    if line.is_empty() {
        return Ok(Line::End);
    }
    if line.len() <= limit || line.ends_with(b"\n") {
        return Ok(Line::Read);
    }
    line.clear();
    line.shrink_to(1 << 16);
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(Line::TooLong);
        }
        let end = buffer.iter().position(|&b| b == b'\n');
        let used = end.map_or(buffer.len(), |e| e + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(Line::TooLong);
        }
    }
}

fn too_long(place: SourceRef, limit: usize) -> DataError {
    row_error(
        place,
        format!("more than {limit} bytes"),
        "a shorter row",
        "split the row, or check for a missing line end",
    )
}

fn row_error(
    place: SourceRef,
    found: impl Into<String>,
    expected: impl Into<String>,
    next: impl Into<String>,
) -> DataError {
    let (found, expected, next) = (found.into(), expected.into(), next.into());
    DataError::Row(Box::new(RowError { place, field: None, found, expected, next }))
}

/// A JSON text as a row.
fn row_from_json(bytes: &[u8], source: SourceRef) -> Result<RawRow, DataError> {
    const NEXT: &str = "correct the row, or set `on_bad_row: skip` to leave such rows out";
    let bytes = bytes.trim_ascii_end();
    if let Err(error) = std::str::from_utf8(bytes) {
        let found = format!("bytes that are not UTF-8 after {} bytes of the row", error.valid_up_to());
        return Err(row_error(source, found, "text in UTF-8", "convert the file to UTF-8"));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(columns)) => Ok(RawRow { source, columns }),
        Ok(other) => Err(row_error(source, describe(&other), "an object with named fields", NEXT)),
        Err(error) => {
            // The parser counts lines and columns in the row; the row's place names the line.
            let message = error.to_string();
            let what = message.split(" at line ").next().unwrap_or(&message);
            let found = format!("{what} at character {} of the row", error.column());
            Err(row_error(source, found, "one JSON object", NEXT))
        }
    }
}
