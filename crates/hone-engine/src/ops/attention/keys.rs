//! Blocks of keys and values as operands, packed once for all the queries that see them.

use std::ops::Range;

use rayon::prelude::*;

use crate::dtype::Element;

use super::engine::{Engine, EngineKind, Work, run};
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

    /// Units of working memory [`pack_block`] wants.
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

/// Packs block `block` of a sequence for one key head. Positions past the sequence's end become zeros.
#[inline(always)]
pub(super) fn pack_block<T: Element, E: Engine>(
    to: &mut [u32],
    spare: &mut [u32],
    source: KeysValues<T>,
    sequence: &Sequence,
    block: usize,
    head: usize,
    geometry: &Geometry,
    layout: &BlockLayout,
) {
    let positions = block * KEY_BLOCK..((block + 1) * KEY_BLOCK).min(sequence.keys);
    let (mut to, mut spare) = (to, spare);
    let keys = take(&mut to, layout.natural);
    natural_rows::<T, E>(keys, source.keys, sequence, positions.clone(), head, geometry);
    let values = match layout.pass {
        Pass::Forward => take(&mut spare, layout.natural),
        Pass::Backward => take(&mut to, layout.natural),
    };
    natural_rows::<T, E>(values, source.values, sequence, positions, head, geometry);
    let transposed = match layout.pass {
        Pass::Forward => values,
        Pass::Backward => keys,
    };
    transpose_rows::<E>(to, transposed, spare, KEY_BLOCK, geometry.width);
}

#[inline(always)]
fn natural_rows<T: Element, E: Engine>(
    to: &mut [u32],
    from: &[T],
    sequence: &Sequence,
    positions: Range<usize>,
    head: usize,
    geometry: &Geometry,
) {
    let stride = geometry.key_value_heads * geometry.head_dim;
    let mut rows = to.chunks_exact_mut(geometry.width_units());
    for row in sequence.key_rows(positions).flatten() {
        if let Some(to) = rows.next() {
            pack_row::<T, E>(to, &from[row * stride + head * geometry.head_dim..][..geometry.head_dim]);
        }
    }
    rows.for_each(|to| to.fill(0));
}

/// All blocks of a sequence for one key head, packed in parallel.
pub(super) fn pack_blocks<T: Element>(
    kind: EngineKind,
    source: KeysValues<T>,
    sequence: &Sequence,
    head: usize,
    geometry: &Geometry,
    layout: &BlockLayout,
) -> Scratch {
    let mut packed = Scratch::new(sequence.blocks() * layout.units());
    let task = TASK_BLOCKS * layout.units();
    packed.units().par_chunks_mut(task).enumerate().for_each(|(task, to)| {
        run(kind, PackBlocks { to, first: task * TASK_BLOCKS, source, sequence, head, geometry, layout });
    });
    packed
}

struct PackBlocks<'a, T> {
    to: &'a mut [u32],
    first: usize,
    source: KeysValues<'a, T>,
    sequence: &'a Sequence,
    head: usize,
    geometry: &'a Geometry,
    layout: &'a BlockLayout,
}

impl<T: Element> Work for PackBlocks<'_, T> {
    #[inline(always)]
    fn run<E: Engine>(self, _engine: E) {
        let mut spare = Scratch::new(self.layout.spare_units());
        let spare = spare.units();
        for (i, to) in self.to.chunks_exact_mut(self.layout.units()).enumerate() {
            let Self { source, sequence, head, geometry, layout, first, .. } = self;
            pack_block::<T, E>(to, spare, source, sequence, first + i, head, geometry, layout);
        }
    }
}
