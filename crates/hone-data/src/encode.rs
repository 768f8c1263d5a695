//! Encoding: an example becomes token ids and, for each token, whether it is trained.
//!
//! The text is tokenised as a whole, never piece by piece, so training reads the very tokens the model meets at inference.
//! A token is trained if its byte range **starts** inside a trained span; a token that crosses into a span from before it is
//! not, one that crosses out of it is. The first token of a sequence is never trained: nothing predicts it.
//!
//! | example | text | trained by default |
//! |---|---|---|
//! | conversation | the chat template's | the assistant's turns with their end-of-turn markers |
//! | prompt and completion | prompt, completion, end-of-text token | completion and end-of-text token |
//! | text | text, end-of-text token | all |
//!
//! White space at the end of a prompt counts as the start of its completion, as in lm-evaluation-harness: tokenizers bind it
//! to the word after it.

use std::ops::Range;

use rayon::prelude::*;

use crate::codec::{Codec, Encoded};
use crate::config::{DataConfig, TooLong, TrainOn};
use crate::drops::{DropReason, Drops};
use crate::error::{CodecError, DataError};
use crate::example::{Body, Example, SourceRef};

/// An example as the training loop reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenisedExample {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether each token is trained, that is: predicted from the tokens before it, with a loss. The first never is.
    pub trained: Vec<bool>,
    /// Where it came from.
    pub source: SourceRef,
    /// Which entry of `data.mix` it belongs to.
    pub part: usize,
    /// Which of its row's wordings it is; 0 for the first, or the only one.
    pub wording: usize,
    /// Tokens cut off to fit `max_length`.
    pub truncated: usize,
}

impl TokenisedExample {
    /// Whether it is the row of the data that `before`, its neighbour in the data, is, in other words.
    pub fn is_another_wording_of(&self, before: &TokenisedExample) -> bool {
        self.wording > 0 && (self.part, &self.source) == (before.part, &before.source)
    }

    /// Number of trained tokens.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().filter(|&&t| t).count()
    }
}

/// How examples are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Which tokens are trained; `None` for each kind's default.
    pub train_on: Option<TrainOn>,
    /// Longest sequence in tokens.
    pub max_length: usize,
    /// What happens to longer ones; `None` for each kind's default.
    pub too_long: Option<TooLong>,
}

impl EncodeOptions {
    /// As a recipe has them, for the model behind `codec`.
    pub fn new(config: &DataConfig, codec: &dyn Codec) -> Result<EncodeOptions, DataError> {
        let max_length = config.max_length_for(codec.max_length())?;
        Ok(EncodeOptions { train_on: config.train_on, max_length, too_long: config.too_long })
    }
}

/// What became of an example.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// One sequence, or several where it was split.
    Kept(Vec<TokenisedExample>),
    /// Nothing to train on.
    Dropped(DropReason, String),
}

/// An example's text as the model reads it, before tokenisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Byte ranges that are trained, in order.
    pub trained: Vec<Range<usize>>,
    /// Special tokens stand in the text (a chat template wrote them), so the tokenizer adds none and no end-of-text token is
    /// appended.
    pub templated: bool,
}

/// An example's tokens in full, before anything is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Marked {
    /// The text that was tokenised.
    pub text: String,
    /// Tokens and their byte ranges in the text (empty ranges for added special tokens).
    pub tokens: Encoded,
    /// Whether each token is trained.
    pub trained: Vec<bool>,
}

/// Renders an example and marks what is trained.
pub fn render(example: &Example, codec: &dyn Codec, train_on: Option<TrainOn>) -> Result<Rendered, DataError> {
    let all = |text: &str| std::iter::once(0..text.len()).collect();
    match &example.body {
        Body::Conversation { messages, variables } => {
            let failed = |error: CodecError| DataError::Codec {
                place: example.source.clone(),
                message: format!("the chat template failed: {error}"),
                next:
                    "check the order of the roles, use a model with a chat template that takes such conversations, or \
                       write a `prompt_template` and a `completion_template`"
                        .into(),
            };
            if train_on == Some(TrainOn::All) {
                let text = codec.render_chat(messages, variables, false).map_err(failed)?;
                return Ok(Rendered { trained: all(&text), text, templated: true });
            }
            let (text, mut trained) = codec.render_chat_spans(messages, variables).map_err(failed)?;
            if train_on == Some(TrainOn::Completion) {
                trained.drain(..trained.len().saturating_sub(1));
            }
            Ok(Rendered { text, trained, templated: true })
        }
        Body::PromptCompletion { prompt, completion } => {
            let text = format!("{prompt}{completion}");
            let from = if train_on == Some(TrainOn::All) { 0 } else { prompt.trim_end().len() };
            Ok(Rendered { trained: std::iter::once(from..text.len()).collect(), text, templated: false })
        }
        Body::Text(text) => match train_on {
            None | Some(TrainOn::All) => Ok(Rendered { trained: all(text), text: text.clone(), templated: false }),
            Some(_) => Err(DataError::config(
                "train_on",
                format!("`train_on: assistant` or `completion`, but {} is running text", example.source),
                "`all` for text, which has no answers",
                "remove `train_on`: every format then has its own default",
            )),
        },
        Body::Preference { .. } => Err(DataError::config(
            "format",
            format!("preference pairs ({})", example.source),
            "examples with one answer",
            "to train on the better answers, set `format: prompt_completion` and `columns: {completion: chosen}`",
        )),
    }
}

