//! The backward pass: probabilities are recomputed tile by tile from the saved log-sums (FlashAttention-2, algorithm 2,
//! arXiv 2307.08691).
//!
//! With `p = softmax(s)`, `s = scale q kᵀ` and `o = p v`: `dv = pᵀ do`, `dp = do vᵀ`, `ds = p ∘ (dp - rowsum(do ∘ o))`,
//! `dq = scale ds k`, `dk = scale dsᵀ q`.
//!
//! A task owns *lanes* of key blocks of one sequence and head: it sums their `dk` and `dv` over all queries in order, so
//! no two tasks ever add to the same number. `dq` is summed within a lane and then over lanes in order. How many lanes
//! there are follows from the sequence's length alone.

use rayon::prelude::*;

use crate::cpu::Level;
use crate::dtype::Element;
use crate::simd;

use super::AttentionSpec;
use super::engine::{Engine, Product, Work, run};
use super::keys::{BlockLayout, KeyStream, KeysValues, Pass};
use super::pack::{Scratch, copy_heads, pack_heads, pair_rows, sums_to_rows, take, transpose};
use super::passes::{RowStatistics, Scores, mask, row_dots, softmax_gradient};
use super::plan::{Geometry, KEY_BLOCK, Sequence, Tile};
use super::shaping::{Bias, Shaping};
use super::shared::Shared;

/// Keys from which on another lane is worth its partial sums.
const LANE_KEYS: usize = 1024;
/// Most lanes; bounds the memory of partial sums.
const MAX_LANES: usize = 4;

/// What the backward pass reads and writes.
pub(super) struct Backward<'a, T> {
    pub level: Level,
    pub spec: &'a AttentionSpec,
    pub sequences: &'a [Sequence],
    /// `[tokens, query_heads * head_dim]`, as `out` and its gradient.
    pub queries: &'a [T],
    pub keys_values: KeysValues<'a, T>,
    pub bias: Option<Bias<'a>>,
    pub out: &'a [T],
    pub out_gradient: &'a [T],
    /// `[tokens, query_heads]`, from the forward pass.
    pub log_sum: &'a [f32],
    /// Like `queries`.
    pub query_gradient: &'a mut [T],
    /// Like the keys.
    pub key_gradient: &'a mut [T],
    /// Like the values.
    pub value_gradient: &'a mut [T],
    /// Like the bias, zeros.
    pub bias_gradient: Option<&'a mut [f32]>,
}

/// What the tasks share.
struct Job<'a, T> {
    level: Level,
    spec: &'a AttentionSpec,
    geometry: Geometry,
    layout: BlockLayout,
    queries: &'a [T],
    keys_values: KeysValues<'a, T>,
    bias: Option<Bias<'a>>,
    out: &'a [T],
    out_gradient: &'a [T],
    log_sum: &'a [f32],
    query_gradient: Shared<'a, T>,
    key_gradient: Shared<'a, T>,
    value_gradient: Shared<'a, T>,
    bias_gradient: Option<Shared<'a, f32>>,
}

impl<T: Element> Backward<'_, T> {
    /// Computes all gradients.
    pub fn run(self) {
        let geometry = Geometry::new(self.spec, self.level, T::DTYPE, true);
        let job = Job {
            level: self.level,
            spec: self.spec,
            geometry,
            layout: BlockLayout::new(&geometry, Pass::Backward),
            queries: self.queries,
            keys_values: self.keys_values,
            bias: self.bias,
            out: self.out,
            out_gradient: self.out_gradient,
            log_sum: self.log_sum,
            query_gradient: Shared::new(self.query_gradient),
            key_gradient: Shared::new(self.key_gradient),
            value_gradient: Shared::new(self.value_gradient),
            bias_gradient: self.bias_gradient.map(Shared::new),
        };
        // Sequences that share a prefix add to the same keys: they are one family, worked on in order.
        let mut families: Vec<Vec<&Sequence>> = Vec::new();
        let mut family_of = std::collections::HashMap::new();
        for sequence in self.sequences.iter().filter(|s| s.queries > 0) {
            let root = sequence.pieces.first().map(|p| p.start);
            let family = *family_of.entry(root).or_insert(families.len());
            if family == families.len() {
                families.push(Vec::new());
            }
            families[family].push(sequence);
        }
        let heads = 0..geometry.key_value_heads;
        let streams: Vec<(&[&Sequence], usize)> =
            families.iter().flat_map(|f| heads.clone().map(move |head| (&f[..], head))).collect();
        streams.par_iter().for_each(|&(family, head)| job.family(family, head));
    }
}

