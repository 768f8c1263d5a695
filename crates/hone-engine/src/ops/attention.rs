//! Softmax attention over the segments of a flat batch, block by block with an online softmax; the `seq × seq` matrix is
//! never held, and backward recomputes it from the saved log-sum-exp per row (FlashAttention-2, arXiv 2307.08691).

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// A run of tokens of the flat batch that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First token in the flat batch.
    pub start: usize,
    /// Tokens.
    pub len: usize,
    /// A segment that comes before this one in the same sequence: its tokens (and its own parents') are seen as
    /// well, all of them. So several continuations share one prefix that is computed once. Parents stand earlier in
    /// the list.
    pub parent: Option<usize>,
}

/// What kind of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads; `q` is `[tokens, query_heads * head_dim]`.
    pub query_heads: usize,
    /// Key and value heads; a divisor of `query_heads`.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores, usually `head_dim^-0.5`.
    pub scale: f32,
    /// Whether a token sees only itself and what came before it in its sequence (and its segment's parents).
    pub causal: bool,
    /// With `Some(w)`, a token at distance `w` or more in its sequence is not seen (`w` tokens are, itself included).
    pub window: Option<usize>,
    /// `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

/// `softmax(scale * q kᵀ + bias) v` within segments. `q` `[tokens, query_heads * head_dim]`, `k`, `v`
/// `[tokens, key_value_heads * head_dim]`; result like `q`. `bias`, if given, is `[query_heads, tokens, tokens]` over the
/// flat batch (`f32`), added after the soft cap, and gets a gradient if it is trained.
///
/// Every row's result depends on its own sequence alone, to the bit.
///
/// Panics on shapes that do not fit.
pub fn attention(
    _tape: &Tape,
    _q: &Var,
    _k: &Var,
    _v: &Var,
    _segments: &[Segment],
    _spec: &AttentionSpec,
    _bias: Option<&Var>,
) -> Var {
    todo!()
}

/// Attention probabilities of one head for the rows of one segment, `[len, keys]` in `f32`, for probes; `keys` counts the
/// parents' tokens first. No gradient.
pub fn attention_probabilities(
    _q: &Tensor,
    _k: &Tensor,
    _segments: &[Segment],
    _segment: usize,
    _head: usize,
    _spec: &AttentionSpec,
) -> Tensor {
    todo!()
}
