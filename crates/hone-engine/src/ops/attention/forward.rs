//! The forward pass: for each tile of queries, block after block of keys goes through scores, online softmax and the
//! product with the values (FlashAttention-2, algorithm 1, arXiv 2307.08691).

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::Level;
use crate::dtype::Element;
use crate::simd;

use super::AttentionSpec;
use super::engine::{Engine, Product, Work, run};
use super::kept::PackedSlot;
use super::keys::{BlockLayout, KeyStream, KeysValues, Pass};
use super::pack::{Scratch, copy_heads, pack_heads, sums_to_rows, take, transpose};
use super::passes::{Scores, Softmax, mask, scale_columns, softmax};
use super::plan::{Geometry, KEY_BLOCK, Sequence, Tile};
use super::shaping::{Bias, Shaping};
use super::shared::Shared;

/// Work of a parallel task, in pairs of a tile and a block, at least.
const TASK_BLOCKS: usize = 32;

/// What the forward pass reads and writes.
pub(super) struct Forward<'a, T> {
    pub level: Level,
    pub spec: &'a AttentionSpec,
    pub sequences: &'a [Sequence],
    /// `[tokens, query_heads * head_dim]`.
    pub queries: &'a [T],
    /// Rows as the sequences name them.
    pub keys_values: KeysValues<'a, T>,
    /// For each sequence, if there are any: blocks of a key head that were packed in an earlier pass.
    pub packed: &'a [Option<PackedSlot<'a>>],
    pub bias: Option<Bias<'a>>,
    /// Like `queries`.
    pub out: &'a mut [T],
    /// `[tokens, query_heads]`: `log2 Σ 2^score` of each query, if it is wanted.
    pub log_sum: Option<&'a mut [f32]>,
}

impl<T: Element> Forward<'_, T> {
    /// Computes attention of every query.
    pub fn run(self) {
        let geometry = Geometry::new(self.spec, self.level, T::DTYPE, false);
        let layout = BlockLayout::new(&geometry, Pass::Forward);
        let (queries, spec, level, bias) = (self.queries, self.spec, self.level, self.bias);
        let earlier = self.packed;
        let out = Shared::new(self.out);
        let log_sum = self.log_sum.map(Shared::new);
        let (out, log_sum) = (&out, log_sum.as_ref());
        let heads = 0..spec.key_value_heads;
        let streams: Vec<(usize, &Sequence, usize)> = self
            .sequences
            .iter()
            .enumerate()
            .filter(|(_, s)| s.queries > 0)
            .flat_map(|(i, s)| heads.clone().map(move |head| (i, s, head)))
            .collect();
        let blocks: usize = self.sequences.iter().map(|s| s.blocks() * geometry.tiles(s)).sum();
        let together = (TASK_BLOCKS * self.sequences.len() / blocks.max(1)).max(1);
        streams.par_iter().with_min_len(together).for_each(|&(i, sequence, head)| {
            let tiles = geometry.tiles(sequence);
            let keys = KeyStream { source: self.keys_values, sequence, head, geometry: &geometry, layout };
            let stream = |packed, tiles| Stream { spec, keys: &keys, queries, packed, bias, out, log_sum, tiles };
            // A block that is used once is packed where it is used, while it is in the cache; or it was packed when its
            // last key came.
            if tiles <= 1 {
                let packed = earlier.get(i).and_then(Option::as_ref).map_or(&[][..], |slot| slot.head(head));
                return run(level, stream(packed, 0..tiles));
            }
            let packed = keys.pack(level);
            let together = (TASK_BLOCKS / sequence.blocks()).max(1);
            (0..tiles.div_ceil(together)).into_par_iter().for_each(|task| {
                let tiles = task * together..((task + 1) * together).min(tiles);
                run(level, stream(packed.as_units(), tiles));
            });
        });
    }
}

