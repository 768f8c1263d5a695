//! Packed blocks of keys and values that outlive a pass: generation meets the same keys at every token, and a block of
//! [`KEY_BLOCK`] of them never changes once it is full.
//!
//! They are a second copy of the cache, for which every token is saved the packing of all that came before it.

use rayon::prelude::*;

use crate::cpu::Level;
use crate::dtype::{DType, Element};
use crate::tensor::Tensor;

use super::AttentionSpec;
use super::keys::{BlockLayout, KeyStream, KeysValues, Pass};
use super::pack::Scratch;
use super::plan::{Geometry, KEY_BLOCK, Sequence};

/// Packed blocks of one layer's cache.
pub struct KeptBlocks {
    slots: Vec<Slot>,
    /// What the blocks were packed for: others are packed anew.
    made_for: Option<(Level, DType)>,
}

#[derive(Default)]
struct Slot {
    /// Blocks that are packed, of every head.
    blocks: usize,
    /// `[heads, room, units of a block]`.
    units: Option<Scratch>,
    /// Blocks that `units` has room for.
    room: usize,
    /// Units of a block.
    block_units: usize,
}

/// The packed blocks of one slot.
#[derive(Clone, Copy)]
pub(in crate::ops) struct PackedSlot<'a> {
    units: &'a [u32],
    blocks: usize,
    room: usize,
    block_units: usize,
}

impl<'a> PackedSlot<'a> {
    /// Those of a key head.
    pub(super) fn head(&self, head: usize) -> &'a [u32] {
        &self.units[head * self.room * self.block_units..][..self.blocks * self.block_units]
    }
}

impl KeptBlocks {
    /// Nothing packed yet, for a cache of `slots` slots.
    pub fn new(slots: usize) -> KeptBlocks {
        KeptBlocks { slots: (0..slots).map(|_| Slot::default()).collect(), made_for: None }
    }

    /// Forgets what was packed of tokens from the `tokens`-th on, because they are written anew.
    pub fn truncate(&mut self, slot: usize, tokens: usize) {
        let slot = &mut self.slots[slot];
        slot.blocks = slot.blocks.min(tokens / KEY_BLOCK);
    }

    /// Packs what became full in the slots of `sequences` (given as slot and sequence), as far as a pass meets each block
    /// once: longer runs of queries pack their own. `keys`, `values` `[slots, capacity, key_value_heads * head_dim]`.
    pub(in crate::ops) fn update(
        &mut self,
        level: Level,
        spec: &AttentionSpec,
        keys: &Tensor,
        values: &Tensor,
        sequences: &[(usize, &Sequence)],
    ) {
        let geometry = Geometry::new(spec, level, keys.dtype(), false);
        let capacity = keys.dim(1);
        let short: Vec<_> = sequences.iter().copied().filter(|(_, s)| geometry.tiles(s) == 1).collect();
        crate::dispatch_dtype!(keys.dtype(), T => {
            let source = KeysValues { keys: keys.as_slice::<T>(), values: values.as_slice() };
            self.pack(level, &geometry, source, capacity, &short);
        });
    }

    fn pack<T: Element>(
        &mut self,
        level: Level,
        geometry: &Geometry,
        source: KeysValues<'_, T>,
        capacity: usize,
        sequences: &[(usize, &Sequence)],
    ) {
        let layout = BlockLayout::new(geometry, Pass::Forward);
        if self.made_for != Some((level, T::DTYPE)) {
            self.slots.iter_mut().for_each(|slot| *slot = Slot::default());
            self.made_for = Some((level, T::DTYPE));
        }
        let mut wanted: Vec<Option<&Sequence>> = vec![None; self.slots.len()];
        for (slot, sequence) in sequences {
            wanted[*slot] = Some(sequence);
        }
        self.slots.par_iter_mut().zip(wanted).for_each(|(slot, sequence)| {
            let Some(sequence) = sequence else { return };
            let full = sequence.keys / KEY_BLOCK;
            if full <= slot.blocks {
                return;
            }
            let (room, block_units) = (capacity / KEY_BLOCK, layout.units());
            let units = slot.units.get_or_insert_with(|| Scratch::new(geometry.key_value_heads * room * block_units));
            (slot.room, slot.block_units) = (room, block_units);
            units.units().par_chunks_mut(room * block_units).enumerate().for_each(|(head, units)| {
                let stream = KeyStream { source, sequence, head, geometry, layout };
                stream.pack_from(level, slot.blocks, &mut units[slot.blocks * block_units..full * block_units]);
            });
            slot.blocks = full;
        });
    }

    /// What is packed of a slot.
    pub(in crate::ops) fn slot(&self, slot: usize) -> Option<PackedSlot<'_>> {
        let Slot { blocks, units, room, block_units } = &self.slots[slot];
        let units = units.as_ref()?.as_units();
        Some(PackedSlot { units, blocks: *blocks, room: *room, block_units: *block_units })
    }
}
