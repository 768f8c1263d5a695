//! The objective: next-token prediction (supervised fine-tuning). Training towards two versions of a model instead is in
//! [`crate::compatibility`].
//!
//! `loss = Σ w_t · −ln p(token_t | tokens before it in its document) / N` over the trained tokens of a *step*, where `N` is the
//! step's `Σ w_t` over all its micro-batches. So splitting a step into micro-batches changes nothing, however uneven they
//! are (a mean of means would).

use std::sync::Arc;

use hone_data::{DocumentRange, FlatBatch};
use hone_engine::Var;
use hone_engine::ops::{self, HeadLoss, Segment, Teacher, Teachers};
use hone_model::{Context, Model, NoHooks, TokenBatch};

/// Tokens and segments of a batch as the model takes them.
pub fn token_batch(batch: &FlatBatch) -> TokenBatch {
    TokenBatch {
        ids: batch.ids.clone(),
        positions: batch.positions.clone(),
        segments: batch.segments.iter().map(|d| Segment { start: d.start, len: d.len, parent: None }).collect(),
        groups: batch.groups.clone(),
        virtual_rows: 0,
        inputs: inputs(batch),
    }
}

/// What of each document stands before its first trained token: all that virtual tokens may depend on.
fn inputs(batch: &FlatBatch) -> Vec<Vec<u32>> {
    let input = |document: &DocumentRange| {
        let end = document.start + document.len;
        // Rows are in order; the first of this document predicts its first trained token.
        let first = batch.rows.partition_point(|row| (*row as usize) < document.start);
        let last = batch.rows.get(first).map(|row| *row as usize + 1).filter(|row| *row <= end).unwrap_or(end);
        batch.ids[document.start..last].to_vec()
    };
    batch.segments.iter().map(input).collect()
}

/// The loss of a micro-batch, divided by `normaliser` (the step's trained tokens).
pub fn next_token_loss(model: &Model, cx: &Context, batch: &FlatBatch, normaliser: f32) -> HeadLoss {
    let hidden = model.decoder.hidden(cx, &token_batch(batch));
    let head = model.decoder.head(cx);
    let cap = model.spec.logit_soft_cap;
    ops::lm_head_loss(&cx.tape, &hidden, &head, &batch.rows, &batch.targets, &batch.weights, normaliser, cap)
}

/// The loss of the first of two passes of a micro-batch, which differ in their noise, with `weight` times how far their
/// predictions are from each other: `½ Σ w_t (KL(p ‖ q) + KL(q ‖ p)) / normaliser` over the rows that predict a target.
pub fn consistent_loss(
    model: &Model,
    passes: [&Context; 2],
    batch: &FlatBatch,
    normaliser: f32,
    weight: f32,
) -> HeadLoss {
    let (tokens, tape) = (token_batch(batch), &passes[0].tape);
    let [first, second] = passes.map(|cx| model.decoder.hidden(cx, &tokens));
    let (head, cap) = (model.decoder.head(passes[0]), model.spec.logit_soft_cap);
    let (rows, weights) = (&batch.rows, &batch.weights);
    let out = ops::lm_head_loss(tape, &first, &head, rows, &batch.targets, weights, normaliser, cap);
    let apart = ops::lm_head_disagreement(tape, [&first, &second], &head, (rows, weights), normaliser, cap);
    HeadLoss { loss: ops::add(tape, &out.loss, &ops::scale(tape, &apart, weight)), ..out }
}

/// `Σ w_t KL(base ‖ edited) / normaliser` over the rows that predict a target: how far the edit has moved the model from its
/// base on a micro-batch. The head is the base's.
pub fn divergence_from_base(model: &Model, cx: &Context, batch: &FlatBatch, normaliser: f32) -> Var {
    let tokens = token_batch(batch);
    let bare = Context::inference(Arc::new(NoHooks), cx.dtype);
    let teacher = model.decoder.hidden(&bare, &tokens).value;
    let hidden = model.decoder.hidden(cx, &tokens);
    let (head, soft_cap) = (model.decoder.head(&bare), model.spec.logit_soft_cap);
    let teachers = Teachers::One(Teacher { hidden: &teacher, head: &head, soft_cap });
    let rows: (&[u32], &[f32]) = (&batch.rows, &batch.weights);
    ops::lm_head_divergence(&cx.tape, (&hidden, &head, soft_cap), teachers, rows, normaliser, 1.0).loss
}
