//! Generation: prompts in, tokens out, over the key–value cache.
//!
//! Every prompt is a lane with its own length and its own slot of the cache. A step feeds each lane what the cache does not
//! hold yet: one token of a running continuation, a piece of a prompt that is still being read. A lane that ends
//! leaves at once and the next prompt takes its slot, so memory is bounded by the slots whatever the number of prompts,
//! and no lane ever computes padding. A beginning that all prompts share (a system prompt, examples) is read once. What a
//! lane gets depends on its own prompt, index and settings only: asked for again without the others ([`generate_each`]), it is
//! the same.

mod lane;
mod sampler;
mod text_stream;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use hone_engine::ops::{CacheLane, Segment, head_logits};
use hone_engine::{DType, awake};
use rayon::prelude::*;

use crate::cache::{CacheStep, KvCache};
use crate::context::{Context, Hooks, Sharing, TokenBatch};
use crate::error::ModelError;
use crate::model::Model;
use lane::{Lane, limit};

/// Tokens of a prompt that are read at a time: bounds the activations of a long prompt.
const PROMPT_PIECE: usize = 256;
/// Tokens of a forward pass, as far as prompts being read can choose.
const STEP_TOKENS: usize = 512;
/// A common beginning of the prompts is read once if it has at least this many tokens.
const SHARED_TOKENS: usize = 16;
/// Continuations that run at once.
const MAX_LANES: usize = 64;
/// Bytes of keys and values that several lanes may take together; one lane may take what it needs.
const CACHE_BYTES: usize = 1 << 30;

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
    /// The caller's stream function said so.
    Cancelled,
}

/// One generated continuation.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Generation {
    /// The new tokens, the end-of-turn token not among them, those of a stop text among them.
    pub ids: Vec<u32>,
    /// Their text, special tokens skipped, cut at the stop text.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// A continuation that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its prompt, by the index among those given.
    pub prompt: usize,
    /// Seed of its draws, which depend on the prompt's index besides.
    pub seed: u64,
    /// The group of its rows in a batch, for edits that differ by group; where one is said, it is said of all.
    pub group: Option<u32>,
}

/// What becomes of a continuation.
#[derive(Debug)]
pub enum Event<'a> {
    /// A new piece of its text.
    Piece(&'a str),
    /// It ended.
    Ended(Generation),
}

