//! The key–value cache of generation: keys and values of every token so far, so that a new token costs one row.
//!
//! Sequences sit in slots of equal capacity; which slots a forward pass touches is said by its lanes. The memory comes
//! from the engine's pool, is sized once, and is written in place. It knows nothing of sampling.

use hone_engine::ops::{AttentionSpec, CacheLane, KeptBlocks, cached_attention};
use hone_engine::{DType, Tensor, dispatch_dtype};

use crate::context::TokenBatch;
use crate::spec::DecoderSpec;

/// Keys and values of every layer, `[slots, capacity, key_value_heads * head_dim]` each.
pub struct KvCache {
    /// By layer: keys (after norm and rotation), values.
    pub layers: Vec<(Tensor, Tensor)>,
    /// By layer: full blocks of keys and values as attention wants them.
    pub kept: Vec<KeptBlocks>,
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

impl KvCache {
    /// An empty cache of `slots` sequences of up to `capacity` tokens.
    pub fn new(spec: &DecoderSpec, slots: usize, capacity: usize, dtype: DType) -> KvCache {
        let tensor = || Tensor::uninit([slots, capacity, spec.key_value_width()], dtype);
        let layers = spec.layers.iter().map(|_| (tensor(), tensor())).collect();
        let kept = spec.layers.iter().map(|_| KeptBlocks::new(slots)).collect();
        KvCache { layers, kept, capacity }
    }

    /// Gives slot `to` the first `tokens` tokens of slot `from`: sequences with a common beginning.
    pub fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        assert!(tokens <= self.capacity, "{tokens} tokens of a slot of {}", self.capacity);
        self.kept.iter_mut().for_each(|kept| kept.truncate(to, 0));
        for tensor in self.layers.iter_mut().flat_map(|(keys, values)| [keys, values]) {
            let slot = self.capacity * tensor.dim(2);
            let length = tokens * tensor.dim(2);
            dispatch_dtype!(tensor.dtype(), T => {
                tensor.as_mut_slice::<T>().copy_within(from * slot..from * slot + length, to * slot);
            });
        }
    }

    /// Bytes a sequence of `tokens` takes: keys and values, and their packed blocks.
    pub fn bytes(spec: &DecoderSpec, tokens: usize, dtype: DType) -> usize {
        2 * 2 * spec.layers.len() * tokens * spec.key_value_width() * dtype.size()
    }
}

impl CacheStep {
    /// `batch` with `count` virtual tokens before every sequence of the cache: as rows of their own where a lane begins, as
    /// an offset where it goes on. How many sequences begin comes with it.
    pub(crate) fn behind_virtual_tokens(&mut self, batch: &TokenBatch, count: usize) -> (TokenBatch, usize) {
        let mut batch = batch.clone();
        batch.positions.iter_mut().for_each(|position| *position += count as u32);
        let mut lanes = Vec::with_capacity(2 * self.lanes.len());
        let mut begun = 0;
        for lane in &self.lanes {
            if lane.past == 0 {
                lanes.push(CacheLane { start: batch.len(), len: count, slot: lane.slot, past: 0 });
                batch.ids.extend(std::iter::repeat_n(0, count));
                batch.positions.extend(0..count as u32);
                begun += 1;
            }
            lanes.push(CacheLane { past: lane.past + count, ..*lane });
        }
        self.lanes = lanes;
        batch.virtual_rows = begun * count;
        (batch, begun)
    }

    /// Writes a layer's new keys and values to their lanes and attends over all of each sequence; `q`, `k`, `v` and the
    /// result as in [`cached_attention`].
    pub(crate) fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec) -> Tensor {
        let (keys, values) = &mut self.cache.layers[layer];
        write(keys, k, &self.lanes);
        write(values, v, &self.lanes);
        cached_attention(q, keys, values, &self.lanes, spec, &mut self.cache.kept[layer])
    }
}

/// Rows of `from` `[tokens, width]` to their lanes' places in `to` `[slots, capacity, width]`.
fn write(to: &mut Tensor, from: &Tensor, lanes: &[CacheLane]) {
    let (capacity, width) = (to.dim(1), to.dim(2));
    dispatch_dtype!(to.dtype(), T => {
        let (to, from) = (to.as_mut_slice::<T>(), from.as_slice::<T>());
        for lane in lanes {
            assert!(lane.past + lane.len <= capacity, "a lane of {} + {} tokens in {capacity}", lane.past, lane.len);
            let target = (lane.slot * capacity + lane.past) * width;
            let source = lane.start * width;
            to[target..target + lane.len * width].copy_from_slice(&from[source..source + lane.len * width]);
        }
    })
}
