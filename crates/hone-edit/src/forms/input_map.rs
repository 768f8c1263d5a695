//! `y = (x R) Wᵀ + b`: a linear map of the input before the frozen one (rotations, reflections).
//!
//! Merged, `W' = W Rᵀ`: the rows of `W` go through the transposed map. A strength `s` other than 1 stands between no map and
//! the whole one, `I + s (R − I)`: half of what the map changes, which is no rotation by half the angle.

use hone_engine::{RandomKey, Tape, Tensor, Var, ops};
use hone_model::Linear;

use crate::method::{At, Direction, Merge, Part};

/// What is done to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// `x R`: activations on their way through.
    Forward,
    /// `w Rᵀ`: a weight that is merged.
    Merged,
    /// `w R⁻ᵀ`: and back. The same as [`Applied::Forward`] where `R` is orthogonal.
    Unmerged,
}

/// A linear map of a linear map's input.
pub trait InputMap: Send + Sync {
    /// The rows `x` `[rows, in]` after the map, in their own type. `noise` names the random numbers of a training pass.
    fn apply(&self, tape: &Tape, values: &[Var], x: &Var, applied: Applied, noise: Option<RandomKey>) -> Var;
}

/// An [`InputMap`] as a part.
pub struct InputMapPart<M>(pub M);

impl<M: InputMap> InputMapPart<M> {
    /// What the map below is given instead of `x`.
    pub(crate) fn input(&self, at: &At, x: &Var) -> Var {
        let tape = &at.cx.tape;
        let noise = at.cx.training.then(|| at.cx.key.named("input map").named(at.name));
        let mapped = self.0.apply(tape, at.values, x, Applied::Forward, noise);
        partly(tape, x, mapped, at.strength)
    }
}

impl<M: InputMap> Part for InputMapPart<M> {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        next(&self.input(at, x))
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let tape = Tape::off();
        let values = merge.constants();
        let rows = Var::constant(merge.weight.clone());
        match merge.direction {
            Direction::Merge => {
                let mapped = self.0.apply(&tape, &values, &rows, Applied::Merged, None);
                Ok(partly(&tape, &rows, mapped, merge.strength).value)
            }
            Direction::Unmerge if merge.strength != 1.0 => {
                let strength = merge.strength;
                Err(format!("merged at strength {strength} it has no simple inverse; keep the base model instead"))
            }
            Direction::Unmerge => Ok(self.0.apply(&tape, &values, &rows, Applied::Unmerged, None).value),
        }
    }
}

/// `x + s (mapped − x)`.
pub(crate) fn partly(tape: &Tape, x: &Var, mapped: Var, strength: f32) -> Var {
    if strength == 1.0 {
        return mapped;
    }
    ops::add_scaled(tape, &ops::scale(tape, x, 1.0 - strength), &mapped, strength)
}
