//! From text to token ids that can be scored: the harness' rules for where a context ends and its continuation begins, for
//! truncation and for the windows of long documents.
//!
//! The boundary: trailing white space of the context moves to the continuation, both together are tokenised, and the
//! continuation is what lies beyond as many tokens as the context alone has. The split is by count: where a token spans the
//! boundary, the first continuation token is simply the one at that place.

use hone_model::Model;
use hone_model::tokenizer::{Encoding, Tokenizer};

use crate::error::EvalError;
use crate::python::is_space;

/// Context tokens and the tokens whose log-probability is wanted: what one score is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What the model reads: context and continuation without the last token, cut from the left to the model's length.
    pub input: Vec<u32>,
    /// What is scored; the last of them is predicted from the last token of `input`.
    pub targets: Vec<u32>,
    /// Whether the context was cut.
    pub truncated: bool,
    /// The group of its rows in a batch, where that says which edit they go through ([`crate::route`]).
    pub edit_group: Option<u32>,
}

/// Tokenises for one model.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Stands before what has no context: the beginning-of-text token, else the end-of-text token.
    prefix: u32,
    prefix_text: String,
    max_length: usize,
}

impl<'a> Encoder<'a> {
    /// For a model, with its own length or a shorter one.
    pub fn new(model: &'a Model, max_length: Option<usize>) -> Result<Encoder<'a>, EvalError> {
        let tokenizer = &model.tokenizer;
        let Some(prefix) = tokenizer.bos_id.or(tokenizer.eos_id) else {
            return Err(EvalError::Request {
                task: "tokenizer".into(),
                id: "–".into(),
                problem:
                    "it names neither a beginning-of-text nor an end-of-text token, and one is needed before texts \
                          without a context; add `bos_token` or `eos_token` to tokenizer_config.json"
                        .into(),
            });
        };
        let limit = model.spec.max_position_embeddings;
        let max_length = max_length.map_or(limit, |asked| asked.clamp(1, limit));
        Ok(Encoder { tokenizer, prefix, prefix_text: tokenizer.decode(&[prefix], false)?, max_length })
    }

    /// The same with room left for `count` virtual tokens before every input.
    pub fn behind_virtual_tokens(mut self, model: &Model, count: usize) -> Result<Encoder<'a>, EvalError> {
        self.max_length = self.max_length.min(model.room_behind(count));
        if self.max_length == 0 {
            let limit = model.spec.max_position_embeddings;
            return Err(EvalError::Request {
                task: "adapter".into(),
                id: "–".into(),
                problem: format!("{count} virtual tokens leave no room in the model's length of {limit}"),
            });
        }
        Ok(self)
    }

    /// Most tokens the model reads at once.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Ids with the tokenizer's special tokens, unless the text brings the first one itself.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        Ok(self.encoding(text)?.ids)
    }

    /// The same ids with the bytes of the text that each stands for.
    pub fn encoding(&self, text: &str) -> Result<Encoding, EvalError> {
        let brings_prefix = !self.prefix_text.is_empty() && text.starts_with(&self.prefix_text);
        Ok(self.tokenizer.encode(text, !brings_prefix)?)
    }

    /// Ids of context and continuation.
    pub fn pair(&self, context: &str, continuation: &str) -> Result<(Vec<u32>, Vec<u32>), EvalError> {
        if context.is_empty() {
            let ids = self.tokenizer.encode(continuation, false)?.ids;
            return Ok(match ids.split_first() {
                Some((first, rest)) if *first == self.prefix => (vec![*first], rest.to_vec()),
                _ => (vec![self.prefix], ids),
            });
        }
        let stripped = context.trim_end_matches(is_space);
        let moved = &context[stripped.len()..];
        let context_ids = self.encode(stripped)?;
        let mut whole = self.encode(&format!("{stripped}{moved}{continuation}"))?;
        let continuation_ids = whole.split_off(context_ids.len().min(whole.len()));
        Ok((context_ids, continuation_ids))
    }

    /// A continuation after a context. The error says why it cannot be scored.
    pub fn request(&self, context: &str, continuation: &str) -> Result<Result<Request, String>, EvalError> {
        let (context_ids, targets) = self.pair(context, continuation)?;
        Ok(self.request_of_ids(context_ids, targets, || format!("{continuation:?}")))
    }

    /// The same of tokens. `name` is what the continuation is called in the error.
    pub(crate) fn request_of_ids(
        &self,
        mut input: Vec<u32>,
        targets: Vec<u32>,
        name: impl Fn() -> String,
    ) -> Result<Request, String> {
        if targets.is_empty() {
            let hint =
                "its characters belong to the last token of the prompt; change the prompt's end or `target_delimiter`";
            return Err(format!("the continuation {} has no tokens of its own ({hint})", name()));
        }
        if targets.len() > self.max_length {
            let (found, limit) = (targets.len(), self.max_length);
            return Err(format!("the continuation {} has {found} tokens, over the model's length of {limit}", name()));
        }
        if input.is_empty() {
            // White space alone may tokenise to nothing.
            input.push(self.prefix);
        }
        input.extend(&targets[..targets.len() - 1]);
        let cut = input.len().saturating_sub(self.max_length);
        input.drain(..cut);
        Ok(Request { input, targets, truncated: cut > 0, edit_group: None })
    }

    /// A whole document in windows: every token is predicted once, each window but the first with one token of context or
    /// as many as fill the model's length.
    pub fn document(&self, text: &str) -> Result<Vec<Request>, EvalError> {
        let ids = self.encode(text)?;
        Ok(self.windows(self.prefix, &ids))
    }

    /// Windows over `ids`, the first predicted from `prefix`.
    pub fn windows(&self, prefix: u32, ids: &[u32]) -> Vec<Request> {
        let length = self.max_length;
        let mut requests = Vec::new();
        let mut done = 0;
        while done < ids.len() {
            let width = length.min(ids.len() - done);
            let end = done + width;
            let input = match done {
                0 => [&[prefix], &ids[..end - 1]].concat(),
                _ => ids[end.saturating_sub(length + 1)..end - 1].to_vec(),
            };
            requests.push(Request { input, targets: ids[done..end].to_vec(), truncated: false, edit_group: None });
            done = end;
        }
        requests
    }

    /// A prompt to continue, cut from the left so that `room` tokens fit after it. The flag says whether it was cut.
    pub fn prompt(&self, text: &str, room: usize) -> Result<Result<(Vec<u32>, bool), String>, EvalError> {
        let mut ids = self.encode(text)?;
        if ids.is_empty() {
            ids.push(self.prefix);
        }
        let Some(most) = self.max_length.checked_sub(room).filter(|most| *most > 0) else {
            return Ok(Err(format!(
                "{room} tokens to generate leave no room for a prompt in the model's length of {}; lower `max_gen_toks`",
                self.max_length
            )));
        };
        let cut = ids.len().saturating_sub(most);
        ids.drain(..cut);
        Ok(Ok((ids, cut > 0)))
    }
}
