//! ShareGPT: `conversations`, a list of `{from, value}`, with the speakers of the many sets in this layout; optional
//! `system` and `tools` columns (LLaMA-Factory).
//!
//! A `function_call` turn becomes the assistant's `tool_calls` where the model's chat template shows those, else the
//! assistant's text; an `observation` becomes a `tool` message.

use serde_json::{Map, Value, json};

use super::messages::tools;
use super::{Fields, Format, ReadOptions};
use crate::error::{RowError, describe};
use crate::example::{Body, Message};

pub(super) struct ShareGpt;

/// Speakers and the roles they stand for.
const SPEAKERS: [(&str, &str); 15] = [
    ("human", "user"),
    ("user", "user"),
    ("prompter", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("model", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("system", "system"),
    ("function_call", "assistant"),
    ("observation", "tool"),
    ("tool", "tool"),
    ("function", "tool"),
    ("function_response", "tool"),
];

impl Format for ShareGpt {
    fn name(&self) -> &'static str {
        "sharegpt"
    }

    fn columns(&self) -> &'static str {
        "`conversations` (a list of `from` and `value`)"
    }

    fn fields(&self) -> &'static [&'static str] {
        &["conversations", "system", "tools"]
    }

    fn recognise(&self, row: &Fields) -> bool {
        let first = row.get("conversations").and_then(Value::as_array).map(|m| m.first());
        first.is_some_and(|m| m.is_none_or(|m| m.get("from").is_some()))
    }

    fn read(&self, row: &Fields, options: &ReadOptions) -> Result<Body, Box<RowError>> {
        let turns = row.list("conversations")?;
        let mut messages = read_turns(row, row.column("conversations"), turns, options)?;
        if let Some(system) = row.optional_text("system")?.filter(|s| !s.is_empty()) {
            messages.insert(0, Message::new("system", system));
        }
        Ok(Body::Conversation { messages, variables: tools(row)? })
    }
}

/// A list of `{from, value}` objects; `field` is its place in the row.
pub(super) fn read_turns(
    row: &Fields,
    field: &str,
    turns: &[Value],
    options: &ReadOptions,
) -> Result<Vec<Message>, Box<RowError>> {
    turns.iter().enumerate().map(|(i, t)| read_turn(row, &format!("{field}[{i}]"), t, options)).collect()
}

/// One `{from, value}` object.
pub(super) fn read_turn(
    row: &Fields,
    field: &str,
    turn: &Value,
    options: &ReadOptions,
) -> Result<Message, Box<RowError>> {
    let Value::Object(object) = turn else {
        return Err(row.mistyped(field, turn, "an object with `from` and `value`"));
    };
    let speaker = object.get("from").and_then(Value::as_str);
    let Some((speaker, role)) = SPEAKERS.iter().find(|(s, _)| speaker == Some(s)) else {
        let found = object.get("from").map_or_else(|| "no such field".into(), describe);
        let known = SPEAKERS.map(|(s, _)| s).join(", ");
        let next = "correct the speaker; for `role` and `content` instead of `from` and `value`, set `format: messages` and \
                    `columns: {messages: conversations}`";
        return Err(row.error(Some(&format!("{field}.from")), found, format!("one of {known}"), next));
    };
    let Some(Value::String(value)) = object.get("value") else {
        let found = object.get("value").map_or_else(|| "no such field".into(), describe);
        let next = "correct the row, or set `on_bad_row: skip` to leave such rows out";
        return Err(row.error(Some(&format!("{field}.value")), found, "text", next));
    };
    if *speaker == "function_call"
        && options.abilities.tool_calls
        && let Some(calls) = tool_calls(value)
    {
        let extra = Map::from_iter([("tool_calls".to_string(), calls)]);
        return Ok(Message { role: (*role).into(), content: String::new(), extra });
    }
    Ok(Message::new(*role, value.as_str()))
}

/// The call (or list of calls) `{name, arguments}` in the form templates read.
fn tool_calls(value: &str) -> Option<Value> {
    let calls = match serde_json::from_str(value).ok()? {
        Value::Array(calls) => calls,
        one => vec![one],
    };
    let call = |call: &Value| {
        call.get("name")?.as_str()?;
        Some(json!({ "type": "function", "function": call }))
    };
    calls.iter().map(call).collect()
}
