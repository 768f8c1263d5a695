//! The one scorer: log-probabilities of tokens after contexts.
//!
//! Requests come in groups (the choices of one question). Within a group what the inputs share is computed once: the shared
//! tokens are a segment of the batch, and what follows them in each input is a segment behind it; equal inputs are one. So
//! four choices cost one prompt, and choices of one token cost nothing more.
//!
//! Groups are put into a batch until it holds enough tokens. What is shared never depends on which groups share a batch, so
//! neither do the numbers.

use std::sync::Arc;

use hone_engine::ops::token_scores;
use hone_engine::{DType, Tensor};
use hone_model::{Context, Hooks, Model, TokenBatch};

use crate::error::EvalError;
use crate::requests::{Encoder, Request};

/// Tokens of a batch where nothing else is said: enough to keep the matrix products busy.
pub const BATCH_TOKENS: usize = 1024;

/// Told of the groups done so far, each with what its requests scored.
pub type Report<'a, T> = dyn FnMut(&[Vec<T>]) -> Result<(), EvalError> + 'a;

/// What a request scored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// Natural log-probability of each target.
    pub log_probs: Vec<f32>,
    /// Whether every target was the most likely token of its place.
    pub is_greedy: bool,
}

impl Scored {
    /// Natural log-probability of all targets together.
    pub fn log_likelihood(&self) -> f64 {
        self.log_probs.iter().map(|&p| f64::from(p)).sum()
    }
}

/// A model as it is scored: with its edits, in a compute type.
#[derive(Clone)]
pub struct Scorer<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its edits and probes.
    pub hooks: Arc<dyn Hooks>,
    /// Compute type.
    pub dtype: DType,
    /// Tokens of a batch; a group with more is a batch of its own.
    pub batch_tokens: usize,
}

impl Scorer<'_> {
    /// Scores groups of requests, in order. After each batch `report` is called with the scores of all groups done so far; its
    /// error ends it.
    pub fn score(
        &self,
        groups: &[Vec<Request>],
        report: &mut Report<'_, Scored>,
    ) -> Result<Vec<Vec<Scored>>, EvalError> {
        self.batched(groups, report, |batch| self.run(batch))
    }

    /// `head · h` for the last token of each request's input, in order, with `h` the final-norm hidden state and `head`
    /// `[hidden]`: what a reward model says of a text. Targets are not looked at, but each request has to have one.
    pub fn read(
        &self,
        head: &[f32],
        groups: &[Vec<Request>],
        report: &mut Report<'_, f64>,
    ) -> Result<Vec<Vec<f64>>, EvalError> {
        self.batched(groups, report, |batch| {
            let counts: Vec<usize> = batch.plans.iter().map(Vec::len).collect();
            let hidden = self.hidden(&batch)?.to_dtype(DType::F32);
            let (_, width) = hidden.rows_cols();
            let states = hidden.as_slice::<f32>();
            let of_row = |row: &u32| {
                let state = &states[*row as usize * width..][..width];
                state.iter().zip(head).map(|(h, w)| f64::from(*h) * f64::from(*w)).sum::<f64>()
            };
            let mut values = batch.rows.iter().map(of_row);
            Ok(counts.iter().map(|&count| values.by_ref().take(count).collect()).collect())
        })
    }

    /// What `run` makes of the groups, put into batches.
    fn batched<T>(
        &self,
        groups: &[Vec<Request>],
        report: &mut Report<'_, T>,
        run: impl Fn(Batch) -> Result<Vec<Vec<T>>, EvalError>,
    ) -> Result<Vec<Vec<T>>, EvalError> {
        let mut scored = Vec::with_capacity(groups.len());
        while scored.len() < groups.len() {
            let from = scored.len();
            let mut batch = Batch::default();
            for group in &groups[from..] {
                if !batch.plans.is_empty() && batch.tokens.len() + cost(group) > self.batch_tokens {
                    break;
                }
                batch.add(group);
            }
            scored.extend(run(batch)?);
            report(&scored)?;
        }
        Ok(scored)
    }

    /// Final-norm hidden states of a batch, `[tokens, hidden]`.
    fn hidden(&self, batch: &Batch) -> Result<Tensor, EvalError> {
        self.model.check_batch(&batch.tokens, self.hooks.virtual_tokens())?;
        let cx = Context::inference(self.hooks.clone(), self.dtype);
        Ok(self.model.decoder.hidden(&cx, &batch.tokens).value)
    }

    fn run(&self, batch: Batch) -> Result<Vec<Vec<Scored>>, EvalError> {
        let scores = if batch.tokens.is_empty() {
            Vec::new()
        } else {
            let hidden = self.hidden(&batch)?;
            let head = self.model.decoder.head(&Context::inference(self.hooks.clone(), self.dtype));
            token_scores(&hidden, &head, &batch.rows, &batch.targets, self.model.spec.logit_soft_cap)
        };
        if let Some((_, &token)) = scores.iter().zip(&batch.targets).find(|(score, _)| score.log_prob.is_nan()) {
            return Err(EvalError::NotANumber { token });
        }
        let mut rest = scores.as_slice();
        let mut take = |count: usize| {
            let (taken, left) = rest.split_at(count);
            rest = left;
            Scored {
                log_probs: taken.iter().map(|s| s.log_prob).collect(),
                is_greedy: taken.iter().all(|s| s.is_argmax),
            }
        };
        Ok(batch.plans.iter().map(|counts| counts.iter().map(|&count| take(count)).collect()).collect())
    }
}

