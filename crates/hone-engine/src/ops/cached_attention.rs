//! Attention of new tokens over a key–value cache: generation. Forward only.

use super::attention::AttentionSpec;
use crate::tensor::Tensor;

/// One sequence's new tokens and its place in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLane {
    /// First new token in the flat batch.
    pub start: usize,
    /// New tokens.
    pub len: usize,
    /// The sequence's slot in the cache.
    pub slot: usize,
    /// Tokens of the sequence in the cache before these (their keys and values are there already).
    pub past: usize,
}

/// `q` `[tokens, query_heads * head_dim]` of the new tokens; `keys`, `values` `[slots, capacity, key_value_heads * head_dim]`
/// with the new tokens' entries already written at `past .. past + len` of their slot. Causal within the sequence,
/// window and soft cap as in the spec. Result like `q`; the same numbers as [`super::attention()`] over the whole sequence.
pub fn cached_attention(
    _q: &Tensor,
    _keys: &Tensor,
    _values: &Tensor,
    _lanes: &[CacheLane],
    _spec: &AttentionSpec,
) -> Tensor {
    todo!()
}
