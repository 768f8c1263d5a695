//! What an example says, as a hash: equal for examples that differ in white space alone. Duplicates are counted by it, and
//! the validation split is decided by it, so copies of an example are always on the same side.
//!
//! The hash is SHA-256 over the kind of the example and, for each text in order, its role and its words joined by single
//! spaces; `tool_calls` and other extras count as well. Letter case counts.

use sha2::{Digest, Sha256};

use crate::example::{Body, Message, Prompt};
use crate::readers::Row;
use crate::shots;

/// The first 16 bytes of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub [u8; 16]);

/// The hash of what an example says.
pub fn content_hash(body: &Body) -> ContentHash {
    let mut content = Content(Sha256::new());
    match body {
        Body::Conversation { messages, variables } => {
            content.field("conversation");
            messages.iter().for_each(|m| content.message(m));
            if !variables.is_empty() {
                content.field(&serde_json::Value::Object(variables.clone()).to_string());
            }
        }
        Body::PromptCompletion { prompt, completion } => {
            content.field("prompt_completion");
            content.words(prompt);
            content.words(completion);
        }
        Body::Text(text) => {
            content.field("text");
            content.words(text);
        }
        Body::Preference { prompt, chosen, rejected } => {
            content.field("preference");
            match prompt {
                Prompt::Text(text) => content.words(text),
                Prompt::Conversation(messages) => messages.iter().for_each(|m| content.message(m)),
            }
            content.words(chosen);
            content.words(rejected);
        }
    }
    content.end()
}

/// The hash of a row's columns but for `shots`: what a row with other rows in its prompt is told apart by, since what it says depends on
/// which of them were drawn.
pub fn row_hash(columns: &Row) -> ContentHash {
    let mut content = Content(Sha256::new());
    content.field("row");
    for (name, value) in columns.iter().filter(|(name, _)| *name != shots::COLUMN) {
        content.field(name);
        content.field(&value.to_string());
    }
    content.end()
}

struct Content(Sha256);

impl Content {
    fn end(self) -> ContentHash {
        let mut hash = [0; 16];
        hash.copy_from_slice(&self.0.finalize()[..16]);
        ContentHash(hash)
    }

    fn message(&mut self, message: &Message) {
        self.field(&message.role);
        self.words(&message.content);
        if !message.extra.is_empty() {
            self.field(&serde_json::Value::Object(message.extra.clone()).to_string());
        }
    }

    fn words(&mut self, text: &str) {
        for word in text.split_whitespace() {
            self.0.update(word.as_bytes());
            self.0.update(b" ");
        }
        // No UTF-8 text holds this byte, so the end of a field cannot be imitated.
        self.0.update([0xFF]);
    }

    fn field(&mut self, text: &str) {
        self.0.update(text.as_bytes());
        self.0.update([0xFF]);
    }
}