/// A batch under way: its tokens, and which rows predict which targets, request by request.
#[derive(Default)]
struct Batch {
    tokens: TokenBatch,
    rows: Vec<u32>,
    targets: Vec<u32>,
    /// By group and request: how many targets.
    plans: Vec<Vec<usize>>,
}

impl Batch {
    fn add(&mut self, group: &[Request]) {
        let begun = self.tokens.segments.len();
        let inputs = distinct(group);
        let shared = shared_length(&inputs);
        let parent = (shared > 0).then(|| self.tokens.push(&inputs[0][..shared], None));
        if shared > 0 {
            self.tokens.inputs.push(inputs[0][..shared.min(context_length(group, None))].to_vec());
        } else {
            let own = inputs.iter().map(|input| input[..context_length(group, Some(input))].to_vec());
            self.tokens.inputs.extend(own);
        }
        let shared_start = parent.map_or(0, |parent| self.tokens.segments[parent].start);
        let starts: Vec<usize> = inputs
            .iter()
            .map(|input| match input.len() > shared {
                true => {
                    let segment = self.tokens.push(&input[shared..], parent);
                    self.tokens.segments[segment].start
                }
                false => 0,
            })
            .collect();
        if let Some(edit_group) = group.first().and_then(|request| request.edit_group) {
            self.tokens.groups.extend((begun..self.tokens.segments.len()).map(|_| edit_group));
        }
        for request in group {
            let which = inputs.iter().position(|input| *input == request.input.as_slice()).unwrap_or(0);
            let first = request.input.len() - request.targets.len();
            for at in first..request.input.len() {
                // The token at `at` predicts the one after it.
                let row = if at < shared { shared_start + at } else { starts[which] + at - shared };
                self.rows.push(row as u32);
            }
            self.targets.extend(&request.targets);
        }
        self.plans.push(group.iter().map(|request| request.targets.len()).collect());
    }
}

/// The different inputs of a group, in order.
fn distinct(group: &[Request]) -> Vec<&[u32]> {
    let mut inputs: Vec<&[u32]> = Vec::new();
    for request in group {
        if !inputs.contains(&request.input.as_slice()) {
            inputs.push(&request.input);
        }
    }
    inputs
}

/// Tokens before anything that the group (or its requests with this input) scores: what virtual tokens may depend on.
fn context_length(group: &[Request], input: Option<&[u32]>) -> usize {
    let own = group.iter().filter(|request| input.is_none_or(|input| input == request.input.as_slice()));
    own.map(|request| request.input.len() + 1 - request.targets.len()).min().unwrap_or(0)
}

/// Tokens that all inputs begin with; 0 for a single input, which needs no segment of its own for them.
fn shared_length(inputs: &[&[u32]]) -> usize {
    let [first, others @ ..] = inputs else { return 0 };
    let common = |other: &&[u32]| first.iter().zip(other.iter()).take_while(|(a, b)| a == b).count();
    others.iter().map(common).min().unwrap_or(0)
}

