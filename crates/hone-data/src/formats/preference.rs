//! Preference pairs: `chosen` and `rejected`, in the layouts in use:
//!
//! - `prompt`, `chosen`, `rejected` as texts;
//! - `prompt` as text or messages, `chosen` and `rejected` as lists of messages (TRL; the prompt's turns may be repeated
//!   in them, or stand only in them);
//! - `conversations` of `{from, value}`, `chosen` and `rejected` as one such turn (LLaMA-Factory);
//! - `chosen` and `rejected` as transcripts `\n\nHuman: …\n\nAssistant: …` without a prompt (HH-RLHF).
//!
//! Each becomes a prompt and two answers.

use serde_json::Value;

use super::messages::{read_message, read_messages};
use super::sharegpt::{read_turn, read_turns};
use super::{Fields, Format, ReadOptions};
use crate::error::RowError;
use crate::example::{Body, Message, Prompt};

pub(super) struct Preference;

const ONE_ANSWER: &str = "give both answers as one turn of the assistant after the same prompt";

impl Format for Preference {
    fn name(&self) -> &'static str {
        "preference"
    }

    fn columns(&self) -> &'static str {
        "`chosen` and `rejected`"
    }

    fn fields(&self) -> &'static [&'static str] {
        &["prompt", "conversations", "chosen", "rejected"]
    }

    fn recognise(&self, row: &Fields) -> bool {
        row.get("chosen").is_some() && row.get("rejected").is_some()
    }

    fn read(&self, row: &Fields, options: &ReadOptions) -> Result<Body, Box<RowError>> {
        let prompt = prompt(row, options)?;
        let chosen = side(row, "chosen", options)?;
        let rejected = side(row, "rejected", options)?;
        match (prompt, chosen, rejected) {
            (Some(prompt), Side::Text(chosen), Side::Text(rejected)) => {
                Ok(Body::Preference { prompt, chosen, rejected })
            }
            (None, Side::Text(chosen), Side::Text(rejected)) => transcripts(row, &chosen, &rejected),
            (prompt, Side::Turns(chosen), Side::Turns(rejected)) => turns(row, prompt, chosen, rejected),
            _ => {
                let found = "text on one side and messages on the other";
                Err(row.error(Some(row.column("rejected")), found, "both of one kind", ONE_ANSWER))
            }
        }
    }
}

enum Side {
    Text(String),
    Turns(Vec<Message>),
}

fn prompt(row: &Fields, options: &ReadOptions) -> Result<Option<Prompt>, Box<RowError>> {
    if row.is_list("conversations") {
        let turns = read_turns(row, row.column("conversations"), row.list("conversations")?, options)?;
        return Ok(Some(Prompt::Conversation(turns)));
    }
    match row.get("prompt") {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(Prompt::Conversation(read_messages(row, row.column("prompt"), list)?))),
        Some(_) => Ok(Some(Prompt::Text(row.text("prompt")?.into()))),
    }
}

fn side(row: &Fields, field: &str, options: &ReadOptions) -> Result<Side, Box<RowError>> {
    let column = row.column(field);
    match row.get(field) {
        Some(Value::Array(list)) => Ok(Side::Turns(read_messages(row, column, list)?)),
        Some(turn @ Value::Object(object)) if object.contains_key("from") => {
            Ok(Side::Turns(vec![read_turn(row, column, turn, options)?]))
        }
        Some(turn @ Value::Object(_)) => Ok(Side::Turns(vec![read_message(row, column, turn)?])),
        _ => Ok(Side::Text(row.text(field)?.into())),
    }
}

/// Both sides as turns: what they share belongs to the prompt, and one turn of the assistant must be left of each.
fn turns(
    row: &Fields,
    prompt: Option<Prompt>,
    mut chosen: Vec<Message>,
    mut rejected: Vec<Message>,
) -> Result<Body, Box<RowError>> {
    let last = |side: &mut Vec<Message>, field: &str| {
        let found = format!("{} messages", side.len());
        match side.pop() {
            Some(answer) if answer.role == "assistant" => Ok(answer.content),
            _ => Err(row.error(Some(row.column(field)), found, "the assistant's turn at the end", ONE_ANSWER)),
        }
    };
    let answers = (last(&mut chosen, "chosen")?, last(&mut rejected, "rejected")?);
    if chosen != rejected {
        let found = "other turns before the answer than in the chosen side";
        return Err(row.error(Some(row.column("rejected")), found, "the same turns", ONE_ANSWER));
    }
    let mut turns = match prompt {
        None => Vec::new(),
        Some(Prompt::Conversation(turns)) => turns,
        Some(Prompt::Text(text)) => vec![Message::new("user", text)],
    };
    // Some sets repeat the prompt on both sides, others do not.
    if !chosen.starts_with(&turns) {
        turns.append(&mut chosen);
    } else {
        turns = chosen;
    }
    if turns.is_empty() {
        let found = "no turn before the answers";
        return Err(row.error(Some(row.column("chosen")), found, "a prompt", ONE_ANSWER));
    }
    Ok(Body::Preference { prompt: Prompt::Conversation(turns), chosen: answers.0, rejected: answers.1 })
}

/// HH-RLHF's transcripts.
fn transcripts(row: &Fields, chosen: &str, rejected: &str) -> Result<Body, Box<RowError>> {
    let parse = |text: &str, field: &str| {
        transcript(text).ok_or_else(|| {
            let expected =
                "a `prompt` column beside it, or a transcript of `\\n\\nHuman: ` and `\\n\\nAssistant: ` turns";
            let next = "say which column the prompt is: `columns: {prompt: …}`";
            row.error(Some(row.column(field)), "an answer without its prompt", expected, next)
        })
    };
    let (chosen, rejected) = (parse(chosen, "chosen")?, parse(rejected, "rejected")?);
    turns(row, None, chosen, rejected)
}

fn transcript(text: &str) -> Option<Vec<Message>> {
    const SPEAKERS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];
    let mut messages = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (role, said) = SPEAKERS.iter().find_map(|(mark, role)| Some((*role, rest.strip_prefix(mark)?)))?;
        let end = SPEAKERS.iter().filter_map(|(mark, _)| said.find(mark)).min().unwrap_or(said.len());
        messages.push(Message::new(role, said[..end].trim()));
        rest = &said[end..];
    }
    Some(messages)
}
