//! Text to ids and back, by Hugging Face's `tokenizers`.

use crate::error::ModelError;

/// A tokenizer with the special ids its model declares.
pub struct Tokenizer {
    /// The tokenizer itself.
    pub inner: tokenizers::Tokenizer,
    /// Beginning-of-text id, if declared.
    pub bos_id: Option<u32>,
    /// End-of-text id, if declared.
    pub eos_id: Option<u32>,
    /// Padding id, if declared.
    pub pad_id: Option<u32>,
}

/// Ids with the byte range of the text each came from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte offsets `(start, end)` into the text; `(0, 0)` for added special tokens.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// Encodes; `add_special_tokens` as in Hugging Face (BOS where the tokenizer adds one).
    pub fn encode(&self, _text: &str, _add_special_tokens: bool) -> Result<Encoding, ModelError> {
        todo!()
    }
    /// Decodes.
    pub fn decode(&self, _ids: &[u32], _skip_special_tokens: bool) -> Result<String, ModelError> {
        todo!()
    }
    /// The id of a token given by its exact text.
    pub fn token_to_id(&self, _token: &str) -> Option<u32> {
        todo!()
    }
    /// The text of an id as the vocabulary has it.
    pub fn id_to_token(&self, _id: u32) -> Option<String> {
        todo!()
    }
    /// Vocabulary size with added tokens.
    pub fn vocab_size(&self) -> usize {
        todo!()
    }
}
