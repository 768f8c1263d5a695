//! Softmax attention over the segments of a flat batch, block by block with an online softmax; the `seq × seq` matrix is
//! never held, and backward recomputes it from the saved log-sum-exp per row (FlashAttention-2, arXiv 2307.08691).
//!
//! - `plan`: who sees whom, and how queries and keys are cut into tiles. `keys`, `pack`: tensors into operands.
//! - `engine`: the products of tiles, by what the machine has. `passes`, `shaping`: what happens between products.
//! - `forward`, `backward`: the loops. `kept`: packed keys that generation meets again. `probabilities`: the matrix itself, for probes.
//!
//! Nothing here knows of positions beyond order and distance: rotary embedding happens before.

mod backward;
mod engine;
mod forward;
mod kept;
mod keys;
mod pack;
mod passes;
mod plan;
mod probabilities;
mod shaping;
mod shared;
#[cfg(test)]
mod tests;

use crate::cpu::Level;
use crate::dtype::DType;
use crate::profile::{self, Pass};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

use backward::Backward;
use forward::Forward;
use keys::KeysValues;
use plan::sequences;
use shaping::Bias;

pub(super) use engine::best;
pub use kept::KeptBlocks;
pub(super) use kept::PackedSlot;
pub(super) use plan::Sequence;
pub use probabilities::{attention_probabilities, attention_rows};

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

impl AttentionSpec {
    /// Panics unless `q` and `k` fit.
    pub(super) fn check(&self, q: &Tensor, k: &Tensor) {
        let heads = (self.query_heads, self.key_value_heads);
        assert!(
            heads.1 > 0 && heads.0.is_multiple_of(heads.1),
            "attention: {} query heads over {} key heads",
            heads.0,
            heads.1
        );
        assert!(self.window != Some(0), "attention: a window of 0 tokens");
        let (queries, keys) = (q.rows_cols().1, k.rows_cols().1);
        assert_eq!(queries, heads.0 * self.head_dim, "attention: width of q");
        assert_eq!(keys, heads.1 * self.head_dim, "attention: width of k");
        assert_eq!(q.dtype(), k.dtype(), "attention: types of q and k");
    }
}

/// `softmax(scale * q kᵀ + bias) v` within segments. `q` `[tokens, query_heads * head_dim]`, `k`, `v`
/// `[tokens, key_value_heads * head_dim]`; result like `q`. `bias`, if given, is `[query_heads, tokens, tokens]` over the
/// flat batch (`f32`), added after the soft cap, and gets a gradient if it is trained.
///
/// Every row's result depends on its own sequence alone, to the bit: not on the rest of the batch, nor on whether the
/// sequence is one segment or a chain of parents. (The gradients of keys and values are sums over everything that sees
/// them, so they are equal across such splits only up to rounding.)
///
/// Panics on shapes that do not fit, and unless the segments cover every token exactly once.
pub fn attention(
    tape: &Tape,
    q: &Var,
    k: &Var,
    v: &Var,
    segments: &[Segment],
    spec: &AttentionSpec,
    bias: Option<&Var>,
) -> Var {
    let _span = profile::span("attention", Pass::Forward);
    attention_on(best(q.value.dtype()), tape, q, k, v, segments, spec, bias)
}

#[allow(clippy::too_many_arguments)]
fn attention_on(
    level: Level,
    tape: &Tape,
    q: &Var,
    k: &Var,
    v: &Var,
    segments: &[Segment],
    spec: &AttentionSpec,
    bias: Option<&Var>,
) -> Var {
    let tokens = q.value.rows_cols().0;
    spec.check(&q.value, &k.value);
    spec.check(&q.value, &v.value);
    assert_eq!((k.value.rows_cols().0, v.value.rows_cols().0), (tokens, tokens), "attention: rows of k and v");
    if let Some(bias) = bias {
        assert_eq!(bias.value.dims(), [spec.query_heads, tokens, tokens], "attention: shape of the bias");
    }
    let sequences = sequences(segments, tokens);
    let inputs: Vec<&Var> = [q, k, v].into_iter().chain(bias).collect();
    let records = tape.needs_grad(&inputs);
    let mut log_sum = records.then(|| Tensor::uninit([tokens, spec.query_heads], DType::F32));
    let bias_value = bias.map(|b| &b.value);
    let out = attend(level, &q.value, &k.value, &v.value, &sequences, &[], spec, bias_value, log_sum.as_mut());
    let Some(log_sum) = log_sum else { return Var::constant(out) };
    let (q, k, v, bias) = (q.clone(), k.clone(), v.clone(), bias.cloned());
    let (spec, saved) = (spec.clone(), out.clone());
    tape.record(out, move |gradient, into| {
        let _span = profile::span("attention", Pass::Backward);
        let dtype = q.value.dtype();
        let gradient = gradient.to_dtype(dtype);
        let mut dq = Tensor::uninit(q.value.shape(), dtype);
        let mut dk = Tensor::uninit(k.value.shape(), dtype);
        let mut dv = Tensor::uninit(v.value.shape(), dtype);
        let trained_bias = bias.as_ref().filter(|b| b.needs_grad());
        let mut dbias = trained_bias.map(|b| Tensor::zeros(b.value.shape(), DType::F32));
        crate::dispatch_dtype!(dtype, T => Backward::<T> {
            level,
            spec: &spec,
            sequences: &sequences,
            queries: q.value.as_slice(),
            keys_values: KeysValues { keys: k.value.as_slice(), values: v.value.as_slice() },
            bias: bias.as_ref().map(|b| Bias { values: b.value.as_slice(), tokens }),
            out: saved.as_slice(),
            out_gradient: gradient.as_slice(),
            log_sum: log_sum.as_slice(),
            query_gradient: dq.as_mut_slice(),
            key_gradient: dk.as_mut_slice(),
            value_gradient: dv.as_mut_slice(),
            bias_gradient: dbias.as_mut().map(|b| b.as_mut_slice()),
        }.run());
        into.add(&q, dq);
        into.add(&k, dk);
        into.add(&v, dv);
        if let (Some(bias), Some(dbias)) = (bias, dbias) {
            into.add(&bias, dbias);
        }
    })
}

/// The forward pass over sequences whose keys and values are rows of `k` and `v`.
#[allow(clippy::too_many_arguments)]
pub(super) fn attend(
    level: Level,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    sequences: &[Sequence],
    packed: &[Option<PackedSlot<'_>>],
    spec: &AttentionSpec,
    bias: Option<&Tensor>,
    log_sum: Option<&mut Tensor>,
) -> Tensor {
    let mut out = Tensor::uninit(q.shape(), q.dtype());
    crate::dispatch_dtype!(q.dtype(), T => Forward::<T> {
        level,
        spec,
        sequences,
        queries: q.as_slice(),
        keys_values: KeysValues { keys: k.as_slice(), values: v.as_slice() },
        packed,
        bias: bias.map(|b| Bias { values: b.as_slice(), tokens: q.rows_cols().0 }),
        out: out.as_mut_slice(),
        log_sum: log_sum.map(|l| l.as_mut_slice()),
    }.run());
    out
}
