//! A loaded model as `hone-data` sees it: its tokenizer and its chat template.

use hone_data::{Abilities, Codec, CodecError, Encoded, Message};
use hone_model::{Model, template};
use serde_json::{Map, Value};

/// A model's tokenizer and chat template.
pub struct ModelCodec<'a> {
    model: &'a Model,
    virtual_tokens: usize,
}

impl<'a> ModelCodec<'a> {
    /// Of a model, which reads so many virtual tokens before every sequence.
    pub fn new(model: &'a Model, virtual_tokens: usize) -> ModelCodec<'a> {
        ModelCodec { model, virtual_tokens }
    }
}

impl Codec for ModelCodec<'_> {
    fn encode(&self, text: &str, add_special: bool) -> Result<Encoded, CodecError> {
        let encoding = self.model.tokenizer.encode(text, add_special)?;
        Ok(Encoded { ids: encoding.ids, offsets: encoding.offsets })
    }

    fn token_text(&self, id: u32) -> String {
        self.model.tokenizer.id_to_token(id).unwrap_or_else(|| format!("<{id}>"))
    }

    fn render_chat(
        &self,
        messages: &[Message],
        variables: &Map<String, Value>,
        add_generation_prompt: bool,
    ) -> Result<String, CodecError> {
        let Some(template) = &self.model.template else {
            let reason = format!(
                "`{}` has no chat template; use an instruction-tuned model, or write a `prompt_template` and a \
                 `completion_template`",
                self.model.source.reference
            );
            return Err(reason.into());
        };
        let message = |m: &Message| template::Message {
            role: m.role.clone(),
            content: m.content.clone(),
            extra: m.extra.clone(),
        };
        let messages: Vec<template::Message> = messages.iter().map(message).collect();
        Ok(template.render(&messages, add_generation_prompt, variables)?)
    }

    fn abilities(&self) -> Abilities {
        let source = self.model.template.as_ref().map(|t| t.source.as_str());
        Abilities { chat_template: source.is_some(), tool_calls: source.is_some_and(|s| s.contains("tool")) }
    }

    fn end_of_turn_ids(&self) -> &[u32] {
        &self.model.end_ids
    }

    fn bos(&self) -> Option<u32> {
        self.model.tokenizer.bos_id
    }

    fn eos(&self) -> Option<u32> {
        self.model.tokenizer.eos_id
    }

    fn max_length(&self) -> usize {
        self.model.room_behind(self.virtual_tokens)
    }
}