/// Tokenises a rendered example; appends the end-of-text token where no template ended the text.
pub fn mark(rendered: Rendered, codec: &dyn Codec) -> Result<Marked, CodecError> {
    let Rendered { text, trained: spans, templated } = rendered;
    let mut tokens = codec.encode(&text, !templated)?;
    let in_span = |&(start, end): &(usize, usize)| start < end && spans.iter().any(|s| s.contains(&start));
    let mut trained: Vec<bool> = tokens.offsets.iter().map(in_span).collect();
    if let (false, Some(eos)) = (templated, codec.eos()) {
        // Some tokenizers append it themselves; once is enough.
        if tokens.ids.last() != Some(&eos) {
            tokens.ids.push(eos);
            tokens.offsets.push((text.len(), text.len()));
            trained.push(true);
        } else if let Some(last) = trained.last_mut() {
            *last = true;
        }
    }
    if let Some(first) = trained.first_mut() {
        *first = false;
    }
    Ok(Marked { text, tokens, trained })
}

/// Encodes one example.
pub fn encode(example: &Example, codec: &dyn Codec, options: &EncodeOptions) -> Result<Outcome, DataError> {
    let rendered = render(example, codec, options.train_on)?;
    let marked = mark(rendered, codec).map_err(|error| DataError::Codec {
        place: example.source.clone(),
        message: format!("the tokenizer failed: {error}"),
        next: "look at the row for characters the tokenizer does not take".into(),
    })?;
    Ok(fit(marked.tokens.ids, marked.trained, example, codec.bos(), options))
}

/// Cuts a sequence to `max_length` as the options say.
fn fit(ids: Vec<u32>, trained: Vec<bool>, example: &Example, bos: Option<u32>, options: &EncodeOptions) -> Outcome {
    let length = ids.len();
    let limit = options.max_length;
    if !trained.contains(&true) {
        return Outcome::Dropped(DropReason::NoTrainedTokens, format!("none of its {length} tokens is trained"));
    }
    let one = |ids: Vec<u32>, mut trained: Vec<bool>, truncated: usize| {
        if let Some(first) = trained.first_mut() {
            *first = false;
        }
        let (source, part, wording) = (example.source.clone(), example.part, example.wording);
        TokenisedExample { ids, trained, source, part, wording, truncated }
    };
    if length <= limit {
        return Outcome::Kept(vec![one(ids, trained, 0)]);
    }
    let by_kind = if matches!(example.body, Body::Text(_)) { TooLong::Split } else { TooLong::TruncateRight };
    let pieces = match options.too_long.unwrap_or(by_kind) {
        TooLong::Drop => {
            let detail = format!("{length} tokens, `max_length` is {limit}");
            return Outcome::Dropped(DropReason::TooLong, detail);
        }
        TooLong::TruncateRight => vec![one(ids[..limit].to_vec(), trained[..limit].to_vec(), length - limit)],
        TooLong::TruncateLeft => {
            let head = usize::from(ids.first().copied() == bos && bos.is_some());
            let tail = length - (limit - head);
            let cut = |v: &mut Vec<_>| drop(v.drain(head..tail));
            let (mut ids, mut flags) = (ids, trained);
            cut(&mut ids);
            flags.drain(head..tail);
            vec![one(ids, flags, tail - head)]
        }
        TooLong::Split => ids
            .chunks(limit.max(1))
            .zip(trained.chunks(limit.max(1)))
            .map(|(ids, trained)| one(ids.to_vec(), trained.to_vec(), 0))
            .collect(),
    };
    let (mut kept, lost): (Vec<_>, Vec<_>) = pieces.into_iter().partition(|p| p.trained.contains(&true));
    match kept.last_mut() {
        Some(last) => last.truncated += lost.iter().map(|p| p.ids.len()).sum::<usize>(),
        None => {
            let detail = format!("{length} tokens, the trained ones all behind `max_length` {limit}");
            return Outcome::Dropped(DropReason::AllTruncated, detail);
        }
    }
    Outcome::Kept(kept)
}

/// Encodes examples in parallel, in order. Dropped ones are counted in `drops`; the first error stops.
pub fn encode_all(
    examples: &[Example],
    codec: &dyn Codec,
    options: &EncodeOptions,
    drops: &mut Drops,
) -> Result<Vec<TokenisedExample>, DataError> {
    let mut kept = Vec::with_capacity(examples.len());
    // In portions, so that a bad row near the start is reported before the whole set was tokenised.
    for portion in examples.chunks(4096) {
        let outcomes: Vec<_> = portion.par_iter().map(|e| encode(e, codec, options)).collect();
        for (example, outcome) in portion.iter().zip(outcomes) {
            match outcome? {
                Outcome::Kept(pieces) => kept.extend(pieces),
                Outcome::Dropped(reason, detail) => drops.add(reason, &example.source, detail),
            }
        }
    }
    Ok(kept)
}
