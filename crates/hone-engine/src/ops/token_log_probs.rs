//! Log-probabilities of given tokens and whole logit rows: scoring and generation. Forward only, in chunks of rows.

use crate::tensor::Tensor;
use crate::weight::WeightRef;

/// How a row scored its target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// Natural log-probability of the target.
    pub log_prob: f32,
    /// Whether the target's logit was the highest (lowest index on ties).
    pub is_argmax: bool,
}

/// Row `rows[i]` of `hidden` `[tokens, width]` against `targets[i]`.
pub fn token_scores(
    _hidden: &Tensor,
    _head: &WeightRef,
    _rows: &[u32],
    _targets: &[u32],
    _soft_cap: Option<f32>,
) -> Vec<TokenScore> {
    todo!()
}

/// Logits `[rows.len(), vocabulary]` in `f32`.
pub fn head_logits(_hidden: &Tensor, _head: &WeightRef, _rows: &[u32], _soft_cap: Option<f32>) -> Tensor {
    todo!()
}
