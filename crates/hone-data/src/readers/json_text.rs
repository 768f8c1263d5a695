//! A JSON text read from front to back: values are cut out, or passed over, by counting brackets outside of strings, so that of a
//! long one no more than a piece is in memory. What is cut out is parsed by whoever wanted it; what is passed over is not looked
//! at further.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::Limits;
use crate::error::{DataError, describe, names, shorten};

/// The text from where it is read to.
pub(super) struct JsonText<R> {
    pub reader: R,
    /// The line that is read.
    pub line: usize,
    pub path: Arc<Path>,
    pub limits: Limits,
}

/// How a value ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scan {
    Complete,
    Ended,
    TooLong,
}

impl<R: BufRead> JsonText<R> {
    pub fn new(reader: R, line: usize, path: Arc<Path>, limits: Limits) -> JsonText<R> {
        JsonText { reader, line, path, limits }
    }

    /// The next byte that is not white space, not consumed.
    pub fn peek(&mut self) -> std::io::Result<Option<u8>> {
        skip_white_space(&mut self.reader, &mut self.line)
    }

    /// Reads to the comma or bracket that ends the value, into `bytes` if they are wanted.
    pub fn value(&mut self, mut bytes: Option<&mut Vec<u8>>) -> std::io::Result<Scan> {
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(Scan::Ended);
            }
            let end = buffer.iter().position(|&byte| {
                if in_string {
                    in_string = byte != b'"' || escaped;
                    escaped = byte == b'\\' && !escaped;
                    return false;
                }
                match byte {
                    b'"' => in_string = true,
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' if depth > 0 => depth -= 1,
                    b']' | b'}' | b',' if depth == 0 => return true,
                    _ => {}
                }
                false
            });
            let used = end.unwrap_or(buffer.len());
            self.line += buffer[..used].iter().filter(|&&b| b == b'\n').count();
            if let Some(bytes) = bytes.as_deref_mut() {
                bytes.extend_from_slice(&buffer[..used]);
                if bytes.len() > self.limits.row_bytes {
                    return Ok(Scan::TooLong);
                }
            }
            self.reader.consume(used);
            if end.is_some() {
                return Ok(Scan::Complete);
            }
        }
    }

    /// Reads behind the `[` of the list at `field`, its keys joined by dots: into so many objects.
    pub fn enter(&mut self, field: &str) -> Result<usize, DataError> {
        let mut depth = 0;
        for key in field.split('.') {
            if self.byte()? != Some(b'{') {
                let found = format!("{} where `{key}` was looked for", self.described()?);
                let next = "set `field` to the path of the list of rows, its keys joined by dots";
                return Err(self.unreadable(format!("`{field}`"), found, "a list of objects", next));
            }
            self.consume(1);
            self.find(key, field)?;
            depth += 1;
        }
        if self.byte()? != Some(b'[') {
            let found = self.described()?;
            let next = "set `field` to the path of the list of rows";
            return Err(self.unreadable(format!("`{field}`"), found, "a list of objects", next));
        }
        self.consume(1);
        Ok(depth)
    }

    /// Reads to the end of the objects around a list, and of the file.
    pub fn leave(&mut self, depth: usize) -> Result<(), DataError> {
        for _ in 0..depth {
            while self.byte()? == Some(b',') {
                self.consume(1);
                self.key()?;
                self.pass()?;
            }
            match self.byte()? {
                Some(b'}') => self.consume(1),
                found => return Err(self.broken(found, "`,` or `}`")),
            }
        }
        match self.byte()? {
            None => Ok(()),
            found => Err(self.broken(found, "the end of the file")),
        }
    }

    /// Reads to the value of `key` in the object that was entered.
    fn find(&mut self, key: &str, field: &str) -> Result<(), DataError> {
        let mut others = Vec::new();
        loop {
            match self.byte()? {
                Some(b'}') => {
                    let found = format!("no `{key}`; there are {}", names(&others));
                    let next = "set `field` to the path of the list of rows, its keys joined by dots";
                    return Err(self.unreadable(format!("`{field}`"), found, "a list of objects", next));
                }
                Some(b',') if !others.is_empty() => self.consume(1),
                _ if others.is_empty() => {}
                found => return Err(self.broken(found, "`,` or `}`")),
            }
            let other = self.key()?;
            if other == key {
                return Ok(());
            }
            self.pass()?;
            others.push(other);
        }
    }

    /// A key and its colon.
    fn key(&mut self) -> Result<String, DataError> {
        let found = self.byte()?;
        if found != Some(b'"') {
            return Err(self.broken(found, "a key in double quotes"));
        }
        let mut text = vec![b'"'];
        self.consume(1);
        loop {
            let before = text.len();
            let limit = (self.limits.row_bytes - before.min(self.limits.row_bytes)) as u64;
            let read = std::io::Read::take(&mut self.reader, limit).read_until(b'"', &mut text);
            if read.map_err(DataError::io(&self.path))? == 0 {
                return Err(self.broken(None, "a closing quote"));
            }
            // A quote ends the key if an even number of backslashes stands before it.
            let quoted = text[1..].strip_suffix(b"\"");
            if quoted.is_some_and(|key| key.iter().rev().take_while(|&&b| b == b'\\').count() % 2 == 0) {
                break;
            }
        }
        let Ok(key) = serde_json::from_slice(&text) else {
            return Err(self.broken(Some(b'"'), "a key in double quotes"));
        };
        match self.byte()? {
            Some(b':') => self.consume(1),
            found => return Err(self.broken(found, "`:`")),
        }
        Ok(key)
    }

    /// Reads over a value.
    fn pass(&mut self) -> Result<(), DataError> {
        match self.value(None).map_err(DataError::io(&self.path))? {
            Scan::Complete => Ok(()),
            Scan::Ended | Scan::TooLong => Err(self.broken(None, "the rest of a value")),
        }
    }

    fn byte(&mut self) -> Result<Option<u8>, DataError> {
        self.peek().map_err(DataError::io(&self.path))
    }

    fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
    }

    /// What the next value is, in words.
    fn described(&mut self) -> Result<String, DataError> {
        let mut bytes = Vec::new();
        self.value(Some(&mut bytes)).map_err(DataError::io(&self.path))?;
        Ok(serde_json::from_slice::<Value>(&bytes).map_or_else(|_| "no JSON value".into(), |value| describe(&value)))
    }

    fn broken(&self, found: Option<u8>, expected: &str) -> DataError {
        let found = found.map_or("the end of the file".into(), |byte| format!("the character {:?}", char::from(byte)));
        let next = "write the file anew (was it cut off?), or use one object a line (`.jsonl`)";
        self.unreadable(format!("line {}", self.line), found, expected, next)
    }

    /// An error of this file.
    pub fn unreadable(
        &self,
        place: impl Into<String>,
        found: impl Into<String>,
        expected: &str,
        next: &str,
    ) -> DataError {
        DataError::Unreadable {
            path: self.path.to_path_buf(),
            place: place.into(),
            found: shorten(&found.into(), 300),
            expected: expected.into(),
            next: next.into(),
        }
    }
}

/// The next byte that is not white space, not consumed; counts lines.
pub(super) fn skip_white_space(reader: &mut impl BufRead, lines: &mut usize) -> std::io::Result<Option<u8>> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let blank = buffer.iter().take_while(|b| b.is_ascii_whitespace()).count();
        *lines += buffer[..blank].iter().filter(|&&b| b == b'\n').count();
        let next = buffer.get(blank).copied();
        reader.consume(blank);
        if next.is_some() {
            return Ok(next);
        }
    }
}
