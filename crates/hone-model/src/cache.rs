//! The key–value cache of generation.

use hone_engine::Tensor;
use hone_engine::ops::CacheLane;

/// Keys and values of every layer, `[slots, capacity, key_value_heads * head_dim]` each.
pub struct KvCache {
    /// By layer: keys (after norm and rotation), values.
    pub layers: Vec<(Tensor, Tensor)>,
    /// Tokens held by each slot.
    pub lengths: Vec<usize>,
    /// Tokens a slot can hold.
    pub capacity: usize,
}

/// A forward pass over a cache: where the batch's new tokens go.
pub struct CacheStep {
    /// The cache.
    pub cache: KvCache,
    /// One lane a sequence of the batch.
    pub lanes: Vec<CacheLane>,
}
