//! Layer normalisation `(x - mean) / sqrt(var + eps) * w + b` over the last axis (Ba et al. 2016, arXiv 1607.06450).

use crate::tape::{Tape, Var};

/// `x` `[tokens, width]`, `w`, `b` `[width]` (`f32` or `x`'s type). Statistics in `f32`.
pub fn layer_norm(_tape: &Tape, _x: &Var, _w: &Var, _b: Option<&Var>, _eps: f32) -> Var {
    todo!()
}
