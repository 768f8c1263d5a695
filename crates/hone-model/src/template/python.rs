//! Values as Python prints them: `{{ true }}` is `True`, `{{ none }}` is `None`, a list prints with `repr` of its
//! elements; and `tojson` as `transformers` defines it for templates, Python's `json.dumps` with its separators.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};

/// Deepest nesting printed.
const MAX_DEPTH: usize = 100;

/// Methods of texts, lists and dicts: `minijinja_contrib`'s, but `title` as Python has it beyond ASCII.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), name, args) {
        (Some(text), "title", []) => Ok(Value::from(title(text))),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Letters after a letter in lower case, others in upper case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

/// The environment's formatter.
pub(super) fn write(out: &mut Output, _state: &mut State, value: &Value) -> Result<(), Error> {
    out.write_str(&text(value)?).map_err(Error::from)
}

/// The filter `string`.
pub(super) fn to_text(value: &Value) -> Result<String, Error> {
    text(value)
}

/// `str(value)`; nothing for an undefined value, as in Jinja2.
fn text(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        _ => {
            let mut out = String::new();
            repr(value, &mut out, 0)?;
            Ok(out)
        }
    }
}

fn too_deep(depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("a value nested more than {MAX_DEPTH} deep")));
    }
    Ok(())
}

fn repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    too_deep(depth)?;
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)?),
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, element) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&element, out, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&key, out, depth + 1)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// Python's `repr` of a text: single quotes unless only those are inside, and what does not print escaped.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                let code = c as u32;
                let _ = if code < 0x100 { write!(out, "\\x{code:02x}") } else { write!(out, "\\u{code:04x}") };
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// A number as Python writes it: whole numbers plainly, floats with `.0` or a signed exponent of two digits.
fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let float = f64::try_from(value.clone())?;
    if float.is_nan() {
        return Ok("nan".to_owned());
    }
    if float.is_infinite() {
        return Ok(if float > 0.0 { "inf" } else { "-inf" }.to_owned());
    }
    let plain = format!("{float:?}");
    Ok(match plain.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => plain,
    })
}

/// How `json.dumps` is asked to write.
struct Json {
    ascii: bool,
    sort: bool,
    indent: Option<String>,
    between: String,
    colon: String,
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
    let mut out = String::new();
    json.write(value, &mut out, 0)?;
    Ok(Value::from(out))
}

impl Json {
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
                for key in value.try_iter()? {
                    pairs.push((key_text(&key)?, value.get_item(&key)?));
                }
                if self.sort {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
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
