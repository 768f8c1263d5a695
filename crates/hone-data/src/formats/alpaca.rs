//! Alpaca (Taori et al. 2023): `instruction`, `input` (may be empty), `output`; also LLaMA-Factory's `system` and `history`
//! (pairs of earlier turns).
//!
//! With a chat template the user's turn is the instruction and, after an empty line, the input. Without one the prompt is
//! the text Alpaca was trained with.

use serde_json::Value;

use super::{Fields, Format, ReadOptions};
use crate::error::RowError;
use crate::example::{Body, Message};

pub(super) struct Alpaca;

impl Format for Alpaca {
    fn name(&self) -> &'static str {
        "alpaca"
    }

    fn columns(&self) -> &'static str {
        "`instruction` and `output`"
    }

    fn fields(&self) -> &'static [&'static str] {
        &["instruction", "input", "output", "system", "history"]
    }

    fn recognise(&self, row: &Fields) -> bool {
        row.is_text("instruction") && row.is_text("output")
    }

    fn read(&self, row: &Fields, options: &ReadOptions) -> Result<Body, Box<RowError>> {
        let instruction = row.text("instruction")?;
        let input = row.optional_text("input")?.unwrap_or_default();
        let output = row.text("output")?;
        let system = row.optional_text("system")?.filter(|s| !s.is_empty());
        let history = history(row)?;
        if output.trim().is_empty() {
            return Ok(Body::PromptCompletion { prompt: instruction.into(), completion: String::new() });
        }
        if options.instructions_as_chat() {
            let user = match input.trim().is_empty() {
                true => instruction.to_string(),
                false => format!("{instruction}\n\n{input}"),
            };
            let mut messages: Vec<Message> = system.map(|s| Message::new("system", s)).into_iter().collect();
            for (asked, answered) in history {
                messages.extend([Message::new("user", asked), Message::new("assistant", answered)]);
            }
            messages.extend([Message::new("user", user), Message::new("assistant", output)]);
            return Ok(Body::conversation(messages));
        }
        if !history.is_empty() {
            let next = "use a model with a chat template, or write a `prompt_template` and a `completion_template`";
            return Err(row.error(Some(row.column("history")), "earlier turns", "none without a chat template", next));
        }
        let system = system.map_or_else(String::new, |s| format!("{s}\n\n"));
        let prompt = match input.trim().is_empty() {
            true => format!(
                "{system}Below is an instruction that describes a task. Write a response that appropriately completes the \
                 request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
            ),
            false => format!(
                "{system}Below is an instruction that describes a task, paired with an input that provides further \
                 context. Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n\
                 ### Input:\n{input}\n\n### Response:\n"
            ),
        };
        Ok(Body::PromptCompletion { prompt, completion: output.into() })
    }
}

fn history<'a>(row: &Fields<'a>) -> Result<Vec<(&'a str, &'a str)>, Box<RowError>> {
    let Some(value) = row.get("history") else { return Ok(Vec::new()) };
    let column = row.column("history");
    let turns = value.as_array().ok_or_else(|| row.mistyped(column, value, "a list of [user, assistant] pairs"))?;
    let pair = |(index, turn): (usize, &'a Value)| match turn.as_array().map(Vec::as_slice) {
        Some([Value::String(asked), Value::String(answered)]) => Ok((asked.as_str(), answered.as_str())),
        _ => Err(row.mistyped(&format!("{column}[{index}]"), turn, "a pair of texts [user, assistant]")),
    };
    turns.iter().enumerate().map(pair).collect()
}
