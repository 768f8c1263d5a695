//! The key–value cache of generation: keys and values of every token so far, so that a new token costs one row.
//!
//! Sequences sit in slots of equal capacity; which slots a forward pass touches is said by its lanes. The memory comes
//! from the engine's pool, is sized once, and is written in place. It knows nothing of sampling.

use std::collections::HashMap;
use std::ops::Range;

use hone_engine::ops::{AttentionSpec, CacheLane, KeptBlocks, cached_attention};
use hone_engine::{DType, Tensor, dispatch_dtype};

use crate::context::TokenBatch;
use crate::spec::DecoderSpec;

/// Keys and values of every layer, `[slots, capacity, key_value_heads * head_dim]` each.
pub struct KvCache {
    /// By layer (of each pass in turn): keys (after norm and rotation), values.
    pub layers: Vec<(Tensor, Tensor)>,
    /// By layer: full blocks of keys and values as attention wants them.
    pub kept: Vec<KeptBlocks>,
    /// What edits keep of every token beside keys and values, `[slots, capacity, width]` each, by the edit's own name; see
    /// [`CacheStep::with_earlier_rows`].
    pub rows: HashMap<String, Tensor>,
    /// Tokens a slot can hold.
    pub capacity: usize,
}

/// A lane's new rows behind earlier ones of the same sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRows {
    /// The new rows, in the batch.
    pub new: Range<usize>,
    /// Earlier rows and then the new ones, in the tensor that came with this.
    pub rows: Range<usize>,
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
        KvCache::of_passes(1, spec, slots, capacity, dtype)
    }

    /// The same for forward passes that run the layers `passes` times over (see
    /// [`Hooks::wants_first_pass`](crate::Hooks::wants_first_pass)): each time has keys and values of its own.
    pub fn of_passes(passes: usize, spec: &DecoderSpec, slots: usize, capacity: usize, dtype: DType) -> KvCache {
        let tensor = || Tensor::uninit([slots, capacity, spec.key_value_width()], dtype);
        let layers = passes * spec.layers.len();
        let kept = (0..layers).map(|_| KeptBlocks::new(slots)).collect();
        let layers = (0..layers).map(|_| (tensor(), tensor())).collect();
        KvCache { layers, kept, rows: HashMap::new(), capacity }
    }

    /// Gives slot `to` the first `tokens` tokens of slot `from`: sequences with a common beginning.
    pub fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        assert!(tokens <= self.capacity, "{tokens} tokens of a slot of {}", self.capacity);
        self.kept.iter_mut().for_each(|kept| kept.truncate(to, 0));
        let layers = self.layers.iter_mut().flat_map(|(keys, values)| [keys, values]);
        for tensor in layers.chain(self.rows.values_mut()) {
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
    /// an offset where it goes on. (A slot holds a sequence whole, so there is nothing to share.)
    pub(crate) fn behind_virtual_tokens(&mut self, batch: &TokenBatch, count: usize) -> TokenBatch {
        let mut inputs = batch.inputs_of_roots().into_iter();
        let mut batch = batch.clone();
        batch.positions.iter_mut().for_each(|position| *position += count as u32);
        let mut lanes = Vec::with_capacity(2 * self.lanes.len());
        batch.inputs.clear();
        for lane in &self.lanes {
            let input = inputs.next();
            if lane.past == 0 {
                batch.inputs.extend(input);
                lanes.push(CacheLane { start: batch.len(), len: count, slot: lane.slot, past: 0 });
                batch.ids.extend(std::iter::repeat_n(0, count));
                batch.positions.extend(0..count as u32);
                batch.virtual_rows += count;
            }
            lanes.push(CacheLane { past: lane.past + count, ..*lane });
        }
        self.lanes = lanes;
        batch
    }

    /// Writes a layer's new keys and values to their lanes and attends over all of each sequence; `q`, `k`, `v` and the
    /// result as in [`cached_attention`].
    pub(crate) fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec) -> Tensor {
        let (keys, values) = &mut self.cache.layers[layer];
        write(keys, k, &self.lanes);
        write(values, v, &self.lanes);
        cached_attention(q, keys, values, &self.lanes, spec, &mut self.cache.kept[layer])
    }

    /// Keeps the rows `x` `[tokens, width]` under `name`, and gives those of every lane behind up to `before` rows that were
    /// kept before them: for parts of edits that look back along a sequence (convolutions). Always of the same width for
    /// one name.
    pub fn with_earlier_rows(&mut self, name: &str, x: &Tensor, before: usize) -> (Tensor, Vec<LaneRows>) {
        let (slots, width) = (self.cache.layers.first().map_or(0, |(keys, _)| keys.dim(0)), x.rows_cols().1);
        let capacity = self.cache.capacity;
        let new = || Tensor::uninit([slots, capacity, width], x.dtype());
        let kept = self.cache.rows.entry(name.to_string()).or_insert_with(new);
        write(kept, x, &self.lanes);
        let mut lanes = Vec::with_capacity(self.lanes.len());
        let mut length = 0;
        for lane in &self.lanes {
            let rows = length..length + lane.past.min(before) + lane.len;
            length = rows.end;
            lanes.push(LaneRows { new: lane.start..lane.start + lane.len, rows });
        }
        let mut out = Tensor::uninit([length, width], x.dtype());
        dispatch_dtype!(x.dtype(), T => {
            let (from, to) = (kept.as_slice::<T>(), out.as_mut_slice::<T>());
            for (lane, rows) in self.lanes.iter().zip(&lanes) {
                let count = rows.rows.len() * width;
                let first = (lane.slot * capacity + lane.past + lane.len) * width - count;
                to[rows.rows.start * width..rows.rows.end * width].copy_from_slice(&from[first..first + count]);
            }
        });
        (out, lanes)
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
