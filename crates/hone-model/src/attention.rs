//! Where heads look: the attention of some rows of a pass, summed over sets of positions.
//!
//! ```text
//! mass(row, layer, head, set) = Σ_{j in set} softmax_j(scale · q_head(row) · k_head(j))    j: what the row sees
//! ```
//! Attention kernels never hold a row of weights, so an [`AttentionProbe`] takes queries and keys where the forward pass
//! announces them ([`LayerPart::Query`], [`LayerPart::Key`]: after norms, rotation and edits) and computes again the few rows
//! it was asked for. A pass without a probe does nothing of this. What a row sees is what the kernels let it see: itself and
//! what came before in its sequence, parents of its segment included, a layer's sliding window, virtual tokens. Heads that
//! share keys are heads of their own.
//!
//! It does not see attention that an edit computes beside the model's own (adaption prompts), nor passes with a key-value
//! cache, whose earlier keys are not announced.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use hone_engine::ops::{AttentionSpec, Segment, attention_rows};
use hone_engine::{Tensor, Var};

use crate::context::{Context, Hooks, TokenBatch};
use crate::site::{LayerPart, Site};
use crate::spec::DecoderSpec;

/// Positions in a row's sequence, from 0: tokens of the segment's parents first, virtual tokens not counted.
pub type Positions = Vec<Range<usize>>;

/// Which attention is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Rows of the flat batch that look, real tokens only.
    pub rows: Vec<usize>,
    /// The sets whose mass is wanted. They may overlap and need not cover a sequence.
    pub sets: Vec<Positions>,
    /// The layers; those the model does not have are passed over.
    pub layers: Range<usize>,
}

/// What was seen: `values` is `[rows, layers, heads, sets + 1]`. The last set is the virtual tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Masses {
    /// Rows that looked.
    pub rows: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Sets, with that of the virtual tokens.
    pub sets: usize,
    /// Shares of attention, 0 to 1.
    pub values: Vec<f64>,
}

impl Masses {
    /// One share of attention; all counts start at 0, layers at the first one wanted.
    pub fn at(&self, row: usize, layer: usize, head: usize, set: usize) -> f64 {
        self.values[((row * self.layers + layer) * self.heads + head) * self.sets + set]
    }
}

/// Sums attention while passes run. It is [`Hooks`] of an unedited model by itself; with edits it goes beside them, as a
/// probe of their stack.
pub struct AttentionProbe {
    /// By layer.
    specs: Vec<AttentionSpec>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: Arc<Wanted>,
    queries: Option<(usize, Tensor)>,
    /// By layer wanted: `[rows, heads, sets + 1]`; nothing where the pass has not come by.
    seen: Vec<Vec<f64>>,
}

impl AttentionProbe {
    /// For models of this architecture; nothing is wanted yet.
    pub fn new(spec: &DecoderSpec) -> AttentionProbe {
        let specs = (0..spec.layers.len()).map(|layer| spec.attention(layer)).collect();
        AttentionProbe { specs, state: Mutex::default() }
    }

    /// Wants something of the next pass. What an earlier pass left is dropped.
    pub fn watch(&self, mut wanted: Wanted) {
        let layers = self.specs.len();
        wanted.layers = wanted.layers.start.min(layers)..wanted.layers.end.min(layers);
        let seen = vec![Vec::new(); wanted.layers.len()];
        *self.lock() = State { wanted: Arc::new(wanted), queries: None, seen };
    }

    /// What was seen since [`AttentionProbe::watch`]; `None` where no pass without a cache came by. Wants nothing from then on.
    pub fn take(&self) -> Option<Masses> {
        let State { wanted, seen, .. } = std::mem::take(&mut *self.lock());
        let (rows, layers, sets) = (wanted.rows.len(), wanted.layers.len(), wanted.sets.len() + 1);
        if seen.is_empty() || seen.iter().any(|layer| layer.is_empty() && rows > 0) {
            return None;
        }
        let heads = self.specs[wanted.layers.start].query_heads;
        let width = heads * sets;
        let values =
            (0..rows).flat_map(|row| seen.iter().flat_map(move |layer| &layer[row * width..(row + 1) * width]));
        Some(Masses { rows, layers, heads, sets, values: values.copied().collect() })
    }