/// Gradients of one sequence's keys and values for one head, `[blocks * KEY_BLOCK, width]` each, `dk` unscaled.
struct KeyGradients {
    sums: Scratch,
    len: usize,
}

impl KeyGradients {
    fn new(keys: usize, width: usize) -> Self {
        let len = keys.next_multiple_of(KEY_BLOCK) * width;
        let mut sums = Scratch::new(2 * len);
        sums.units().fill(0);
        KeyGradients { sums, len }
    }

    fn halves(&mut self) -> (&mut [f32], &mut [f32]) {
        bytemuck::cast_slice_mut(self.sums.units()).split_at_mut(self.len)
    }
}

impl<T: Element> Job<'_, T> {
    fn family(&self, family: &[&Sequence], head: usize) {
        if let [sequence] = family {
            let sums = self.sequence(sequence, head);
            return self.write_keys(sums, sequence.pieces.iter().cloned(), head);
        }
        let width = self.geometry.width;
        let own: Vec<_> = family.iter().filter_map(|s| s.pieces.last().cloned()).collect();
        let mut total = KeyGradients::new(own.iter().map(|rows| rows.len()).sum(), width);
        // First row of each member's own tokens and where they stand in `total`.
        let mut places = std::collections::HashMap::new();
        let mut before = 0;
        for rows in &own {
            places.insert(rows.start, before);
            before += rows.len();
        }
        for sequence in family {
            let mut sums = self.sequence(sequence, head);
            let ((dk, dv), (total_dk, total_dv)) = (sums.halves(), total.halves());
            let mut from = 0;
            for piece in &sequence.pieces {
                let (len, to) = (piece.len() * width, places[&piece.start] * width);
                simd::dispatch(
                    #[inline(always)]
                    || {
                        simd::add_scaled(&mut total_dk[to..to + len], 1.0, &dk[from..from + len]);
                        simd::add_scaled(&mut total_dv[to..to + len], 1.0, &dv[from..from + len]);
                    },
                );
                from += len;
            }
        }
        self.write_keys(total, own.into_iter(), head);
    }

    /// Writes `dk` and `dv` to the rows they belong to.
    fn write_keys(&self, mut sums: KeyGradients, rows: impl Iterator<Item = std::ops::Range<usize>>, head: usize) {
        let (Geometry { head_dim, width, key_value_heads, .. }, scale) = (self.geometry, self.spec.scale);
        let (dk, dv) = sums.halves();
        simd::dispatch(
            #[inline(always)]
            || {
                for ((row, dk), dv) in rows.flatten().zip(dk.chunks_exact(width)).zip(dv.chunks_exact(width)) {
                    let at = (row * key_value_heads + head) * head_dim;
                    // SAFETY: a token's key belongs to one family, and each head is one task.
                    let (to_dk, to_dv) = unsafe {
                        (self.key_gradient.slice(at..at + head_dim), self.value_gradient.slice(at..at + head_dim))
                    };
                    write_scaled(to_dk, &dk[..head_dim], scale);
                    simd::convert(to_dv, &dv[..head_dim]);
                }
            },
        );
    }

    /// All gradients through one sequence's queries: writes `dq`, returns `dk` and `dv`.
    fn sequence(&self, sequence: &Sequence, head: usize) -> KeyGradients {
        let (geometry, level) = (&self.geometry, self.level);
        let mut sums = KeyGradients::new(sequence.keys, geometry.width);
        let keys = KeyStream { source: self.keys_values, sequence, head, geometry, layout: self.layout };
        let packed = keys.pack(level);
        let packed = packed.as_units();
        let (dk, dv) = sums.halves();
        let (dk, dv) = (&Shared::new(dk), &Shared::new(dv));
        let lanes = (sequence.keys / LANE_KEYS).clamp(1, MAX_LANES);
        if lanes == 1 {
            run(level, Lane { job: self, sequence, head, packed, dk, dv, lane: 0, lanes, partial: None });
            return sums;
        }
        let tile = geometry.tile_queries * geometry.width;
        let tiles = geometry.tiles(sequence);
        let mut partial = Scratch::new(lanes * tiles * tile);
        let partial: &mut [f32] = bytemuck::cast_slice_mut(partial.units());
        partial.par_chunks_mut(tiles * tile).enumerate().for_each(|(lane, partial)| {
            run(level, Lane { job: self, sequence, head, packed, dk, dv, lane, lanes, partial: Some(partial) });
        });
        let partial: &[f32] = partial;
        (0..tiles).into_par_iter().for_each(|index| {
            let parts = |lane: usize| &partial[(lane * tiles + index) * tile..][..tile];
            run(level, SumLanes { job: self, sequence, head, index, lanes, parts });
        });
        sums
    }

    /// Where the group's heads of a sequence's query stand in `[tokens, query_heads]`.
    fn place(&self, sequence: &Sequence, query: usize, head: usize) -> usize {
        let Geometry { key_value_heads, group, .. } = self.geometry;
        ((sequence.query_row + query) * key_value_heads + head) * group
    }

    /// Writes `dq` of a tile from its transpose, `[width, queries]`. `rows` holds a tile, `factors` a row of it.
    #[inline(always)]
    fn write_queries<E: Engine>(
        &self,
        engine: E,
        (sequence, head): (&Sequence, usize),
        tile: &Tile,
        sums: &mut [f32],
        rows: &mut [f32],
        factors: &mut [f32],
    ) {
        let Geometry { head_dim, width, group, .. } = self.geometry;
        let rows: &mut [u32] = bytemuck::cast_slice_mut(rows);
        let factors = &mut factors[..tile.padded];
        factors.fill(self.spec.scale);
        sums_to_rows::<T, E>(engine, rows, sums, factors, width);
        let rows: &[T] = bytemuck::cast_slice(rows);
        for token in 0..tile.tokens {
            let at = self.place(sequence, tile.first + token, head) * head_dim;
            // SAFETY: a token's heads of one group belong to one tile.
            let to = unsafe { self.query_gradient.slice(at..at + group * head_dim) };
            copy_heads(to, &rows[token * group * width..], head_dim, width);
        }
    }
}