impl GenerationConfig {
    /// Whether every setting makes sense.
    pub fn check(&self) -> Result<(), ModelError> {
        let wrong = |field: &str, found: f32, expected: &str| ModelError::Setting {
            field: field.to_owned(),
            found: found.to_string(),
            expected: expected.to_owned(),
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(wrong("temperature", self.temperature, "0 (greedy) or a positive number"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(wrong("top_p", self.top_p, "above 0, up to 1 (off)"));
        }
        if !(self.min_p >= 0.0 && self.min_p <= 1.0) {
            return Err(wrong("min_p", self.min_p, "0 (off) to 1"));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return Err(wrong("repetition_penalty", self.repetition_penalty, "a positive number, 1 is off"));
        }
        Ok(())
    }
}

/// Continues every prompt (token ids, any lengths) as one batch. `stream` is called with the prompt's index and each new
/// piece of text as it is decoded; returning `false` stops that prompt.
///
/// An empty prompt, one longer than the model's limit (less virtual tokens), or a setting out of range is an error before
/// anything runs. Virtual tokens that depend on a sequence's input are made of its whole prompt.
pub fn generate(
    model: &Model,
    hooks: Arc<dyn Hooks>,
    dtype: DType,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
    stream: &mut dyn FnMut(usize, &str) -> bool,
) -> Result<Vec<Generation>, ModelError> {
    let wanted: Vec<Wanted> =
        (0..prompts.len()).map(|prompt| Wanted { prompt, seed: config.seed, group: None }).collect();
    let mut done: Vec<Option<Generation>> = vec![None; prompts.len()];
    generate_each(model, hooks, dtype, prompts, &wanted, config, &mut |index, event| match event {
        Event::Piece(piece) => stream(index, piece),
        Event::Ended(generation) => {
            done[index] = Some(generation);
            true
        }
    })?;
    Ok(done.into_iter().flatten().collect())
}

/// Makes the continuations that are `wanted`, about in this order, and hands over each as soon as it ends: `on` is called with
/// its place in `wanted`. Returning `false` ends this continuation at a piece of text, and all of them where one ended: those
/// under way are dropped.
///
/// Every continuation has its own seed in place of the settings'. Of a prompt several may be wanted, and of some prompts none: what
/// is wanted besides it never changes a continuation. Errors are those of [`generate`].
///
/// Panics on a prompt that was not given.
pub fn generate_each(
    model: &Model,
    hooks: Arc<dyn Hooks>,
    dtype: DType,
    prompts: &[Vec<u32>],
    wanted: &[Wanted],
    config: &GenerationConfig,
    on: &mut dyn FnMut(usize, Event<'_>) -> bool,
) -> Result<(), ModelError> {
    config.check()?;
    let virtual_tokens = hooks.virtual_tokens();
    let own_virtual_tokens = hooks.virtual_token_sharing() == Sharing::Sequence;
    model.check_batch(&TokenBatch::from_sequences(prompts), virtual_tokens)?;
    if wanted.is_empty() {
        return Ok(());
    }
    let room = model.room_behind(virtual_tokens);
    let longest = prompts.iter().map(|prompt| limit(room, prompt, config)).max().unwrap_or(0) + virtual_tokens;
    let passes = 1 + usize::from(hooks.wants_first_pass());
    let affordable = CACHE_BYTES / (passes * KvCache::bytes(&model.spec, longest.max(1), dtype)).max(1);
    let slots = wanted.len().min(MAX_LANES).min(affordable.max(1));
    // What stands before the common beginning has to be common as well. It is that of all prompts, wanted or not, so that a lane
    // reads the same pieces whatever else is wanted.
    let own_edits = wanted.iter().any(|wanted| wanted.group.is_some());
    let shared = if own_virtual_tokens || own_edits { 0 } else { shared_prefix(prompts) };
    // The common beginning has a slot of its own, after the others.
    let cache = KvCache::of_passes(passes, &model.spec, slots + usize::from(shared > 0), longest, dtype);
    let step = Arc::new(Mutex::new(CacheStep { cache, lanes: Vec::new() }));
    let mut cx = Context::inference(hooks, dtype);
    cx.cache = Some(step.clone());
    read_prefix(model, &cx, &prompts.first().map_or(&[][..], Vec::as_slice)[..shared], slots);

    let mut waiting: VecDeque<usize> = (0..wanted.len()).collect();
    let mut free: Vec<usize> = (0..slots).rev().collect();
    let mut lanes: Vec<Lane> = Vec::new();
    loop {
        while let (false, Some(&slot)) = (waiting.is_empty(), free.last()) {
            let Some(index) = waiting.pop_front() else { break };
            let mut lane = Lane::new(model, config, index, wanted[index], slot, &prompts[wanted[index].prompt], room);
            if lane.tokens.len() >= lane.limit {
                if !hand_over(lane, FinishReason::Length, on)? {
                    return Ok(());
                }
                continue;
            }
            free.pop();
            if shared > 0 {
                lock(&step).cache.copy(slots, slot, virtual_tokens + shared);
                lane.cached = shared;
            }
            lanes.push(lane);
        }
        if lanes.is_empty() {
            return Ok(());
        }
        let mut stream = |index: usize, piece: &str| on(index, Event::Piece(piece));
        let mut finished = awake(|| step_lanes(model, &cx, &mut lanes, &mut stream))?;
        finished.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        let mut goes_on = true;
        for (at, reason) in finished {
            let lane = lanes.remove(at);
            free.push(lane.slot);
            // All that ended are handed over, whatever is said to the first.
            goes_on &= hand_over(lane, reason, on)?;
        }
        if !goes_on {
            return Ok(());
        }
    }
}

/// Gives away what a lane wrote; whether the others go on.
fn hand_over(
    lane: Lane<'_>,
    reason: FinishReason,
    on: &mut dyn FnMut(usize, Event<'_>) -> bool,
) -> Result<bool, ModelError> {
    let index = lane.index;
    let generation = lane.into_generation(reason, &mut |index, piece| on(index, Event::Piece(piece)))?;
    Ok(on(index, Event::Ended(generation)))
}

/// Tokens with which all prompts begin, if reading them once saves anything. Every prompt keeps one of its own to read.
fn shared_prefix(prompts: &[Vec<u32>]) -> usize {
    let Some((first, others)) = prompts.split_first() else { return 0 };
    let common = |other: &Vec<u32>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    let longest = prompts.iter().map(|prompt| prompt.len() - 1).min().unwrap_or(0);
    let shared = others.iter().map(common).fold(longest, usize::min);
    if others.is_empty() || shared < SHARED_TOKENS { 0 } else { shared }
}

/// Reads `tokens` into `slot` of the cache.
fn read_prefix(model: &Model, cx: &Context, tokens: &[u32], slot: usize) {
    for (piece, ids) in tokens.chunks(PROMPT_PIECE).enumerate() {
        let past = piece * PROMPT_PIECE;
        let mut batch = TokenBatch::default();
        let lane = push_lane(&mut batch, ids, slot, past);
        set_lanes(cx, vec![lane]);
        model.decoder.hidden(cx, &batch);
    }
}

/// Adds tokens that come after `past` others of their sequence.
fn push_lane(batch: &mut TokenBatch, ids: &[u32], slot: usize, past: usize) -> CacheLane {
    let (start, len) = (batch.len(), ids.len());
    batch.ids.extend_from_slice(ids);
    batch.positions.extend(past as u32..(past + len) as u32);
    batch.segments.push(Segment { start, len, parent: None });
    CacheLane { start, len, slot, past }
}

/// One forward pass over what the lanes' caches lack, and a token more for each lane whose prompt is read. Returns the
/// lanes that ended (by place in `lanes`) and why.
fn step_lanes(
    model: &Model,
    cx: &Context,
    lanes: &mut [Lane],
    stream: &mut dyn FnMut(usize, &str) -> bool,
) -> Result<Vec<(usize, FinishReason)>, ModelError> {
    let mut batch = TokenBatch::default();
    let mut cache_lanes = Vec::new();
    let mut ready = Vec::new();
    let mut rows = Vec::new();
    for (at, lane) in lanes.iter_mut().enumerate() {
        let missing = lane.tokens.len() - lane.cached;
        // Pieces of a prompt are cut at places of its own, never to fill up a step.
        let len = missing.min(PROMPT_PIECE);
        if missing > 1 && !batch.is_empty() && batch.len() + len > STEP_TOKENS {
            continue;
        }
        let past = lane.cached;
        if cx.hooks.virtual_token_sharing() == Sharing::Sequence {
            batch.inputs.push(lane.tokens[..lane.prompt].to_vec());
        }
        cache_lanes.push(push_lane(&mut batch, &lane.tokens[past..past + len], lane.slot, past));
        batch.groups.extend(lane.wanted.group);
        lane.cached += len;
        if len == missing {
            ready.push(at);
            rows.push((batch.len() - 1) as u32);
        }
    }
    set_lanes(cx, cache_lanes);
    let hidden = model.decoder.hidden(cx, &batch).value;
    if ready.is_empty() {
        return Ok(Vec::new());
    }
    let mut logits = head_logits(&hidden, &model.decoder.head(cx), &rows, model.spec.logit_soft_cap);
    let mut readers: Vec<&mut Lane> = Vec::with_capacity(ready.len());
    let mut next_ready = ready.iter().copied().peekable();
    for (at, lane) in lanes.iter_mut().enumerate() {
        if next_ready.next_if_eq(&at).is_some() {
            readers.push(lane);
        }
    }
    let vocabulary = model.spec.vocab_size;
    let next: Vec<Option<u32>> = logits
        .as_mut_slice::<f32>()
        .par_chunks_mut(vocabulary)
        .zip(readers.par_iter_mut())
        .map(|(row, lane)| {
            let step = lane.tokens.len() - lane.prompt;
            lane.sampler.next(row, step)
        })
        .collect();
    let mut finished = Vec::new();
    for ((at, lane), token) in ready.into_iter().zip(readers).zip(next) {
        let Some(token) = token else {
            return Err(ModelError::NoFiniteLogits { prompt: lane.wanted.prompt, position: lane.tokens.len() });
        };
        if let Some(reason) = lane.take(token, model, stream)? {
            finished.push((at, reason));
        }
    }
    Ok(finished)
}

fn set_lanes(cx: &Context, lanes: Vec<CacheLane>) {
    if let Some(step) = &cx.cache {
        lock(step).lanes = lanes;
    }
}

fn lock(step: &Mutex<CacheStep>) -> MutexGuard<'_, CacheStep> {
    step.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
