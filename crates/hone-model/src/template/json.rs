//! The filter `tojson`, as `transformers` defines it for templates: Python's `json.dumps` with its separators. Templates of evaluation
//! tasks write with it, too.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::python::{number, too_deep};

/// How `json.dumps` is asked to write.
pub struct Json {
    /// `ensure_ascii`: everything else as `\u` and four digits.
    pub ascii: bool,
    /// `sort_keys`.
    pub sort: bool,
    /// What stands before a line's content, once for each level; without it all is on one line.
    pub indent: Option<String>,
    /// Between two items.
    pub between: String,
    /// Between a key and its value.
    pub colon: String,
}

/// The filter `tojson` with `json.dumps`' arguments.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(count) if !count.is_none() => Some(" ".repeat(usize::try_from(count)?.min(64))),
        _ => None,
    };
    let default_between = if indent.is_some() { "," } else { ", " };
    let (between, colon) = match options.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let part = |i: i64| -> Result<String, Error> {
                let part = pair.get_item(&Value::from(i))?;
                part.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "tojson: separators are two texts"))
            };
            (part(0)?, part(1)?)
        }
        _ => (default_between.to_owned(), ": ".to_owned()),
    };
    let json = Json {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        between,
        colon,
    };
    options.assert_all_used()?;
    json.text_of(value).map(Value::from)
}

impl Json {
    /// `json.dumps(value, …)`. Fails on what JSON has no form for, and on values nested too deep.
    pub fn text_of(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write(value, &mut out, 0)?;
        Ok(out)
    }

    fn line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn write(&self, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
        too_deep(depth)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(match number(value)?.as_str() {
                "nan" => "NaN",
                "inf" => "Infinity",
                "-inf" => "-Infinity",
                finite => finite,
            }),
            ValueKind::String => self.text(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let elements: Vec<Value> = value.try_iter()?.collect();
                self.enclosed(out, ('[', ']'), depth, &elements, |json, element, out| {
                    json.write(element, out, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    // As they are, not as they are written: 2 before 10.
                    keys.sort();
                }
                for key in keys {
                    pairs.push((key_text(&key)?, value.get_item(&key)?));
                }
                self.enclosed(out, ('{', '}'), depth, &pairs, |json, (key, value), out| {
                    json.text(key, out);
                    out.push_str(&json.colon);
                    json.write(value, out, depth + 1)
                })?;
            }
            kind => {
                let message = format!("tojson: a value of kind {kind} is not JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn enclosed<T>(
        &self,
        out: &mut String,
        brackets: (char, char),
        depth: usize,
        elements: &[T],
        write: impl Fn(&Json, &T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(brackets.0);
        for (i, element) in elements.iter().enumerate() {
            out.push_str(if i > 0 { &self.between } else { "" });
            self.line(out, depth + 1);
            write(self, element, out)?;
        }
        if !elements.is_empty() {
            self.line(out, depth);
        }
        out.push(brackets.1);
        Ok(())
    }

    fn text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A key as `json.dumps` writes it: texts as they are, the rest as JSON.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(key.to_string()),
        ValueKind::Number => number(key),
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: a key of kind {kind} is not JSON"))),
    }
}
