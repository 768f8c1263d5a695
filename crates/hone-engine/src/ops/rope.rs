//! Rotary position embedding (arXiv 2104.09864), half-rotation layout of Hugging Face: within a head of width `d`, entry
//! `i < d/2` turns with entry `i + d/2` by the angle `position * inverse_frequency[i]`.

use crate::tape::{Tape, Var};

/// Cosines and sines by position, computed in `f32` from inverse frequencies (which carry all scaling schemes).
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[d/2]` inverse frequencies.
    pub inverse_frequencies: Vec<f32>,
    /// Factor on cosines and sines (YaRN's attention factor); 1 elsewhere.
    pub attention_factor: f32,
}

/// Turns `x` `[tokens, heads * head_dim]` by `positions` (one a token). Backward turns back.
pub fn rope(_tape: &Tape, _x: &Var, _positions: &[u32], _head_dim: usize, _table: &RopeTable) -> Var {
    todo!()
}
