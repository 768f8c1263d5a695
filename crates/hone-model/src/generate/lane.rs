//! One continuation under way: its tokens, its place in the cache, its draws and its text.

use super::sampler::Sampler;
use super::text_stream::TextStream;
use super::{FinishReason, Generation, GenerationConfig, Wanted};
use crate::error::ModelError;
use crate::model::Model;

/// Tokens that prompt and continuation may have together, in a model with room for `room`.
pub(super) fn limit(room: usize, prompt: &[u32], config: &GenerationConfig) -> usize {
    prompt.len().saturating_add(config.max_new_tokens).min(room)
}

/// A continuation under way.
pub(super) struct Lane<'a> {
    /// Its place among those wanted.
    pub index: usize,
    /// What was asked for.
    pub wanted: Wanted,
    /// Its place in the cache.
    pub slot: usize,
    /// The prompt and what came after it.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// How many of `tokens` the cache holds.
    pub cached: usize,
    /// Most tokens.
    pub limit: usize,
    /// Picks its tokens.
    pub sampler: Sampler<'a>,
    text: TextStream<'a>,
}

impl<'a> Lane<'a> {
    /// The lane of a prompt, nothing of it read yet; the model has room for `room` tokens.
    pub fn new(
        model: &'a Model,
        config: &'a GenerationConfig,
        index: usize,
        wanted: Wanted,
        slot: usize,
        prompt: &[u32],
        room: usize,
    ) -> Self {
        Lane {
            index,
            wanted,
            slot,
            tokens: prompt.to_vec(),
            prompt: prompt.len(),
            cached: 0,
            limit: limit(room, prompt, config),
            sampler: Sampler::new(config, wanted, prompt),
            text: TextStream::new(&model.tokenizer, &config.stop),
        }
    }

    /// Takes the next token in; a reason if it ends the lane.
    pub fn take(
        &mut self,
        token: u32,
        model: &Model,
        stream: &mut dyn FnMut(usize, &str) -> bool,
    ) -> Result<Option<FinishReason>, ModelError> {
        if model.end_ids.contains(&token) {
            return Ok(Some(FinishReason::EndOfTurn));
        }
        self.tokens.push(token);
        if self.text.push(token)? {
            return Ok(Some(FinishReason::Stop));
        }
        let piece = self.text.take();
        if !piece.is_empty() && !stream(self.index, piece) {
            return Ok(Some(FinishReason::Cancelled));
        }
        Ok((self.tokens.len() >= self.limit).then_some(FinishReason::Length))
    }

    /// What it wrote. The last piece of text goes to `stream`.
    pub fn into_generation(
        mut self,
        mut finish_reason: FinishReason,
        stream: &mut dyn FnMut(usize, &str) -> bool,
    ) -> Result<Generation, ModelError> {
        let (last, stopped) = self.text.finish()?;
        if !last.is_empty() && finish_reason != FinishReason::Cancelled {
            stream(self.index, &last);
        }
        if stopped && finish_reason != FinishReason::Cancelled {
            finish_reason = FinishReason::Stop;
        }
        let ids = self.tokens.split_off(self.prompt);
        Ok(Generation { ids, text: self.text.text().to_owned(), finish_reason })
    }
}