/// Tokens that a group adds to a batch.
pub(crate) fn cost(group: &[Request]) -> usize {
    let inputs = distinct(group);
    let shared = shared_length(&inputs);
    shared + inputs.iter().map(|input| input.len() - shared).sum::<usize>()
}

/// A text as the model sees it, token by token.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TextScore {
    /// Each token's text.
    pub tokens: Vec<String>,
    /// Token ids, with the special tokens the tokenizer adds.
    pub ids: Vec<u32>,
    /// Natural log-probability of each token but the first (`logprobs[i]` is that of `ids[i + 1]`): the first has nothing
    /// before it, whether it is a beginning-of-text token or the text's own.
    pub logprobs: Vec<f32>,
    /// `exp` of the mean negative log-probability.
    pub perplexity: f64,
}

/// Scores a text. One longer than the model's length is read in windows, each of which starts with as much context as fits.
pub fn score_text(scorer: &Scorer<'_>, text: &str) -> Result<TextScore, EvalError> {
    let virtual_tokens = scorer.hooks.virtual_tokens();
    let encoder = Encoder::new(scorer.model, None)?.behind_virtual_tokens(scorer.model, virtual_tokens)?;
    let ids = encoder.encode(text)?;
    let (&first, rest) = ids.split_first().ok_or_else(|| EvalError::Request {
        task: "score".into(),
        id: "text".into(),
        problem: "the text has no tokens; give some text".into(),
    })?;
    let windows: Vec<Vec<Request>> = encoder.windows(first, rest).into_iter().map(|window| vec![window]).collect();
    let scored = scorer.score(&windows, &mut |_| Ok(()))?;
    let logprobs: Vec<f32> = scored.into_iter().flatten().flat_map(|s| s.log_probs).collect();
    let mean = logprobs.iter().map(|&p| f64::from(p)).sum::<f64>() / logprobs.len() as f64;
    let tokenizer = &scorer.model.tokenizer;
    let tokens = ids.iter().map(|&id| tokenizer.id_to_token(id).unwrap_or_default()).collect();
    // A single token predicts nothing; JSON knows no NaN, so its perplexity is that of certainty.
    let perplexity = if logprobs.is_empty() { 1.0 } else { (-mean).exp() };
    Ok(TextScore { tokens, ids, logprobs, perplexity })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(input: &[u32], targets: &[u32]) -> Request {
        Request { input: input.to_vec(), targets: targets.to_vec(), truncated: false, edit_group: None }
    }

    #[test]
    fn what_a_group_shares_is_in_the_batch_once() {
        // Context 1 2 3; continuations 4 5, 4 6 7 and 8.
        let group = [request(&[1, 2, 3, 4], &[4, 5]), request(&[1, 2, 3, 4, 6], &[4, 6, 7]), request(&[1, 2, 3], &[8])];
        let mut batch = Batch::default();
        batch.add(&[request(&[9], &[1])]);
        batch.add(&group);
        assert_eq!(batch.tokens.ids, [9, 1, 2, 3, 4, 4, 6]);
        assert_eq!(batch.tokens.positions, [0, 0, 1, 2, 3, 3, 4]);
        let parents: Vec<_> = batch.tokens.segments.iter().map(|s| (s.start, s.len, s.parent)).collect();
        assert_eq!(parents, [(0, 1, None), (1, 3, None), (4, 1, Some(1)), (5, 2, Some(1))]);
        assert_eq!(batch.rows, [0, 3, 4, 3, 5, 6, 3]);
        assert_eq!(batch.targets, [1, 4, 5, 4, 6, 7, 8]);
        assert_eq!(batch.tokens.inputs, [vec![9], vec![1, 2, 3]], "nothing of an answer");
        assert_eq!(cost(&group), 6);
    }

    #[test]
    fn choices_of_one_token_are_one_input() {
        let group = [request(&[1, 2], &[3]), request(&[1, 2], &[4])];
        let mut batch = Batch::default();
        batch.add(&group);
        assert_eq!((batch.tokens.len(), batch.tokens.segments.len()), (2, 1));
        assert_eq!(batch.rows, [1, 1]);
    }
}
