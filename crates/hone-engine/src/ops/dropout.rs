//! Inverted dropout, the mask drawn by counter (recomputed, never stored).

use crate::random::RandomKey;
use crate::tape::{Tape, Var};

/// Drop each element with probability `p` and scale the rest by `1 / (1 - p)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping, in [0, 1).
    pub p: f32,
    /// Names the mask: run, step and site.
    pub key: RandomKey,
}

/// `x * mask / (1 - p)`.
pub fn dropout(_tape: &Tape, _x: &Var, _dropout: Dropout) -> Var {
    todo!()
}
