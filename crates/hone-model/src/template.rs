//! Chat templates: Jinja as Hugging Face's `apply_chat_template` renders it.

use crate::error::ModelError;

/// A message of a conversation. Extra fields (tool calls …) are handed to the template as they are.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// The text.
    pub content: String,
    /// Anything else the row had.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// A compiled chat template.
pub struct ChatTemplate {
    /// The template's source.
    pub source: String,
}

impl ChatTemplate {
    /// Renders a conversation; `add_generation_prompt` opens the assistant's turn. `variables` are further template
    /// variables (`tools`, `enable_thinking`).
    pub fn render(
        &self,
        _messages: &[Message],
        _add_generation_prompt: bool,
        _variables: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String, ModelError> {
        todo!()
    }
}
