//! Attention of new tokens over a key–value cache: generation. Forward only.
//!
//! A lane is a sequence whose keys lie in its slot of the cache; everything else is [`super::attention()`], with the same
//! blocks of keys, so the numbers are the same to the bit.

use super::attention::{AttentionSpec, KeptBlocks, Sequence, attend, best};
use crate::profile::{self, Pass};
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
/// with the new tokens' entries already written at `past .. past + len` of their slot. Causal within the sequence (a
/// lane sees nothing past `past + len` in any case), window and soft cap as in the spec. Result like `q`; the same
/// numbers, to the bit, as [`super::attention()`] over the whole sequence. `kept` belongs to this cache and saves packing it
/// again.
///
/// Panics on shapes that do not fit, on a lane outside the cache, and unless the lanes cover every token exactly once.
pub fn cached_attention(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    lanes: &[CacheLane],
    spec: &AttentionSpec,
    kept: &mut KeptBlocks,
) -> Tensor {
    let _span = profile::span("attention", Pass::Forward);
    spec.check(q, keys);
    spec.check(q, values);
    let &[slots, capacity, _] = keys.dims() else { panic!("cache of shape {:?}", keys.shape()) };
    assert_eq!(keys.shape(), values.shape(), "shapes of the cache's keys and values");
    let mut order: Vec<&CacheLane> = lanes.iter().filter(|l| l.len > 0).collect();
    order.sort_by_key(|l| l.start);
    let covered = order.into_iter().fold(0, |covered, lane| {
        assert_eq!(lane.start, covered, "lanes must cover every token exactly once");
        covered + lane.len
    });
    assert_eq!(covered, q.rows_cols().0, "lanes must cover every token exactly once");
    let sequence = |lane: &CacheLane| {
        let keys = lane.past + lane.len;
        assert!(
            lane.slot < slots && keys <= capacity,
            "{lane:?} outside a cache of {slots} slots of {capacity} tokens"
        );
        let first = lane.slot * capacity;
        Sequence {
            query_row: lane.start,
            queries: lane.len,
            first_position: lane.past,
            pieces: std::iter::once(first..first + keys).collect(),
            keys,
        }
    };
    let sequences: Vec<Sequence> = lanes.iter().map(sequence).collect();
    let spec = AttentionSpec { causal: true, ..spec.clone() };
    let level = best(q.dtype());
    lanes.iter().for_each(|lane| kept.truncate(lane.slot, lane.past));
    let slots_and_sequences: Vec<_> = lanes.iter().map(|lane| lane.slot).zip(&sequences).collect();
    kept.update(level, &spec, keys, values, &slots_and_sequences);
    let packed: Vec<_> = lanes.iter().map(|lane| kept.slot(lane.slot)).collect();
    attend(level, q, keys, values, &sequences, &packed, &spec, None, None)
}
