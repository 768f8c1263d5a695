//! JSON files: a list of objects, streamed element by element; one object that holds the list under `field` (`data`,
//! `splits.train`), streamed as well; or, as many tools write them, JSON Lines with the extension `.json`.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::json_text::{JsonText, Scan, skip_white_space};
use super::{Limits, RawRow, ReaderOptions, Rows, guarded, jsonl_rows, row_from_json};
use crate::error::{DataError, describe, names, shorten};
use crate::example::SourceRef;

/// Rows of a JSON text.
pub fn json_rows(
    mut reader: impl BufRead + Send + 'static,
    path: Arc<Path>,
    options: &ReaderOptions,
) -> Result<Rows, DataError> {
    let mut lines_before = 0;
    let first = skip_white_space(&mut reader, &mut lines_before).map_err(DataError::io(&path))?;
    if let Some(field) = &options.field {
        return rows_under(reader, lines_before + 1, field, path, options.limits);
    }
    match first {
        Some(b'[') => {
            reader.consume(1);
            let limits = options.limits;
            let text = JsonText::new(reader, lines_before + 1, path.clone(), limits);
            Ok(guarded(ElementScanner { text, row: 0, around: 0, ended: false }, path, limits))
        }
        Some(b'{') => lines_or_refuse(reader, path, options.limits),
        Some(other) => Err(unreadable(
            &path,
            "start of the file",
            format!("the character {:?}", char::from(other)),
            "`[`, the start of a list of objects",
            "write the file as a JSON list of objects, or as one object a line (`.jsonl`)",
        )),
        None => Ok(Box::new(std::iter::empty())),
    }
}

/// Starts with `{`: JSON Lines if the first line is an object by itself, else one object whose list must be named.
fn lines_or_refuse(
    mut reader: impl BufRead + Send + 'static,
    path: Arc<Path>,
    limits: Limits,
) -> Result<Rows, DataError> {
    let mut first_line = Vec::new();
    let limit = limits.row_bytes as u64;
    reader.by_ref().take(limit).read_until(b'\n', &mut first_line).map_err(DataError::io(&path))?;
    let is_row = matches!(serde_json::from_slice(&first_line), Ok(Value::Object(_)));
    let more = reader.fill_buf().map_err(DataError::io(&path))?;
    let whole = more.iter().all(u8::is_ascii_whitespace);
    if is_row && !whole {
        return Ok(jsonl_rows(std::io::Cursor::new(first_line).chain(reader), path, limits));
    }
    let found = match one_object(&first_line, &mut reader, &path, limits)? {
        Value::Object(object) => {
            let lists: Vec<&String> = object.iter().filter(|(_, v)| v.is_array()).map(|(k, _)| k).collect();
            if lists.is_empty() {
                // A file of one row.
                let source = SourceRef { file: path, row: 1, line: Some(1) };
                return Ok(Box::new(std::iter::once(Ok(RawRow { source, columns: object }))));
            }
            format!("one object with lists under {}", names(lists))
        }
        other => describe(&other),
    };
    let next = "name the list with `field`, or write one object a line (`.jsonl`)";
    Err(unreadable(&path, "the file as a whole", found, "a list of objects", next))
}

fn one_object(start: &[u8], reader: &mut impl BufRead, path: &Path, limits: Limits) -> Result<Value, DataError> {
    let mut bytes = start.to_vec();
    reader.by_ref().take(limits.document_bytes).read_to_end(&mut bytes).map_err(DataError::io(path))?;
    if bytes.len() as u64 > limits.document_bytes {
        return Err(unreadable(
            path,
            "the file as a whole",
            format!("one object of more than {} bytes", limits.document_bytes),
            "a smaller object, or a list",
            "write one object a line (`.jsonl`), which is read line by line",
        ));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        let message = error.to_string();
        let found = message.split(" at line ").next().unwrap_or(&message).to_string();
        unreadable(path, place, found, "JSON", "correct the file there")
    })
}

/// The rows of a list inside an object: the text is read to it, and behind it to its end.
fn rows_under(
    reader: impl BufRead + Send + 'static,
    line: usize,
    field: &str,
    path: Arc<Path>,
    limits: Limits,
) -> Result<Rows, DataError> {
    let mut text = JsonText::new(reader, line, path.clone(), limits);
    let around = text.enter(field)?;
    Ok(guarded(ElementScanner { text, row: 0, around, ended: false }, path, limits))
}

/// Cuts a list into its elements; each is then parsed by itself.
struct ElementScanner<R> {
    text: JsonText<R>,
    row: usize,
    /// Objects that the list lies in.
    around: usize,
    /// The list is over, or the file is.
    ended: bool,
}

impl<R: BufRead> Iterator for ElementScanner<R> {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let element = self.element().unwrap_or_else(|error| Some(Err(DataError::io(&self.text.path)(error))));
        self.ended = element.is_none();
        element
    }
}

impl<R: BufRead> ElementScanner<R> {
    fn element(&mut self) -> std::io::Result<Option<Result<RawRow, DataError>>> {
        let mut first = self.text.peek()?;
        if first == Some(b',') && self.row > 0 {
            self.text.reader.consume(1);
            first = self.text.peek()?;
        } else if self.row > 0 && !matches!(first, Some(b']') | None) {
            return Ok(Some(Err(self.broken("no comma between two elements", "`,` or `]`"))));
        }
        match first {
            None => return Ok(Some(Err(self.broken("the end of the file", "`]`, the end of the list")))),
            Some(b']') => {
                self.text.reader.consume(1);
                if self.around > 0 {
                    return Ok(self.text.leave(self.around).err().map(Err));
                }
                return match self.text.peek()? {
                    None => Ok(None),
                    Some(_) => Ok(Some(Err(self.broken("more text after the list", "the end of the file")))),
                };
            }
            Some(_) => {}
        }
        self.row += 1;
        let source = SourceRef { file: self.text.path.clone(), row: self.row, line: Some(self.text.line) };
        let mut bytes = Vec::new();
        Ok(Some(match self.text.value(Some(&mut bytes))? {
            Scan::Complete => row_from_json(&bytes, source),
            Scan::Ended => Err(self.broken("the end of the file inside an element", "`]`, the end of the list")),
            Scan::TooLong => Err(self.broken(
                &format!("an element of more than {} bytes (row {})", self.text.limits.row_bytes, self.row),
                "shorter elements, or a closing quote or bracket",
            )),
        }))
    }

    fn broken(&self, found: &str, expected: &str) -> DataError {
        let place = format!("line {}, after {} elements", self.text.line, self.row);
        let next = "write the file anew (was it cut off?), or use one object a line (`.jsonl`)";
        self.text.unreadable(place, found, expected, next)
    }
}

fn unreadable(
    path: &Path,
    place: impl Into<String>,
    found: impl Into<String>,
    expected: &str,
    next: &str,
) -> DataError {
    DataError::Unreadable {
        path: path.to_path_buf(),
        place: place.into(),
        found: shorten(&found.into(), 300),
        expected: expected.into(),
        next: next.into(),
    }
}