/// Tiles of one sequence and key head.
struct Stream<'a, T> {
    spec: &'a AttentionSpec,
    keys: &'a KeyStream<'a, T>,
    queries: &'a [T],
    /// The first blocks of keys, as many as are packed already.
    packed: &'a [u32],
    bias: Option<Bias<'a>>,
    out: &'a Shared<'a, T>,
    log_sum: Option<&'a Shared<'a, f32>>,
    tiles: Range<usize>,
}

/// Working memory of a tile.
struct Memory<'a> {
    natural: &'a mut [u32],
    queries: &'a mut [u32],
    scores: &'a mut [f32],
    sums: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
    correction: &'a mut [f32],
    first_seen: &'a mut [f32],
    last_seen: &'a mut [f32],
    block: &'a mut [u32],
    spare: &'a mut [u32],
}

impl<T: Element> Work for Stream<'_, T> {
    #[inline(always)]
    fn run<E: Engine>(self, engine: E) {
        let (geometry, layout) = (self.keys.geometry, self.keys.layout);
        let (rows, width) = (geometry.tile_queries, geometry.width);
        let natural = rows * geometry.width_units();
        let scores = rows * KEY_BLOCK.max(width);
        let (block, spare) = match self.packed.len() / layout.units() {
            packed if packed >= self.keys.sequence.blocks() => (0, 0),
            _ => (layout.units(), layout.spare_units()),
        };
        let mut scratch = Scratch::new(2 * natural + scores + rows * width + 5 * rows + block + spare);
        let mut rest = scratch.units();
        let mut floats = |n| bytemuck::cast_slice_mut(take(&mut rest, n));
        let mut memory = Memory {
            scores: floats(scores),
            sums: floats(rows * width),
            max: floats(rows),
            sum: floats(rows),
            correction: floats(rows),
            first_seen: floats(rows),
            last_seen: floats(rows),
            natural: take(&mut rest, natural),
            queries: take(&mut rest, natural),
            block: take(&mut rest, block),
            spare: take(&mut rest, spare),
        };
        for tile in self.tiles.clone() {
            self.tile(engine, tile, &mut memory);
        }
    }
}

