//! One step of training, without files, events or schedules: what the loop of [`crate::trainer`] runs, and what a bench
//! times.

use std::sync::Arc;

use hone_data::FlatBatch;
use hone_edit::EditStack;
use hone_engine::optim::clip_factor;
use hone_engine::profile::{self, Pass::Update};
use hone_engine::{DType, Gradients, RandomKey, Tape, Tensor};
use hone_model::{Context, Hooks, Model};

use crate::compatibility::Versions;
use crate::objective::{consistent_loss, divergence_from_base, next_token_loss};
use crate::optimizer::{Optimizer, gradient_norm};
use crate::recipe::TrainConfig;
use crate::wordings::wording_loss;

/// How a forward and backward pass is made.
pub struct Pass<'a> {
    /// The edits.
    pub hooks: &'a Arc<dyn Hooks>,
    /// Compute type.
    pub dtype: DType,
    /// Keep the inputs of layers only, and compute the rest again on the way back.
    pub recompute: bool,
    /// Key of the training noise (dropout); without one there is none.
    pub key: Option<RandomKey>,
    /// What is trained towards.
    pub objective: Objective<'a>,
}

/// What a pass trains towards.
#[derive(Clone, Copy)]
pub enum Objective<'a> {
    /// The data's tokens.
    NextToken,
    /// The data's tokens, and a second pass with other noise that predicts what the first does: the weight of how far it is from
    /// that. See [`hone_edit::TrainingRules::consistency`].
    TwoPasses(f32),
    /// The data's tokens, and the same answer for a row's other wordings: the weight of how far they are from the first.
    Wordings(f32),
    /// The predictions of other versions, instead of the data's tokens.
    Versions(&'a Versions),
}

/// What is summed over the trained tokens of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// The loss: `−ln p`, or that of [`Versions`].
    pub loss: f64,
    /// Trained tokens that learned from the old one of the versions.
    pub of_old: usize,
    /// How far answers under other wordings than a row's first are from the one under that, in nats.
    pub apart: f64,
    /// The tokens this is summed over.
    pub reworded: usize,
}

impl Pass<'_> {
    /// The context of micro-batch `index` of `count`, on `tape`. `noise` names its noise, where that is not the step's.
    fn context(&self, tape: Tape, (index, count): (usize, usize), noise: Option<&str>) -> Context {
        let key = self.key.unwrap_or(RandomKey::new(0)).index(index as u64);
        Context {
            training: self.key.is_some(),
            key: noise.map_or(key, |noise| key.named(noise)),
            recompute: self.recompute,
            loss_share: 1.0 / count as f32,
            ..Context::new(tape, self.hooks.clone(), self.dtype)
        }
    }
}

/// Forward and backward of a step's micro-batches: `Σ −ln p` and the gradients of `Σ −ln p / normaliser` (and of what
/// [`Pass::objective`] adds), or the same of the loss of [`Objective::Versions`].
pub fn gradients(model: &Model, pass: &Pass, batches: &[FlatBatch], normaliser: f32) -> (Sums, Gradients) {
    let mut gradients = Gradients::new();
    let mut sums = Sums::default();
    for (index, batch) in batches.iter().enumerate() {
        let at = (index, batches.len());
        let cx = pass.context(Tape::recording(), at, None);
        let (loss, sum) = match pass.objective {
            Objective::Versions(versions) => {
                let out = versions.loss(model, &cx, batch, normaliser);
                sums.of_old += out.of_old;
                (out.loss, out.sum)
            }
            Objective::NextToken => {
                let out = next_token_loss(model, &cx, batch, normaliser);
                (out.loss, out.nll_sum)
            }
            Objective::Wordings(weight) => {
                let out = wording_loss(model, &cx, batch, normaliser, weight);
                sums.apart += out.apart;
                sums.reworded += out.tokens;
                (out.loss, out.nll_sum)
            }
            Objective::TwoPasses(weight) => {
                let again = pass.context(cx.tape.clone(), at, Some("again"));
                let out = consistent_loss(model, [&cx, &again], batch, normaliser, weight);
                (out.loss, out.nll_sum)
            }
        };
        sums.loss += sum;
        cx.tape.backward(&loss, Tensor::full(loss.value.dims(), DType::F32, 1.0), &mut gradients);
    }
    (sums, gradients)
}

/// The gradients of `Σ KL(base ‖ edited) / normaliser` over the rows that predict a target.
pub fn divergence_gradients(model: &Model, pass: &Pass, batches: &[FlatBatch], normaliser: f32) -> Gradients {
    let mut gradients = Gradients::new();
    for (index, batch) in batches.iter().enumerate() {
        let cx = pass.context(Tape::recording(), (index, batches.len()), None);
        let loss = divergence_from_base(model, &cx, batch, normaliser);
        cx.tape.backward(&loss, Tensor::full(loss.value.dims(), DType::F32, 1.0), &mut gradients);
    }
    gradients
}

/// Clips and updates; the norm before clipping. A norm that is not finite updates nothing.
pub fn update(
    stack: &mut EditStack,
    optimizer: &mut Optimizer,
    gradients: &Gradients,
    train: &TrainConfig,
    learning_rate: f64,
) -> f64 {
    let _span = profile::span("optimiser", Update);
    let norm = gradient_norm(stack, gradients);
    if norm.is_finite() {
        let scale = if train.max_grad_norm > 0.0 { clip_factor(norm, train.max_grad_norm) } else { 1.0 };
        optimizer.update(stack, gradients, learning_rate, scale);
    }
    norm
}
