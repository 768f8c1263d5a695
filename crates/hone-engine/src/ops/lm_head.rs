//! LM head and cross-entropy in one, in chunks of rows: logits of a chunk are made, turned into their gradient and used
//! up before the next chunk, so the logits of a batch are never held. Rows without a target take no work.

use crate::tape::{Tape, Var};
use crate::weight::WeightRef;

/// The loss over a batch.
pub struct HeadLoss {
    /// `Σ weight · nll / normaliser`, a scalar with a gradient.
    pub loss: Var,
    /// `Σ weight · nll`, before normalising, in `f64`.
    pub nll_sum: f64,
    /// Targets whose logit was the highest of their row (lowest index on ties).
    pub correct: usize,
}

/// `hidden` `[tokens, width]`, `head` `[vocabulary, width]`. Row `rows[i]` predicts `targets[i]` with weight `weights[i]`.
/// `soft_cap` caps logits as `cap * tanh(logit / cap)`.
#[allow(clippy::too_many_arguments)]
pub fn lm_head_loss(
    _tape: &Tape,
    _hidden: &Var,
    _head: &WeightRef,
    _rows: &[u32],
    _targets: &[u32],
    _weights: &[f32],
    _normaliser: f32,
    _soft_cap: Option<f32>,
) -> HeadLoss {
    todo!()
}