/// `to = scale * from`, rounded.
#[inline(always)]
fn write_scaled<T: Element>(to: &mut [T], from: &[f32], scale: f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = T::rounded(scale * from);
    }
}

/// The key blocks `lane`, `lane + lanes` … of one sequence and head.
struct Lane<'a, T> {
    job: &'a Job<'a, T>,
    sequence: &'a Sequence,
    head: usize,
    packed: &'a [u32],
    dk: &'a Shared<'a, f32>,
    dv: &'a Shared<'a, f32>,
    lane: usize,
    lanes: usize,
    /// `[tiles, width * tile_queries]`: where `dq` goes when other lanes have parts of it.
    partial: Option<&'a mut [f32]>,
}

/// Working memory of a tile.
struct Memory<'a> {
    /// Queries as a `b` operand summed over the head, `[width, queries]`, and over queries, `[queries, width]`.
    natural: &'a mut [u32],
    transposed: &'a mut [u32],
    paired: &'a mut [u32],
    /// The same of the output's gradient.
    gradient_natural: &'a mut [u32],
    gradient_transposed: &'a mut [u32],
    gradient_paired: &'a mut [u32],
    scores: &'a mut [f32],
    score_gradients: &'a mut [f32],
    slope: &'a mut [f32],
    keys_packed: &'a mut [u32],
    sums: &'a mut [f32],
    log_sum: &'a mut [f32],
    delta: &'a mut [f32],
    first_seen: &'a mut [f32],
    last_seen: &'a mut [f32],
}

impl<T: Element> Work for Lane<'_, T> {
    #[inline(always)]
    fn run<E: Engine>(mut self, engine: E) {
        let geometry = &self.job.geometry;
        let (rows, width) = (geometry.tile_queries, geometry.width);
        let natural = rows * geometry.width_units();
        let paired = if E::PAIR == 1 { 0 } else { natural };
        let scores = rows * KEY_BLOCK.max(width);
        let slope = if self.job.bias.is_some() || self.job.spec.soft_cap.is_some() { rows * KEY_BLOCK } else { 0 };
        let keys_packed = if E::PAIR == 1 { 0 } else { rows * KEY_BLOCK / 2 };
        let units =
            4 * natural + 2 * paired + scores + rows * KEY_BLOCK + slope + keys_packed + rows * width + 4 * rows;
        let mut scratch = Scratch::new(units);
        let mut rest = scratch.units();
        let mut floats = |n| bytemuck::cast_slice_mut(take(&mut rest, n));
        let mut memory = Memory {
            scores: floats(scores),
            score_gradients: floats(rows * KEY_BLOCK),
            slope: floats(slope),
            sums: floats(rows * width),
            log_sum: floats(rows),
            delta: floats(rows),
            first_seen: floats(rows),
            last_seen: floats(rows),
            natural: take(&mut rest, natural),
            transposed: take(&mut rest, natural),
            paired: take(&mut rest, paired),
            gradient_natural: take(&mut rest, natural),
            gradient_transposed: take(&mut rest, natural),
            gradient_paired: take(&mut rest, paired),
            keys_packed: take(&mut rest, keys_packed),
        };
        let mut partial = self.partial.take();
        for index in 0..geometry.tiles(self.sequence) {
            self.tile(engine, index, &mut memory, partial.as_deref_mut());
        }
    }
}

