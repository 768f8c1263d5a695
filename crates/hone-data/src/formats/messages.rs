//! Messages (OpenAI, Hugging Face): `messages`, a list of `{role, content}`. Content is text, `null` beside `tool_calls`, or
//! a list of `{type: text, text}` parts. Other fields of a message (`tool_calls`, `name`, `reasoning_content`) and the row's
//! `tools` go to the chat template.

use serde_json::{Map, Value};

use super::{Fields, Format, ReadOptions};
use crate::error::{RowError, describe};
use crate::example::{Body, Message};

pub(super) struct Messages;

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

impl Format for Messages {
    fn name(&self) -> &'static str {
        "messages"
    }

    fn columns(&self) -> &'static str {
        "`messages` (a list of `role` and `content`)"
    }

    fn fields(&self) -> &'static [&'static str] {
        &["messages", "tools"]
    }

    fn recognise(&self, row: &Fields) -> bool {
        let first = row.get("messages").and_then(Value::as_array).map(|m| m.first());
        first.is_some_and(|m| m.is_none_or(|m| m.get("role").is_some()))
    }

    fn read(&self, row: &Fields, _: &ReadOptions) -> Result<Body, Box<RowError>> {
        let column = row.column("messages");
        let messages = row.list("messages")?;
        Ok(Body::Conversation { messages: read_messages(row, column, messages)?, variables: tools(row)? })
    }
}

/// A list of `{role, content}` objects; `field` is its place in the row.
pub(super) fn read_messages(row: &Fields, field: &str, list: &[Value]) -> Result<Vec<Message>, Box<RowError>> {
    list.iter().enumerate().map(|(index, m)| read_message(row, &format!("{field}[{index}]"), m)).collect()
}

/// One `{role, content}` object.
pub(super) fn read_message(row: &Fields, field: &str, value: &Value) -> Result<Message, Box<RowError>> {
    let Value::Object(object) = value else {
        return Err(row.mistyped(field, value, "an object with `role` and `content`"));
    };
    let role = match object.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.clone(),
        other => {
            let found = other.map_or_else(|| "no such field".into(), describe);
            let next =
                "correct the role; for `from` and `value` instead of `role` and `content`, set `format: sharegpt`";
            let expected = format!("one of {}", ROLES.join(", "));
            return Err(row.error(Some(&format!("{field}.role")), found, expected, next));
        }
    };
    let calls = object.get("tool_calls").is_some_and(|c| !c.is_null());
    let content = match object.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => read_parts(row, &format!("{field}.content"), parts)?,
        None | Some(Value::Null) if calls => String::new(),
        other => {
            let found = other.map_or_else(|| "no such field".into(), describe);
            let next = "correct the row, or set `on_bad_row: skip` to leave such rows out";
            return Err(row.error(Some(&format!("{field}.content")), found, "text", next));
        }
    };
    // Parquet gives every message every field, `null` where it has none; templates ask whether a field is there.
    let extra = object.iter().filter(|(k, v)| !matches!(k.as_str(), "role" | "content") && !v.is_null());
    Ok(Message { role, content, extra: extra.map(|(k, v)| (k.clone(), v.clone())).collect() })
}

fn read_parts(row: &Fields, field: &str, parts: &[Value]) -> Result<String, Box<RowError>> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
            (Some("text"), Some(piece)) => text.push_str(piece),
            _ => {
                let expected = "a part of type `text`; images and audio are not read";
                return Err(row.mistyped(&format!("{field}[{index}]"), part, expected));
            }
        }
    }
    Ok(text)
}

/// The row's `tools` as a template variable: a list, or the text of one.
pub(super) fn tools(row: &Fields) -> Result<Map<String, Value>, Box<RowError>> {
    let mut variables = Map::new();
    let column = row.column("tools");
    let tools = match row.get("tools") {
        None => return Ok(variables),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(variables),
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|error| {
            let next = "write `tools` as a list of tool descriptions, or map the column away";
            row.error(Some(column), format!("text that is no JSON ({error})"), "a list of tools", next)
        })?,
        Some(other) => other.clone(),
    };
    match tools {
        Value::Array(list) if list.is_empty() => {}
        Value::Array(_) => drop(variables.insert("tools".into(), tools)),
        other => return Err(row.mistyped(column, &other, "a list of tools")),
    }
    Ok(variables)
}
