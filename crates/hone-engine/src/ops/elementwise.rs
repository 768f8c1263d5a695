//! Element-wise sums and products.

use crate::tape::{Tape, Var};

/// `x + y`, same shape.
pub fn add(tape: &Tape, x: &Var, y: &Var) -> Var {
    add_scaled(tape, x, y, 1.0)
}
/// `x + factor * y`, same shape.
pub fn add_scaled(_tape: &Tape, _x: &Var, _y: &Var, _factor: f32) -> Var {
    todo!()
}
/// `x * y`; `y` has the shape of `x` or is a row `[width]` that is repeated.
pub fn multiply(_tape: &Tape, _x: &Var, _y: &Var) -> Var {
    todo!()
}
/// `factor * x`.
pub fn scale(_tape: &Tape, _x: &Var, _factor: f32) -> Var {
    todo!()
}
