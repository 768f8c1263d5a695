//! A linear map with the low-rank edits on it: `y = x Wᵀ + bias + Σ scale · drop(x) Aᵀ Bᵀ` (LoRA, arXiv 2106.09685), as one
//! operation, so that neither the low-rank products' intermediates nor the sums make passes of their own.

use super::dropout::Dropout;
use crate::tape::{Tape, Var};
use crate::weight::WeightRef;

/// One low-rank term.
#[derive(Clone)]
pub struct LowRank {
    /// `[rank, in]`.
    pub a: Var,
    /// `[out, rank]`.
    pub b: Var,
    /// `alpha / rank`, or what the method says.
    pub scale: f32,
    /// On the term's input only.
    pub dropout: Option<Dropout>,
}

/// `x` `[tokens, in]`, `bias` `[out]`; result `[tokens, out]` in `x`'s type. Frozen weights take no gradient work; the
/// input's gradient is computed only if `x` needs it.
pub fn linear(_tape: &Tape, _x: &Var, _weight: &WeightRef, _bias: Option<&Var>, _terms: &[LowRank]) -> Var {
    todo!()
}

/// One map of a group that reads the same input (`q`, `k`, `v`; `gate`, `up`).
pub struct LinearPart<'a> {
    /// `[out, in]`.
    pub weight: &'a WeightRef,
    /// `[out]`.
    pub bias: Option<&'a Var>,
    /// Low-rank terms.
    pub terms: &'a [LowRank],
}

/// Several maps of one input: the same numbers as [`linear`] for each, `x` read once and its gradient summed once.
pub fn linears(_tape: &Tape, _x: &Var, _parts: &[LinearPart<'_>]) -> Vec<Var> {
    todo!()
}
