//! A conversation as the model reads it, and which of its tokens are the user's words and which the assistant's.
//!
//! With a chat template it is what the template writes; without one the messages stand below each other with an empty line
//! between them. Words are what [`crate::prompt`] says they are: no line breaks, no special tokens, not the first token.

use std::ops::Range;
use std::path::Path;

use hone_data::config::{ChatUse, SourceConfig};
use hone_data::formats::{DETECTION_ROWS, Interpreter};
use hone_data::readers::{RawRow, ReaderOptions, Row, open, resolve};
use hone_data::{Abilities, Body};
use hone_eval::requests::Encoder;
use hone_model::Model;
use hone_model::template::Message;
use serde_json::Map;

use crate::error::LocateError;
use crate::prompt::{Form, content_span, template_of, words_in};

/// Between messages where no template writes anything.
const BETWEEN: &str = "\n\n";

/// A row of a data file that is a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// The row's number in its file, from 1.
    pub id: String,
    /// Its columns.
    pub row: Row,
    /// What was said.
    pub messages: Vec<Message>,
}

/// The first `limit` rows of a data file in any format of conversations, instructions, or prompts with completions.
///
/// # Errors
/// Files that cannot be read, rows of no such format.
pub fn of_file(path: &Path, limit: usize) -> Result<Vec<Conversation>, LocateError> {
    let source = SourceConfig { chat_template: ChatUse::Always, ..SourceConfig::default() };
    let abilities = Abilities { chat_template: true, tool_calls: true };
    let interpreter = Interpreter::new(&source, abilities, "")?;
    let mut all = Vec::new();
    for file in resolve(&[path.to_string_lossy().into_owned()], Path::new(""), None)? {
        let left = limit - all.len();
        let rows: Vec<RawRow> = open(&file, &ReaderOptions::default())?.take(left).collect::<Result<_, _>>()?;
        if rows.is_empty() {
            continue;
        }
        let reading = interpreter.detect(&file.path, &rows[..rows.len().min(DETECTION_ROWS)])?;
        for row in rows {
            let body = reading.read(&row).map_err(hone_data::DataError::from)?.into_iter().next();
            let Some(Body::Conversation { messages, .. }) = body else {
                let place = row.source.to_string();
                let problem = format!(
                    "rows of the format `{}` are no conversations; name the columns with `--question` and `--answer`",
                    reading.detection.format
                );
                return Err(LocateError::Row { place, problem });
            };
            let message = |m: hone_data::Message| Message { role: m.role, content: m.content, extra: m.extra };
            let messages = messages.into_iter().map(message).collect();
            all.push(Conversation { id: row.source.row.to_string(), row: row.columns, messages });
        }
    }
    Ok(all)
}

/// A conversation as ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Spoken {
    /// Ids, cut to the length wanted.
    pub ids: Vec<u32>,
    /// Which tokens are a user's words.
    pub user: Vec<bool>,
    /// The assistant's turns, in order: the tokens that are its words; nothing of a turn that was cut.
    pub turns: Vec<Vec<usize>>,
}

/// Writes a conversation for the encoder's model, at most `longest` tokens of it.
///
/// # Errors
/// A template that refuses the conversation, or does not show its messages as they are.
pub fn spoken(
    conversation: &Conversation,
    form: Form,
    model: &Model,
    encoder: &Encoder<'_>,
    longest: usize,
) -> Result<Spoken, LocateError> {
    let messages = &conversation.messages;
    let problem = |problem: String| LocateError::Row { place: format!("row {}", conversation.id), problem };
    let (text, spans) = match form {
        Form::Plain => plain(messages),
        Form::Chat => {
            let template = template_of(model)?;
            let render =
                |messages: &[Message]| template.render(messages, false, &Map::new()).map_err(LocateError::from);
            let text = render(messages).map_err(|error| problem(error.to_string()))?;
            let span = |index: usize| {
                content_span(messages, index, &text, &render).ok_or_else(|| {
                    problem(format!(
                        "the chat template does not show message {} as one piece; measure without it (`--chat-template off`)",
                        index + 1
                    ))
                })
            };
            let spans = (0..messages.len()).map(span).collect::<Result<_, _>>()?;
            (text, spans)
        }
    };
    let encoding = encoder.encoding(&text)?;
    let by_role = |role: &str| -> Vec<Range<usize>> {
        let of_role = messages.iter().zip(&spans).filter(|(message, _)| message.role == role);
        of_role.map(|(_, span)| span.clone()).collect()
    };
    let words = |spans: &[Range<usize>]| words_in(&text, &encoding, spans, &model.tokenizer);
    let mut user = words(&by_role("user"));
    let turn = |span: Range<usize>| -> Vec<usize> {
        let flags = words(&[span]);
        let own: Vec<usize> = (0..flags.len()).filter(|at| flags[*at]).collect();
        match own.last() {
            Some(last) if *last >= longest => Vec::new(),
            _ => own,
        }
    };
    let turns = by_role("assistant").into_iter().map(turn).collect();
    let mut ids = encoding.ids.clone();
    ids.truncate(longest);
    user.truncate(longest);
    Ok(Spoken { ids, user, turns })
}

/// The messages below each other, and where each stands.
fn plain(messages: &[Message]) -> (String, Vec<Range<usize>>) {
    let mut text = String::new();
    let mut spans = Vec::new();
    for message in messages {
        if !text.is_empty() {
            text.push_str(BETWEEN);
        }
        let start = text.len();
        text.push_str(message.content.trim());
        spans.push(start..text.len());
    }
    (text, spans)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::message;

    #[test]
    fn messages_stand_below_each_other() {
        let (text, spans) = plain(&[message("user", " Who? "), message("assistant", "Ann.")]);
        assert_eq!(text, "Who?\n\nAnn.");
        assert_eq!(spans, [0..4, 6..10]);
    }

    #[test]
    fn any_format_of_questions_and_answers_is_read() {
        let file = tempfile::NamedTempFile::with_suffix(".jsonl").unwrap();
        let rows = [
            r#"{"instruction": "Add.", "input": "1 2", "output": "3", "more": true}"#,
            r#"{"instruction": "Greet.", "input": "", "output": "Hello."}"#,
        ];
        std::fs::write(file.path(), rows.join("\n")).unwrap();
        let all = of_file(file.path(), 9).unwrap();
        assert_eq!((all.len(), all[0].messages.len(), all[0].row["more"].as_bool()), (2, 2, Some(true)));
        assert_eq!((all[1].messages[1].role.as_str(), all[1].messages[1].content.as_str()), ("assistant", "Hello."));
        assert_eq!(of_file(file.path(), 1).unwrap().len(), 1);
        std::fs::write(file.path(), r#"{"text": "Once upon a time."}"#).unwrap();
        let error = of_file(file.path(), 9).unwrap_err().to_string();
        assert!(error.contains("no conversations") && error.contains("row 1"), "{error}");
    }
}
