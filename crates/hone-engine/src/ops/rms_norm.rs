//! Root-mean-square normalisation `x / sqrt(mean(x²) + eps) * (w + offset)` over the last axis (arXiv 1910.07467).
//! `offset` is 1 for Gemma, whose stored weights are around zero, and 0 elsewhere.

use crate::tape::{Tape, Var};

/// `x` `[tokens, width]`, `w` `[width]` (`f32` or `x`'s type). Statistics in `f32`; result in `x`'s type.
pub fn rms_norm(_tape: &Tape, _x: &Var, _w: &Var, _eps: f32, _offset: f32) -> Var {
    todo!()
}
/// `s = x + residual`, and its norm: returns `(s, norm(s))` in one pass (the pair that opens every half block).
pub fn add_rms_norm(_tape: &Tape, _residual: &Var, _x: &Var, _w: &Var, _eps: f32, _offset: f32) -> (Var, Var) {
    todo!()
}
/// The norm over each head of `x` `[tokens, heads * head_dim]` with one `w` `[head_dim]` (Qwen3, Gemma3 qk-norm).
pub fn head_rms_norm(_tape: &Tape, _x: &Var, _w: &Var, _eps: f32, _offset: f32) -> Var {
    todo!()
}
