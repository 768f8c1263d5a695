//! JSON Lines: one object a line. Empty lines are no rows. The parser refuses values nested deeper than 128.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use super::{Limits, Line, Rows, guarded, read_line, row_from_json, too_long};
use crate::error::DataError;
use crate::example::SourceRef;

/// Rows of a JSON Lines text.
pub fn jsonl_rows(mut reader: impl BufRead + Send + 'static, path: Arc<Path>, limits: Limits) -> Rows {
    let (mut line, mut number, mut row) = (Vec::new(), 0, 0);
    let file = path.clone();
    let rows = std::iter::from_fn(move || {
        loop {
            number += 1;
            let read = match read_line(&mut reader, &mut line, limits.row_bytes) {
                Ok(read) => read,
                Err(error) => return Some(Err(DataError::io(&file)(error))),
            };
            if matches!(read, Line::Read) && line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            row += 1;
            let source = SourceRef { file: file.clone(), row, line: Some(number) };
            return match read {
                Line::End => None,
                Line::TooLong => Some(Err(too_long(source, limits.row_bytes))),
                Line::Read => Some(row_from_json(&line, source)),
            };
        }
    });
    guarded(rows, path, limits)
}
