//! `W + s B A` with a pair that is made of other parameters: pieces of a bank, numbers of one vector, singular directions with a
//! mixture between them.
//!
//! Forward, `y += s · drop(x) Aᵀ Bᵀ`, the base map left as it is (quantised, perhaps). Merged, `W ± s B A`.

use hone_engine::ops::{self, LowRank};
use hone_engine::{Tape, Tensor, Var, WeightRef};
use hone_model::Linear;

use super::dropout;
use crate::method::{At, LinearEffect, LowRankPair, Merge, Part};

/// How a method makes a pair.
pub trait MadePair: Send + Sync {
    /// `A` `[r, in]` and `B` `[out, r]`, of the parameters `values` in order of the part's plan.
    fn pair(&self, tape: &Tape, values: &[Var]) -> (Var, Var);
}

/// A [`MadePair`] as a part.
pub struct MadePairPart<M> {
    /// What makes the pair.
    pub made: M,
    /// Dropout on the input of `A`.
    pub dropout: f32,
}

impl<M: MadePair> MadePairPart<M> {
    fn constant(&self, values: &[Tensor]) -> (Tensor, Tensor) {
        let values: Vec<Var> = values.iter().cloned().map(Var::constant).collect();
        let (a, b) = self.made.pair(&Tape::off(), &values);
        (a.value, b.value)
    }
}

impl<M: MadePair> Part for MadePairPart<M> {
    fn on_linear(&self, at: &At, _linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let tape = &at.cx.tape;
        let (a, b) = self.made.pair(tape, at.values);
        let (a, b) = (ops::convert(tape, &a, at.cx.dtype), ops::convert(tape, &b, at.cx.dtype));
        LinearEffect::term(LowRank { a, b, scale: at.strength, dropout: dropout(at, self.dropout) })
    }

    fn low_rank(&self, values: &[Tensor], _group: Option<u32>) -> Option<LowRankPair> {
        let (a, b) = self.constant(values);
        Some(LowRankPair { a, b, scale: 1.0 })
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let (a, b) = self.constant(merge.values);
        Ok(merge.with_product(1.0, &b, &a))
    }
}
