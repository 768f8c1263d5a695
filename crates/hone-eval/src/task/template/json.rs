//! JSON as `json.dumps` writes it, with sorted keys, ASCII alone, and escapes for what HTML would read.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::methods::failed;
use crate::python::literal;

/// Writes a value at a depth of at least 1; with `indent` spaces a level, each item on its own line.
pub(super) fn write_json(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > 100 {
        return Err(failed("a value is nested too deep for JSON"));
    }
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let between = |out: &mut String| out.push_str(if indent.is_some() { "," } else { ", " });
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&match literal::repr(value).as_str() {
            "nan" => "NaN".to_owned(),
            "inf" => "Infinity".into(),
            "-inf" => "-Infinity".into(),
            number => number.into(),
        }),
        ValueKind::String => json_text(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    between(out);
                }
                line(out, depth);
                write_json(item, indent, depth + 1, out)?;
            }
            if !items.is_empty() {
                line(out, depth - 1);
            }
            out.push(']');
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            keys.sort();
            out.push('{');
            for (i, key) in keys.iter().enumerate() {
                if i > 0 {
                    between(out);
                }
                line(out, depth);
                match key.as_str() {
                    Some(text) => json_text(text, out),
                    None => {
                        out.push('"');
                        write_json(key, None, 100, out)?;
                        out.push('"');
                    }
                }
                out.push_str(": ");
                write_json(&value.get_item(key)?, indent, depth + 1, out)?;
            }
            if !keys.is_empty() {
                line(out, depth - 1);
            }
            out.push('}');
        }
        _ => return Err(failed(format!("{} is no JSON", literal::repr(value)))),
    }
    Ok(())
}

fn json_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '<' | '>' | '&' | '\'' => out.push_str(&format!("\\u{:04x}", c as u32)),
            ' '..='\x7f' => out.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    out.push('"');
}