impl<T: Element> Stream<'_, T> {
    #[inline(always)]
    fn tile<E: Engine>(&self, engine: E, index: usize, memory: &mut Memory) {
        let KeyStream { geometry, sequence, layout, head, .. } = *self.keys;
        let (width, units) = (geometry.width, geometry.width_units());
        let tile = Tile::new(index, sequence, geometry, self.spec, memory.first_seen, memory.last_seen);
        let columns = tile.padded;
        self.pack_queries::<E>(&tile, memory);
        let shaping = Shaping::new(self.spec, self.bias, sequence, &tile, geometry, head);
        let mut state = Softmax {
            max: &mut memory.max[..columns],
            sum: &mut memory.sum[..columns],
            correction: &mut memory.correction[..columns],
        };
        state.max.fill(f32::NEG_INFINITY);
        state.sum.fill(0.0);
        for (at, taken) in tile.blocks(geometry.key_grain).enumerate() {
            let from = taken.block * layout.units();
            let block = match self.packed.get(from..from + layout.units()) {
                Some(packed) => packed,
                None => {
                    self.keys.pack_block::<E>(taken.block, memory.block, memory.spare);
                    &*memory.block
                }
            };
            let block = layout.view(block);
            let rows = taken.rows.clone();
            let scores = &mut *memory.scores;
            // SAFETY: operands hold `rows` of a block and `columns` queries; sizes are multiples of 16.
            unsafe {
                engine.product(Product {
                    c: (scores[rows.start * columns..].as_mut_ptr(), columns),
                    a: (block.keys[rows.start * units..].as_ptr(), units),
                    b: (memory.queries.as_ptr(), columns),
                    m: rows.len(),
                    n: columns,
                    k: units,
                    add: false,
                });
            }
            let mut s = Scores { values: scores, queries: columns, rows: rows.clone() };
            if let Some(shaping) = &shaping {
                shaping.apply(&mut s, taken.block * KEY_BLOCK, None);
            }
            if taken.masked {
                mask(engine.simd(), &mut s, taken.block * KEY_BLOCK, memory.first_seen, memory.last_seen);
            }
            let corrected = softmax(engine, &mut s, &mut state, Shaping::factor(&shaping, self.spec));
            if corrected && at > 0 {
                scale_columns(engine.simd(), memory.sums, width, state.correction);
            }
            // SAFETY: as above; the packed probabilities start at the block's first row in use.
            unsafe {
                engine.product(Product {
                    c: (memory.sums.as_mut_ptr(), columns),
                    a: (block.transposed[rows.start / E::PAIR..].as_ptr(), KEY_BLOCK / E::PAIR),
                    b: (memory.scores[rows.start / E::PAIR * columns..].as_ptr().cast(), columns),
                    m: width,
                    n: columns,
                    k: rows.len() / E::PAIR,
                    add: at > 0,
                });
            }
        }
        self.finish(engine, &tile, memory);
    }

    /// The tile's queries as a `b` operand, `[width, queries]`.
    #[inline(always)]
    fn pack_queries<E: Engine>(&self, tile: &Tile, memory: &mut Memory) {
        let geometry = self.keys.geometry;
        let units = geometry.width_units();
        for token in 0..tile.tokens {
            let from = &self.queries[self.place(tile, token)..][..geometry.group * geometry.head_dim];
            let to = &mut memory.natural[token * geometry.group * units..][..geometry.group * units];
            pack_heads::<T, E>(to, from, geometry.head_dim, units);
        }
        memory.natural[tile.queries * units..tile.padded * units].fill(0);
        transpose(memory.queries, tile.padded, memory.natural, units, tile.padded, units);
    }

    /// Where the group's heads of a tile's token stand in the queries and the output.
    #[inline(always)]
    fn place(&self, tile: &Tile, token: usize) -> usize {
        let KeyStream { geometry, sequence, head, .. } = *self.keys;
        let row = sequence.query_row + tile.first + token;
        (row * geometry.key_value_heads + head) * geometry.group * geometry.head_dim
    }

    /// Divides by the sums of probabilities and writes the rows out.
    #[inline(always)]
    fn finish<E: Engine>(&self, engine: E, tile: &Tile, memory: &mut Memory) {
        let geometry = self.keys.geometry;
        let (width, columns) = (geometry.width, tile.padded);
        for (inverse, sum) in memory.correction[..columns].iter_mut().zip(&*memory.sum) {
            // A query whose scores are all negative infinity attends to nothing.
            *inverse = if *sum == 0.0 { 0.0 } else { 1.0 / sum };
        }
        let rows: &mut [u32] = bytemuck::cast_slice_mut(memory.scores);
        sums_to_rows::<T, E>(engine, rows, memory.sums, &memory.correction[..columns], width);
        let rows: &[T] = bytemuck::cast_slice(rows);
        let len = geometry.group * geometry.head_dim;
        for token in 0..tile.tokens {
            let at = self.place(tile, token);
            // SAFETY: a token's heads of one group belong to one tile.
            let out = unsafe { self.out.slice(at..at + len) };
            copy_heads(out, &rows[token * geometry.group * width..], geometry.head_dim, width);
        }
        let Some(log_sum) = self.log_sum else { return };
        for ((log, max), sum) in memory.correction[..columns].iter_mut().zip(&*memory.max).zip(&*memory.sum) {
            *log = if *sum == 0.0 { f32::INFINITY } else { max + simd::log2(*sum) };
        }
        for token in 0..tile.tokens {
            let at = self.place(tile, token) / geometry.head_dim;
            let logs = &memory.correction[token * geometry.group..][..geometry.group];
            // SAFETY: as above.
            unsafe { log_sum.slice(at..at + geometry.group) }.copy_from_slice(logs);
        }
    }
}
