//! Who sees whom: sequences of keys, the queries over them, and how both are cut into tiles.
//!
//! Keys are cut into blocks of [`KEY_BLOCK`] positions counted from the start of their sequence, wherever its tokens lie.
//! Blocks and the order inside them fix the order of every sum, so a query gets the same bits whether its sequence
//! stands alone, in a batch, behind a shared prefix or in a cache. How *queries* are cut changes no bits.

use std::ops::Range;

use crate::cpu::Level;
use crate::dtype::DType;

use super::engine::pair;
use super::{AttentionSpec, Segment};

/// Positions in a block of keys.
pub(super) const KEY_BLOCK: usize = 64;
/// Queries in a tile, about: the rows of a few neighbouring tokens, all heads that share keys.
const TILE_QUERIES: usize = 64;

/// The keys a run of queries sees, and where its rows lie.
#[derive(Clone, Debug)]
pub(in crate::ops) struct Sequence {
    /// Row of the first query in the flat batch.
    pub query_row: usize,
    /// Queries.
    pub queries: usize,
    /// Position of the first query among the keys.
    pub first_position: usize,
    /// Rows of the keys, in order of their positions; none is empty, and the last holds the queries' own tokens.
    pub pieces: Vec<Range<usize>>,
    /// Keys: the lengths of `pieces`.
    pub keys: usize,
}

impl Sequence {
    /// Runs of rows that hold the keys at `positions`, in order.
    pub fn key_rows(&self, positions: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut before = 0;
        self.pieces.iter().filter_map(move |piece| {
            let start = positions.start.max(before) - before;
            let end = positions.end.saturating_sub(before).min(piece.len());
            before += piece.len();
            (start < end).then(|| piece.start + start..piece.start + end)
        })
    }

    /// Number of key blocks.
    pub fn blocks(&self) -> usize {
        self.keys.div_ceil(KEY_BLOCK)
    }
}

/// Sequences of a flat batch of `tokens` tokens. Panics unless the segments cover every token exactly once.
pub(super) fn sequences(segments: &[Segment], tokens: usize) -> Vec<Sequence> {
    let mut order: Vec<&Segment> = segments.iter().filter(|s| s.len > 0).collect();
    order.sort_by_key(|s| s.start);
    let mut covered = 0;
    for segment in order {
        assert_eq!(segment.start, covered, "segments must cover every token of the batch exactly once");
        covered += segment.len;
    }
    assert_eq!(covered, tokens, "segments must cover every token of the batch exactly once");
    let mut all: Vec<Sequence> = Vec::with_capacity(segments.len());
    for (at, segment) in segments.iter().enumerate() {
        let (mut pieces, before) = match segment.parent {
            Some(parent) => {
                assert!(parent < at, "segment {at} has parent {parent}, which does not stand before it");
                (all[parent].pieces.clone(), all[parent].keys)
            }
            None => (Vec::new(), 0),
        };
        if segment.len > 0 {
            pieces.push(segment.start..segment.start + segment.len);
        }
        let keys = before + segment.len;
        // Positions are compared as `f32`.
        assert!(keys < 1 << 24, "a sequence of {keys} tokens is too long");
        let (query_row, queries) = (segment.start, segment.len);
        all.push(Sequence { query_row, queries, first_position: before, pieces, keys });
    }
    all
}

/// Sizes that follow from the spec and the engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Width of a head.
    pub head_dim: usize,
    /// Width of a head, padded for the engine.
    pub width: usize,
    /// Key and value heads.
    pub key_value_heads: usize,
    /// Query heads of one key head.
    pub group: usize,
    /// [`super::engine::Engine::PAIR`].
    pub pair: usize,
    /// Neighbouring tokens whose queries make a tile.
    pub tile_tokens: usize,
    /// Largest number of queries in a tile, padded.
    pub tile_queries: usize,
    /// Granularity of the keys a tile takes from a block.
    pub key_grain: usize,
    /// Granularity of a tile's queries.
    pub query_grain: usize,
}

impl Geometry {
    /// For a spec on the engine of a level. `summed_queries`: products will sum over queries (backward).
    pub fn new(spec: &AttentionSpec, level: Level, dtype: DType, summed_queries: bool) -> Geometry {
        let pair = pair(level);
        // Operands come in 16 units; sums become rows of 16 units too, each two `bf16` or one `f32`.
        let grain = 16 * pair.max(4 / dtype.size());
        let group = spec.query_heads / spec.key_value_heads;
        let tile_tokens = (TILE_QUERIES / group).max(1);
        // The gradient pass works on pairs of vectors, 16 lanes at most.
        let query_grain = if summed_queries { 32 } else { 16 };
        Geometry {
            head_dim: spec.head_dim,
            width: spec.head_dim.next_multiple_of(grain),
            key_value_heads: spec.key_value_heads,
            group,
            pair,
            tile_tokens,
            tile_queries: (tile_tokens * group).next_multiple_of(query_grain),
            key_grain: 16 * pair,
            query_grain,
        }
    }

    /// Units in a packed row as wide as a head.
    pub fn width_units(&self) -> usize {
        self.width / self.pair
    }

    /// Tiles of a sequence's queries.
    pub fn tiles(&self, sequence: &Sequence) -> usize {
        sequence.queries.div_ceil(self.tile_tokens)
    }
}

/// Queries of neighbouring tokens and all heads of one group: row `i` is token `i / group`, head `i % group`.
#[derive(Clone, Debug)]
pub(super) struct Tile {
    /// First token, counted in the sequence's queries.
    pub first: usize,
    /// Tokens.
    pub tokens: usize,
    /// Queries: tokens times group.
    pub queries: usize,
    /// Queries, padded for the engine. The padding repeats the last query's visibility.
    pub padded: usize,
    /// Positions of keys that any query sees.
    pub keys: Range<usize>,
    /// Positions that every query sees.
    pub seen_by_all: Range<usize>,
}

