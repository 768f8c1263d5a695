//! Generation: prompts in, tokens out, over the key–value cache.

use std::sync::Arc;

use hone_engine::DType;

use crate::context::Hooks;
use crate::error::ModelError;
use crate::model::Model;

/// How to pick the next token.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationConfig {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probabilities sum to at least this.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one.
    pub min_p: f32,
    /// Divides (positive) or multiplies (negative) logits of tokens seen; 1 is off.
    pub repetition_penalty: f32,
    /// Seed of the draws.
    pub seed: u64,
    /// Longest continuation.
    pub max_new_tokens: usize,
    /// Generation ends where one of these texts appears; the text is cut before it.
    pub stop: Vec<String>,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        GenerationConfig {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            max_new_tokens: 256,
            stop: Vec::new(),
        }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end-of-turn token.
    EndOfTurn,
    /// A stop text.
    Stop,
    /// `max_new_tokens` or the model's limit.
    Length,
}

/// One generated continuation.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Generation {
    /// The new tokens, the end-of-turn token not among them.
    pub ids: Vec<u32>,
    /// Their text, special tokens skipped, cut at the stop text.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Continues every prompt (token ids, any lengths) as one batch. `stream` is called with the prompt's index and each new
/// piece of text as it is decoded; returning `false` stops that prompt.
pub fn generate(
    _model: &Model,
    _hooks: Arc<dyn Hooks>,
    _dtype: DType,
    _prompts: &[Vec<u32>],
    _config: &GenerationConfig,
    _stream: &mut dyn FnMut(usize, &str) -> bool,
) -> Result<Vec<Generation>, ModelError> {
    todo!()
}
