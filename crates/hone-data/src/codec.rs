//! The border to the model: its tokenizer and its chat template, as the encoder needs them. `hone-train` implements
//! [`Codec`] over a loaded model; this crate knows neither.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::error::CodecError;
use crate::example::Message;
use crate::spans::assistant_spans;

/// Token ids with the byte range of the text each came from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte offsets `(start, end)` into the text, one a token; `(0, 0)` for tokens the tokenizer added.
    pub offsets: Vec<(usize, usize)>,
}

/// What a model can render: decides how rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It has a chat template.
    pub chat_template: bool,
    /// The chat template shows `tools` and `tool_calls`.
    pub tool_calls: bool,
}

/// A model's tokenizer and chat template.
pub trait Codec: Sync {
    /// Text to ids; `add_special` adds what the tokenizer adds by itself (BOS), as in Hugging Face.
    fn encode(&self, text: &str, add_special: bool) -> Result<Encoded, CodecError>;

    /// How one token is written, special tokens included (`<|im_end|>`): for showing only.
    fn token_text(&self, id: u32) -> String;

    /// Renders a conversation by the model's chat template; `add_generation_prompt` opens the assistant's turn;
    /// `variables` are further template variables (`tools`). Fails where there is no template.
    fn render_chat(
        &self,
        messages: &[Message],
        variables: &Map<String, Value>,
        add_generation_prompt: bool,
    ) -> Result<String, CodecError>;

    /// The rendered conversation and the byte ranges of the assistant's turns in it, end-of-turn marker included: what
    /// the model itself has to write. Found from the template by rendering it several times, see [`assistant_spans`].
    fn render_chat_spans(
        &self,
        messages: &[Message],
        variables: &Map<String, Value>,
    ) -> Result<(String, Vec<Range<usize>>), CodecError> {
        assistant_spans(messages, &|m, open| self.render_chat(m, variables, open))
    }

    /// What the model can render.
    fn abilities(&self) -> Abilities;

    /// Ids that end an assistant's turn.
    fn end_of_turn_ids(&self) -> &[u32];

    /// Beginning-of-text id.
    fn bos(&self) -> Option<u32>;

    /// End-of-text id: appended to completions and texts.
    fn eos(&self) -> Option<u32>;

    /// Longest sequence the model takes, in tokens.
    fn max_length(&self) -> usize;
}