    /// An activation, after every edit at its site.
    ///
    /// Panics if a row that is wanted is not in the batch.
    pub fn see(&self, cx: &Context, site: Site, h: &Var) {
        let Site::Layer { layer, part } = site else { return };
        if cx.cache.is_some() || !matches!(part, LayerPart::Query | LayerPart::Key) {
            return;
        }
        let mut state = self.lock();
        if state.wanted.rows.is_empty() || !state.wanted.layers.contains(&layer) {
            return;
        }
        if part == LayerPart::Query {
            state.queries = Some((layer, h.value.clone()));
            return;
        }
        let Some((_, queries)) = state.queries.take().filter(|(of, _)| *of == layer) else { return };
        let wanted = state.wanted.clone();
        // Other threads' work may be done here while this waits for its rows: not under the lock.
        drop(state);
        let masses = masses(&queries, &h.value, &cx.batch, &wanted.rows, &wanted.sets, &self.specs[layer]);
        let mut state = self.lock();
        if let Some(seen) = state.seen.get_mut(layer - wanted.layers.start) {
            *seen = masses;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic elsewhere leaves the sums whole or absent.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Hooks for AttentionProbe {
    fn at(&self, cx: &Context, site: Site, h: Var) -> Var {
        self.see(cx, site, &h);
        h
    }
}

/// Attention of `rows` of a flat batch summed over sets of positions, `[rows, query_heads, sets + 1]`; the last set is the
/// virtual tokens. `q` is `[tokens, query_heads * head_dim]`, `k` `[tokens, key_value_heads * head_dim]`, rotated.
///
/// Panics on shapes that do not fit, and on a row that the batch does not have. Positions beyond what a row sees add nothing.
pub fn masses(
    q: &Tensor,
    k: &Tensor,
    batch: &TokenBatch,
    rows: &[usize],
    sets: &[Positions],
    spec: &AttentionSpec,
) -> Vec<f64> {
    let attention = attention_rows(q, k, &batch.segments, rows, spec);
    let mut all = Vec::with_capacity(rows.len() * spec.query_heads * (sets.len() + 1));
    for (row, attention) in rows.iter().zip(&attention) {
        let before = virtual_positions(batch, *row);
        let keys = attention.dim(1);
        let sum = |head: &[f32], range: Range<usize>| -> f64 {
            let (start, end) = (range.start.min(keys), range.end.min(keys));
            head.get(start..end).unwrap_or_default().iter().map(|p| f64::from(*p)).sum()
        };
        for head in attention.as_slice::<f32>().chunks_exact(keys) {
            for set in sets {
                // Rust's sum of nothing is -0.
                let ranges = set.iter().map(|range| sum(head, before + range.start..before + range.end));
                all.push(ranges.fold(0.0, |sum, mass| sum + mass));
            }
            all.push(sum(head, 0..before));
        }
    }
    all
}

/// Virtual tokens before a row's sequence.
fn virtual_positions(batch: &TokenBatch, row: usize) -> usize {
    let is_virtual = |segment: &Segment| segment.len > 0 && segment.start >= batch.real_rows().end;
    let holds = |segment: &&Segment| (segment.start..segment.start + segment.len).contains(&row);
    let mut chain = batch.segments.iter().find(holds);
    let mut count = 0;
    while let Some(segment) = chain {
        count += if is_virtual(segment) { segment.len } else { 0 };
        chain = segment.parent.map(|parent| &batch.segments[parent]);
    }
    count
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // a set may be one range
mod tests {
    use super::*;

    fn spec() -> AttentionSpec {
        AttentionSpec {
            query_heads: 2,
            key_value_heads: 1,
            head_dim: 2,
            scale: 1.0,
            causal: true,
            window: None,
            soft_cap: None,
        }
    }

    /// Keys along one axis, so that a head's scores are the first number of its query times the key's.
    fn tensors() -> (Tensor, Tensor) {
        let ln = |x: f32| x.ln();
        let q = [0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 5.0, -1.0, 5.0];
        let k = [ln(1.0), 0.0, ln(2.0), 0.0, ln(5.0), 0.0];
        (Tensor::from_slice([3, 4], &q), Tensor::from_slice([3, 2], &k))
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-6, "{found:?}, expected {expected:?}");
    }

    #[test]
    fn known_weights_are_summed() {
        let (q, k) = tensors();
        let batch = TokenBatch::from_sequences(&[[7u32, 8, 9]]);
        let sets = [vec![0..1, 2..3], vec![1..9], Vec::new()];
        // Head 0 weighs the keys 1 : 2 : 5, head 1 the other way round 1 : 1/2 : 1/5.
        let found = masses(&q, &k, &batch, &[2], &sets, &spec());
        close(&found, &[6.0 / 8.0, 7.0 / 8.0, 0.0, 0.0, 1.2 / 1.7, 0.7 / 1.7, 0.0, 0.0]);
        // Equal scores over what a row sees: the first row sees itself alone.
        close(&masses(&q, &k, &batch, &[1, 0], &[vec![0..1]], &spec()), &[0.5, 0.0, 0.5, 0.0, 1.0, 0.0, 1.0, 0.0]);
        // A window of two tokens hides the first.
        let window = AttentionSpec { window: Some(2), ..spec() };
        close(&masses(&q, &k, &batch, &[2], &[vec![0..1], vec![1..2]], &window)[..3], &[0.0, 2.0 / 7.0, 0.0]);
    }

    #[test]
    fn virtual_tokens_are_a_set_of_their_own() {
        let (q, k) = tensors();
        // The first row is a virtual token before the other two: rows of real tokens come first in a batch.
        let order = |x: &Tensor, width| {
            let values = x.as_slice::<f32>();
            Tensor::from_slice([3, width], &[&values[width..], &values[..width]].concat())
        };
        let batch = TokenBatch::from_sequences(&[[8u32, 9]]).behind_virtual_tokens(1, true);
        let found = masses(&order(&q, 4), &order(&k, 2), &batch, &[1], &[vec![0..1], vec![1..2]], &spec());
        close(&found[..3], &[2.0 / 8.0, 5.0 / 8.0, 1.0 / 8.0]);
    }
}