impl<T: Element> Lane<'_, T> {
    #[inline(always)]
    fn tile<E: Engine>(&self, engine: E, index: usize, memory: &mut Memory, partial: Option<&mut [f32]>) {
        let (job, sequence, geometry) = (self.job, self.sequence, &self.job.geometry);
        let (width, units) = (geometry.width, geometry.width_units());
        let tile = Tile::new(index, sequence, geometry, job.spec, memory.first_seen, memory.last_seen);
        let columns = tile.padded;
        self.pack_queries(engine, &tile, memory);
        let queries = pair_rows::<E>(memory.paired, memory.natural, columns, width);
        let gradients = pair_rows::<E>(memory.gradient_paired, memory.gradient_natural, columns, width);
        let shaping = Shaping::new(job.spec, job.bias, sequence, &tile, geometry, self.head);
        let factor = Shaping::factor(&shaping, job.spec);
        let statistics = RowStatistics { log_sum: &memory.log_sum[..columns], delta: &memory.delta[..columns] };
        let mut add = false;
        for taken in tile.blocks(geometry.key_grain).filter(|b| b.block % self.lanes == self.lane) {
            let block = job.layout.view(&self.packed[taken.block * job.layout.units()..][..job.layout.units()]);
            let rows = taken.rows.clone();
            let (scores, score_gradients) = (&mut *memory.scores, &mut *memory.score_gradients);
            // SAFETY: operands hold `rows` of a block and `columns` queries; sizes are multiples of 16.
            unsafe {
                let over_head = |a: &[u32], b: &[u32], c: &mut [f32]| Product {
                    c: (c[rows.start * columns..].as_mut_ptr(), columns),
                    a: (a[rows.start * units..].as_ptr(), units),
                    b: (b.as_ptr(), columns),
                    m: rows.len(),
                    n: columns,
                    k: units,
                    add: false,
                };
                engine.product(over_head(block.keys, memory.transposed, scores));
                engine.product(over_head(block.values, memory.gradient_transposed, score_gradients));
            }
            let mut s = Scores { values: scores, queries: columns, rows: rows.clone() };
            let mut dp = Scores { values: score_gradients, queries: columns, rows: rows.clone() };
            let position = taken.block * KEY_BLOCK;
            let mut slope = None;
            if let Some(shaping) = &shaping {
                slope = (!memory.slope.is_empty()).then_some(&mut *memory.slope);
                shaping.apply(&mut s, position, slope.as_deref_mut());
            }
            if taken.masked {
                mask(engine.simd(), &mut s, position, memory.first_seen, memory.last_seen);
            }
            let slope_given = slope.is_some();
            softmax_gradient(engine, &mut s, &mut dp, memory.keys_packed, &statistics, factor, slope);
            if let (Some(to), Some(shaping), Some(bias), true) = (&job.bias_gradient, &shaping, job.bias, slope_given) {
                shaping.for_scores(rows.clone(), position, bias.tokens, |query, key, at| {
                    // SAFETY: a query's row of one head belongs to one tile, a key to one lane.
                    unsafe { to.slice(at..at + 1)[0] = memory.slope[key * columns + query] };
                });
            }
            let ds_keys = match E::PAIR {
                1 => memory.score_gradients[rows.start * columns..].as_ptr().cast(),
                _ => memory.keys_packed[rows.start / 2 * columns..].as_ptr(),
            };
            let own = (position + rows.start) * width..(position + rows.end) * width;
            // SAFETY: as above; the rows of `dk` and `dv` belong to this lane's blocks.
            unsafe {
                let over_queries = |a: &[f32], b: &[u32], c: &mut [f32]| Product {
                    c: (c.as_mut_ptr(), width),
                    a: (a[rows.start * columns..].as_ptr().cast(), columns),
                    b: (b.as_ptr(), width),
                    m: rows.len(),
                    n: width,
                    k: columns / E::PAIR,
                    add: true,
                };
                engine.product(over_queries(memory.scores, gradients, self.dv.slice(own.clone())));
                engine.product(over_queries(memory.score_gradients, queries, self.dk.slice(own)));
                engine.product(Product {
                    c: (memory.sums.as_mut_ptr(), columns),
                    a: (block.transposed[rows.start / E::PAIR..].as_ptr(), KEY_BLOCK / E::PAIR),
                    b: (ds_keys, columns),
                    m: width,
                    n: columns,
                    k: rows.len() / E::PAIR,
                    add,
                });
            }
            add = true;
        }
        let sums = &mut memory.sums[..columns * width];
        if !add {
            sums.fill(0.0);
        }
        match partial {
            Some(partial) => {
                partial[index * geometry.tile_queries * width..][..columns * width].copy_from_slice(sums);
            }
            None => job.write_queries(engine, (sequence, self.head), &tile, sums, memory.scores, memory.delta),
        }
    }

    /// Operands and statistics of the tile's queries.
    #[inline(always)]
    fn pack_queries<E: Engine>(&self, engine: E, tile: &Tile, memory: &mut Memory) {
        let (job, Geometry { head_dim, group, .. }) = (self.job, self.job.geometry);
        let (units, columns) = (job.geometry.width_units(), tile.padded);
        // The output is needed for a moment only: it takes the place of the scores to come.
        let out: &mut [u32] = bytemuck::cast_slice_mut(memory.scores);
        for token in 0..tile.tokens {
            let at = job.place(self.sequence, tile.first + token, self.head);
            memory.log_sum[token * group..][..group].copy_from_slice(&job.log_sum[at..at + group]);
            let from = at * head_dim..(at + group) * head_dim;
            let to = token * group * units..(token + 1) * group * units;
            pack_heads::<T, E>(&mut memory.natural[to.clone()], &job.queries[from.clone()], head_dim, units);
            let gradient = &mut memory.gradient_natural[to.clone()];
            pack_heads::<T, E>(gradient, &job.out_gradient[from.clone()], head_dim, units);
            pack_heads::<T, E>(&mut out[to], &job.out[from], head_dim, units);
        }
        // Padding adds nothing to any gradient: its queries, their gradients and their statistics are zeros.
        memory.natural[tile.queries * units..columns * units].fill(0);
        memory.gradient_natural[tile.queries * units..columns * units].fill(0);
        memory.log_sum[tile.queries..columns].fill(0.0);
        memory.delta[tile.queries..columns].fill(0.0);
        row_dots(engine, &mut memory.delta[..tile.queries], memory.gradient_natural, out, units);
        transpose(memory.transposed, columns, memory.natural, units, columns, units);
        transpose(memory.gradient_transposed, columns, memory.gradient_natural, units, columns, units);
    }
}

