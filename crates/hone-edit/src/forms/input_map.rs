//! `y = (x R) Wᵀ + b`: a linear map of the input before the frozen one (rotations, reflections).
//!
//! Merged, `W' = W Rᵀ`: the rows of `W` go through the transposed map. Strength other than 1 is refused: half a rotation is
//! not the rotation's half.

use hone_engine::{Tape, Tensor, Var};
use hone_model::Linear;

use crate::method::{At, Direction, Merge, Part};

/// A linear map of a linear map's input.
pub trait InputMap: Send + Sync {
    /// `x R` for `x` `[tokens, in]`, or `x Rᵀ` where `transposed`.
    fn apply(&self, tape: &Tape, values: &[Var], x: &Var, transposed: bool) -> Var;

    /// Whether `Rᵀ` undoes `R`, so that it can be unmerged.
    fn is_orthogonal(&self) -> bool {
        true
    }
}

/// An [`InputMap`] as a part.
pub struct InputMapPart<M>(pub M);

impl<M: InputMap> Part for InputMapPart<M> {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        next(&self.0.apply(&at.cx.tape, at.values, x, false))
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        if merge.strength != 1.0 {
            return Err(format!("it multiplies, so it cannot be merged at strength {}; use 1", merge.strength));
        }
        let back = merge.direction == Direction::Unmerge;
        if back && !self.0.is_orthogonal() {
            return Err("its map has no exact inverse; keep the base model instead of unmerging".into());
        }
        let values: Vec<Var> = merge.values.iter().cloned().map(Var::constant).collect();
        let rows = Var::constant(merge.weight.clone());
        Ok(self.0.apply(&Tape::off(), &values, &rows, !back).value)
    }
}