/// A block of keys as one tile takes it.
#[derive(Clone, Debug)]
pub(super) struct TileBlock {
    /// The block.
    pub block: usize,
    /// Rows of the block in use, multiples of the engine's grain.
    pub rows: Range<usize>,
    /// Whether some query does not see some of these rows.
    pub masked: bool,
}

impl Tile {
    /// The `index`-th tile of a sequence. Writes the first and last position that each query sees into `first_seen` and
    /// `last_seen` (`padded` each).
    pub fn new(
        index: usize,
        sequence: &Sequence,
        geometry: &Geometry,
        spec: &AttentionSpec,
        first_seen: &mut [f32],
        last_seen: &mut [f32],
    ) -> Tile {
        let first = index * geometry.tile_tokens;
        let tokens = geometry.tile_tokens.min(sequence.queries - first);
        let queries = tokens * geometry.group;
        let padded = queries.next_multiple_of(geometry.query_grain);
        for token in 0..tokens {
            let seen = seen(sequence.first_position + first + token, sequence.keys, spec);
            let end = if token + 1 == tokens { padded } else { (token + 1) * geometry.group };
            first_seen[token * geometry.group..end].fill(seen.start as f32);
            last_seen[token * geometry.group..end].fill((seen.end - 1) as f32);
        }
        let position = sequence.first_position + first;
        let (low, high) = (seen(position, sequence.keys, spec), seen(position + tokens - 1, sequence.keys, spec));
        Tile { first, tokens, queries, padded, keys: low.start..high.end, seen_by_all: high.start..low.end }
    }

    /// The blocks of keys this tile sees.
    pub fn blocks(&self, grain: usize) -> impl Iterator<Item = TileBlock> + use<> {
        let (keys, by_all) = (self.keys.clone(), self.seen_by_all.clone());
        (keys.start / KEY_BLOCK..keys.end.div_ceil(KEY_BLOCK)).map(move |block| {
            let start = block * KEY_BLOCK;
            let from = keys.start.max(start) - start;
            let to = keys.end.min(start + KEY_BLOCK) - start;
            let rows = from / grain * grain..to.next_multiple_of(grain);
            let masked = start + rows.start < by_all.start || start + rows.end > by_all.end;
            TileBlock { block, rows, masked }
        })
    }
}

/// Positions that the query at `position` sees, among `keys` keys.
pub(super) fn seen(position: usize, keys: usize, spec: &AttentionSpec) -> Range<usize> {
    let end = if spec.causal { position + 1 } else { keys };
    match spec.window {
        None => 0..end,
        Some(window) => (position + 1).saturating_sub(window)..end.min(position.saturating_add(window)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::engine::best;

    fn spec() -> AttentionSpec {
        AttentionSpec {
            query_heads: 6,
            key_value_heads: 2,
            head_dim: 16,
            scale: 0.25,
            causal: true,
            window: None,
            soft_cap: None,
        }
    }

    #[test]
    fn key_rows_follow_the_chain_of_parents() {
        let segment = |start, len, parent| Segment { start, len, parent };
        let all = sequences(&[segment(10, 5, None), segment(0, 10, Some(0)), segment(15, 2, Some(1))], 17);
        let rows = |at: usize, positions| all[at].key_rows(positions).collect::<Vec<_>>();
        assert_eq!(all[2].keys, 17);
        assert_eq!(rows(2, 0..17), [10..15, 0..10, 15..17]);
        assert_eq!(rows(2, 4..16), [14..15, 0..10, 15..16]);
        assert_eq!(rows(1, 2..15), [12..15, 0..10]);
        assert_eq!(all[1].first_position, 5);
    }

    #[test]
    #[should_panic(expected = "exactly once")]
    fn overlapping_segments_are_refused() {
        sequences(&[Segment { start: 0, len: 3, parent: None }, Segment { start: 2, len: 3, parent: None }], 5);
    }

    #[test]
    fn blocks_of_a_tile_hold_exactly_what_its_queries_see() {
        for causal in [true, false] {
            for window in [None, Some(1), Some(70), Some(1000)] {
                let spec = AttentionSpec { causal, window, ..spec() };
                let all = sequences(&[Segment { start: 0, len: 300, parent: None }], 300);
                let geometry = Geometry::new(&spec, best(DType::BF16), DType::BF16, true);
                for index in 0..geometry.tiles(&all[0]) {
                    let (mut first, mut last) = ([0.0; 64], [0.0; 64]);
                    let tile = Tile::new(index, &all[0], &geometry, &spec, &mut first, &mut last);
                    let blocks: Vec<_> = tile.blocks(geometry.key_grain).collect();
                    for token in tile.first..tile.first + tile.tokens {
                        for key in 0..320 {
                            let distance = key as i64 - token as i64;
                            let visible = key < 300
                                && (!causal || distance <= 0)
                                && window.is_none_or(|w| distance.unsigned_abs() < w as u64);
                            let row = (token - tile.first) * 3;
                            assert_eq!(visible, first[row] <= key as f32 && key as f32 <= last[row]);
                            let held = blocks
                                .iter()
                                .find(|b| b.block == key / KEY_BLOCK && b.rows.contains(&(key % KEY_BLOCK)));
                            assert!(!visible || held.is_some());
                            assert!(visible || held.is_none_or(|b| b.masked));
                        }
                    }
                }
            }
        }
    }
}