/// Adds up the lanes' parts of a tile's `dq`, in order, and writes it.
struct SumLanes<'a, T, P> {
    job: &'a Job<'a, T>,
    sequence: &'a Sequence,
    head: usize,
    index: usize,
    lanes: usize,
    parts: P,
}

impl<'a, T: Element, P: Fn(usize) -> &'a [f32]> Work for SumLanes<'a, T, P> {
    #[inline(always)]
    fn run<E: Engine>(self, engine: E) {
        let geometry = &self.job.geometry;
        let rows = geometry.tile_queries;
        let mut scratch = Scratch::new(2 * rows * geometry.width + 2 * rows);
        let mut rest: &mut [f32] = bytemuck::cast_slice_mut(scratch.units());
        let (first_seen, last_seen) = (take(&mut rest, rows), take(&mut rest, rows));
        let tile = Tile::new(self.index, self.sequence, geometry, self.job.spec, first_seen, last_seen);
        let sums = take(&mut rest, tile.padded * geometry.width);
        sums.copy_from_slice(&(self.parts)(0)[..sums.len()]);
        for lane in 1..self.lanes {
            simd::add_scaled(sums, 1.0, &(self.parts)(lane)[..sums.len()]);
        }
        self.job.write_queries(engine, (self.sequence, self.head), &tile, sums, rest, first_seen);
    }
}
