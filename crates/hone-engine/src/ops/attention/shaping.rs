//! What some models do to scores between the product and the softmax: soft cap and additive bias. Plain attention skips
//! all of it.

use std::f32::consts::LOG2_E;

use crate::simd;

use super::AttentionSpec;
use super::passes::Scores;
use super::plan::{Geometry, Sequence, Tile};

/// An additive bias `[query_heads, tokens, tokens]` over the flat batch.
#[derive(Clone, Copy)]
pub(super) struct Bias<'a> {
    pub values: &'a [f32],
    pub tokens: usize,
}

/// Soft cap and bias of one tile.
pub(super) struct Shaping<'a> {
    spec: &'a AttentionSpec,
    bias: Option<Bias<'a>>,
    sequence: &'a Sequence,
    tile: &'a Tile,
    group: usize,
    first_head: usize,
}

impl<'a> Shaping<'a> {
    /// For a tile of the group of key head `head`; `None` when scores are only scaled.
    #[inline(always)]
    pub fn new(
        spec: &'a AttentionSpec,
        bias: Option<Bias<'a>>,
        sequence: &'a Sequence,
        tile: &'a Tile,
        geometry: &Geometry,
        head: usize,
    ) -> Option<Self> {
        let group = geometry.group;
        // A negative scale would turn the highest product into the lowest score.
        let needed = bias.is_some() || spec.soft_cap.is_some() || spec.scale < 0.0;
        needed.then_some(Shaping { spec, bias, sequence, tile, group, first_head: head * group })
    }

    /// What turns a score of the tile into units of `log2`.
    #[inline(always)]
    pub fn factor(shaping: &Option<Self>, spec: &AttentionSpec) -> f32 {
        if shaping.is_some() { 1.0 } else { spec.scale * LOG2_E }
    }

    /// Turns products into scores in `log2` units, row 0 of the tile being key `position`. `slope`, if given, becomes the
    /// derivative of the soft cap, one a score.
    #[inline(always)]
    pub fn apply(&self, s: &mut Scores, position: usize, mut slope: Option<&mut [f32]>) {
        let columns = s.queries;
        for key in s.rows.clone() {
            let row = &mut s.values[key * columns..][..columns];
            let slope = slope.as_deref_mut().map(|s| &mut s[key * columns..][..columns]);
            match self.spec.soft_cap {
                None => {
                    row.iter_mut().for_each(|s| *s *= self.spec.scale * LOG2_E);
                    slope.into_iter().for_each(|s| s.fill(1.0));
                }
                Some(cap) => {
                    let inner = self.spec.scale / cap;
                    if let Some(slope) = slope {
                        for (slope, s) in slope.iter_mut().zip(&*row) {
                            let t = simd::tanh(*s * inner);
                            *slope = 1.0 - t * t;
                        }
                    }
                    row.iter_mut().for_each(|s| *s = cap * LOG2_E * simd::tanh(*s * inner));
                }
            }
        }
        let Some(bias) = self.bias else { return };
        self.for_scores(s.rows.clone(), position, bias.tokens, |query, key, at| {
            s.values[key * columns + query] += LOG2_E * bias.values[at];
        });
    }

    /// Calls `body` with the query and key of each score of the tile (in the tile) and its place in the bias.
    #[inline(always)]
    pub fn for_scores(
        &self,
        rows: std::ops::Range<usize>,
        position: usize,
        tokens: usize,
        mut body: impl FnMut(usize, usize, usize),
    ) {
        for query in 0..self.tile.queries {
            let head = self.first_head + query % self.group;
            let row = self.sequence.query_row + self.tile.first + query / self.group;
            let mut key = rows.start;
            let end = (position + rows.end).min(self.sequence.keys);
            for keys in self.sequence.key_rows(position + rows.start..end) {
                for key_row in keys {
                    body(query, key, (head * tokens + row) * tokens + key_row);
                    key += 1;
                }
            }
        }
    }
}
