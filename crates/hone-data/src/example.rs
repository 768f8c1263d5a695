//! Examples: what a row becomes once its format is understood, before any tokenizer sees it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Where an example came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceRef {
    /// The file.
    #[serde(serialize_with = "path_to_text", deserialize_with = "path_from_text")]
    pub file: Arc<Path>,
    /// Row in the file, from 1 (a CSV header is not a row).
    pub row: usize,
    /// Line the row starts on, from 1, in files that have lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

fn path_to_text<S: serde::Serializer>(path: &Arc<Path>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

fn path_from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Arc<Path>, D::Error> {
    Ok(PathBuf::deserialize(deserializer)?.into())
}

impl std::fmt::Display for SourceRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: row {}", self.file.display(), self.row)?;
        match self.line {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// The text.
    pub content: String,
    /// Anything else the message had (`tool_calls`, `name`, `reasoning_content`): handed to the chat template.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message without extras.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into(), extra: Map::new() }
    }

    /// Whether the message says nothing: neither text nor extras.
    pub fn is_empty(&self) -> bool {
        self.content.trim().is_empty() && self.extra.values().all(Value::is_null)
    }
}

/// What stands before the answers of a preference pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Plain text.
    Text(String),
    /// A conversation up to the answer.
    Conversation(Vec<Message>),
}

/// What an example says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Turns, to be rendered by the model's chat template.
    Conversation {
        /// The turns in order.
        messages: Vec<Message>,
        /// Further variables of the chat template: `tools`.
        variables: Map<String, Value>,
    },
    /// A text and how it goes on; no template.
    PromptCompletion {
        /// What the model is given.
        prompt: String,
        /// What it learns to write.
        completion: String,
    },
    /// Running text.
    Text(String),
    /// A prompt with a better and a worse answer.
    Preference {
        /// What both answers answer.
        prompt: Prompt,
        /// The better answer.
        chosen: String,
        /// The worse answer.
        rejected: String,
    },
}

impl Body {
    /// A conversation without template variables.
    pub fn conversation(messages: Vec<Message>) -> Body {
        Body::Conversation { messages, variables: Map::new() }
    }

    /// Whether there is nothing to learn: no text at all, or no answer.
    pub fn is_empty(&self) -> bool {
        match self {
            Body::Conversation { messages, .. } => {
                let mut answers = messages.iter().filter(|m| m.role == "assistant").peekable();
                // A conversation without any answer may still be trained on as a whole.
                let unanswered = answers.peek().is_some() && answers.all(Message::is_empty);
                unanswered || messages.iter().all(Message::is_empty)
            }
            Body::PromptCompletion { completion, .. } => completion.trim().is_empty(),
            Body::Text(text) => text.trim().is_empty(),
            Body::Preference { chosen, rejected, .. } => chosen.trim().is_empty() || rejected.trim().is_empty(),
        }
    }

    /// The texts of the example in order: messages' contents, prompt and completion, the text, prompt and both answers.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Body::Conversation { messages, .. } => messages.iter().map(|m| m.content.as_str()).collect(),
            Body::PromptCompletion { prompt, completion } => vec![prompt, completion],
            Body::Text(text) => vec![text],
            Body::Preference { prompt, chosen, rejected } => {
                let mut texts: Vec<&str> = match prompt {
                    Prompt::Text(text) => vec![text],
                    Prompt::Conversation(messages) => messages.iter().map(|m| m.content.as_str()).collect(),
                };
                texts.extend([chosen.as_str(), rejected.as_str()]);
                texts
            }
        }
    }
}

/// A row that was read and understood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Where it came from.
    pub source: SourceRef,
    /// Which entry of `data.mix` it belongs to; 0 where nothing is mixed.
    pub part: usize,
    /// Which of its row's wordings it is; 0 for the first, or the only one.
    #[serde(default)]
    pub wording: usize,
    /// What it says.
    pub body: Body,
}
