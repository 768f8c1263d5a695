//! Plain text in UTF-8. A row has one column, `text`: a line, a paragraph (lines up to one of nothing but white space), or
//! the whole file. Line ends inside a row are kept as `\n`.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{Limits, Line, RawRow, ReaderOptions, Row, Rows, guarded, read_line, row_error, too_long};
use crate::config::SampleBy;
use crate::error::DataError;
use crate::example::SourceRef;

/// Rows of a plain text.
pub fn text_rows(reader: impl BufRead + Send + 'static, path: Arc<Path>, options: &ReaderOptions) -> Rows {
    let limits = options.limits;
    let texts =
        Texts { reader, sample_by: options.sample_by, limits, path: path.clone(), number: 0, row: 0, line: Vec::new() };
    guarded(texts, path, limits)
}

struct Texts<R> {
    reader: R,
    sample_by: SampleBy,
    limits: Limits,
    path: Arc<Path>,
    /// Lines read.
    number: usize,
    row: usize,
    line: Vec<u8>,
}

impl<R: BufRead> Iterator for Texts<R> {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut text: Vec<u8> = Vec::new();
        let mut first_line = None;
        let mut long = false;
        loop {
            let read = match read_line(&mut self.reader, &mut self.line, self.limits.row_bytes) {
                Ok(read) => read,
                Err(error) => return Some(Err(DataError::io(&self.path)(error))),
            };
            if matches!(read, Line::End) {
                break;
            }
            self.number += 1;
            let blank = matches!(read, Line::Read) && self.line.iter().all(u8::is_ascii_whitespace);
            if blank && first_line.is_none() {
                continue;
            }
            if blank && self.sample_by == SampleBy::Paragraph {
                break;
            }
            first_line.get_or_insert(self.number);
            long |= matches!(read, Line::TooLong) || text.len() + self.line.len() > self.limits.row_bytes;
            if !long {
                let content = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
                text.extend_from_slice(content.strip_suffix(b"\r").unwrap_or(content));
                text.push(b'\n');
            }
            if self.sample_by == SampleBy::Line {
                break;
            }
        }
        let line = Some(first_line?);
        self.row += 1;
        let source = SourceRef { file: self.path.clone(), row: self.row, line };
        if long {
            return Some(Err(too_long(source, self.limits.row_bytes)));
        }
        Some(match String::from_utf8(text) {
            Ok(text) => {
                let text = Value::String(text.trim_end_matches('\n').to_string());
                Ok(RawRow { source, columns: Row::from_iter([("text".to_string(), text)]) })
            }
            Err(error) => {
                let found = format!("bytes that are not UTF-8 after {} bytes", error.utf8_error().valid_up_to());
                Err(row_error(source, found, "text in UTF-8", "convert the file to UTF-8"))
            }
        })
    }
}
