//! Blocks of keys and values as operands, packed once for all the queries that see them.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::Level;
use crate::dtype::Element;

use super::engine::{Engine, Work, run};
use super::pack::{Scratch, pack_row, take, transpose_rows};
use super::plan::{Geometry, KEY_BLOCK, Sequence};

/// Blocks a parallel task packs at least.
const TASK_BLOCKS: usize = 8;

/// What a pass multiplies with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Natural keys, transposed values.
    Forward,
    /// Natural keys and values, transposed keys.
    Backward,
}

/// Keys and values `[rows, key_value_heads * head_dim]`.
#[derive(Clone, Copy)]
pub(super) struct KeysValues<'a, T> {
    pub keys: &'a [T],
    pub values: &'a [T],
}

/// Where the parts of a packed block stand, in units.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockLayout {
    natural: usize,
    transposed: usize,
    pass: Pass,
}

/// A packed block.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// `[KEY_BLOCK, width]`, natural.
    pub keys: &'a [u32],
    /// `[KEY_BLOCK, width]`, natural: backward only, else empty.
    pub values: &'a [u32],
    /// `[width, KEY_BLOCK]`: values (forward) or keys (backward).
    pub transposed: &'a [u32],
}

impl BlockLayout {
    pub fn new(geometry: &Geometry, pass: Pass) -> BlockLayout {
        let natural = KEY_BLOCK * geometry.width_units();
        BlockLayout { natural, transposed: natural, pass }
    }

    /// Units of a block.
    pub fn units(&self) -> usize {
        let natural = if self.pass == Pass::Forward { 1 } else { 2 };
        natural * self.natural + self.transposed
    }

    /// Units of working memory that packing a block takes.
    pub fn spare_units(&self) -> usize {
        2 * self.natural
    }

    /// The parts of a block.
    pub fn view<'a>(&self, units: &'a [u32]) -> Block<'a> {
        let (keys, rest) = units.split_at(self.natural);
        let (values, transposed) = match self.pass {
            Pass::Forward => (&rest[..0], rest),
            Pass::Backward => rest.split_at(self.natural),
        };
        Block { keys, values, transposed: &transposed[..self.transposed] }
    }
}

/// Keys and values of one sequence and head, to be packed.
pub(super) struct KeyStream<'a, T> {
    pub source: KeysValues<'a, T>,
    pub sequence: &'a Sequence,
    /// Key head.
    pub head: usize,
    pub geometry: &'a Geometry,
    pub layout: BlockLayout,
}

impl<T: Element> KeyStream<'_, T> {
    /// Packs one block. Positions past the sequence's end become zeros.
    #[inline(always)]
    pub fn pack_block<E: Engine>(&self, block: usize, to: &mut [u32], spare: &mut [u32]) {
        let positions = block * KEY_BLOCK..((block + 1) * KEY_BLOCK).min(self.sequence.keys);
        let (mut to, mut spare) = (to, spare);
        let keys = take(&mut to, self.layout.natural);
        self.natural_rows::<E>(keys, self.source.keys, positions.clone());
        let values = match self.layout.pass {
            Pass::Forward => take(&mut spare, self.layout.natural),
            Pass::Backward => take(&mut to, self.layout.natural),
        };
        self.natural_rows::<E>(values, self.source.values, positions);
        let transposed = match self.layout.pass {
            Pass::Forward => values,
            Pass::Backward => keys,
        };
        transpose_rows::<E>(to, transposed, spare, KEY_BLOCK, self.geometry.width);
    }

    #[inline(always)]
    fn natural_rows<E: Engine>(&self, to: &mut [u32], from: &[T], positions: Range<usize>) {
        let width = self.geometry.head_dim;
        let mut rows = to.chunks_exact_mut(self.geometry.width_units());
        for row in self.sequence.key_rows(positions).flatten() {
            let at = (row * self.geometry.key_value_heads + self.head) * width;
            if let Some(to) = rows.next() {
                pack_row::<T, E>(to, &from[at..at + width]);
            }
        }
        rows.for_each(|to| to.fill(0));
    }

    /// All blocks, packed in parallel.
    pub fn pack(&self, level: Level) -> Scratch {
        let mut packed = Scratch::new(self.sequence.blocks() * self.layout.units());
        self.pack_from(level, 0, packed.units());
        packed
    }

    /// As many blocks from `first` on as `to` has room for, packed in parallel.
    pub fn pack_from(&self, level: Level, first: usize, to: &mut [u32]) {
        let task = TASK_BLOCKS * self.layout.units();
        to.par_chunks_mut(task).enumerate().for_each(|(task, to)| {
            run(level, PackBlocks { stream: self, first: first + task * TASK_BLOCKS, to });
        });
    }
}

struct PackBlocks<'a, T> {
    stream: &'a KeyStream<'a, T>,
    first: usize,
    to: &'a mut [u32],
}

impl<T: Element> Work for PackBlocks<'_, T> {
    #[inline(always)]
    fn run<E: Engine>(self, _engine: E) {
        let layout = &self.stream.layout;
        let mut spare = Scratch::new(layout.spare_units());
        for (i, to) in self.to.chunks_exact_mut(layout.units()).enumerate() {
            self.stream.pack_block::<E>(self.first + i, to, spare.units());
        }
    }
}
