//! A loaded model as `hone-data` sees it: its tokenizer and its chat template.

use hone_data::{Abilities, Codec, CodecError, Encoded, Message};
use hone_model::{Model, template};
use serde_json::{Map, Value};

/// A model's tokenizer and chat template.
pub struct ModelCodec<'a>(pub &'a Model);

impl Codec for ModelCodec<'_> {
    fn encode(&self, text: &str, add_special: bool) -> Result<Encoded, CodecError> {
        let encoding = self.0.tokenizer.encode(text, add_special)?;
        Ok(Encoded { ids: encoding.ids, offsets: encoding.offsets })
    }

    fn token_text(&self, id: u32) -> String {
        self.0.tokenizer.id_to_token(id).unwrap_or_else(|| format!("<{id}>"))
    }

    fn render_chat(
        &self,
        messages: &[Message],
        variables: &Map<String, Value>,
        add_generation_prompt: bool,
    ) -> Result<String, CodecError> {
        let Some(template) = &self.0.template else {
            let reason = format!(
                "`{}` has no chat template; use an instruction-tuned model, or write a `prompt_template` and a \
                 `completion_template`",
                self.0.source.reference
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
        let source = self.0.template.as_ref().map(|t| t.source.as_str());
        Abilities { chat_template: source.is_some(), tool_calls: source.is_some_and(|s| s.contains("tool")) }
    }

    fn end_of_turn_ids(&self) -> &[u32] {
        &self.0.end_ids
    }

    fn bos(&self) -> Option<u32> {
        self.0.tokenizer.bos_id
    }

    fn eos(&self) -> Option<u32> {
        self.0.tokenizer.eos_id
    }

    fn max_length(&self) -> usize {
        self.0.spec.max_position_embeddings
    }
}
