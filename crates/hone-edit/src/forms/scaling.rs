//! Inputs or outputs of a linear map times a trained vector: `y = (x ⊙ l) Wᵀ + b`, or `y = (x Wᵀ + b) ⊙ l`.
//!
//! The strength `s` scales how far the vector is from 1: `1 + s (l − 1)`. Merged, columns of `W` (inputs) or rows of `W` and the
//! bias (outputs) are multiplied.

use hone_engine::{Tape, Tensor, Var, ops};
use hone_model::Linear;

use crate::method::{At, Direction, Merge, Part};

/// Which side of the map is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaledSide {
    /// The input.
    Input,
    /// The output, bias included.
    Output,
}

/// The part; its one parameter is the vector. Placed at the map's bias as well (where it does nothing while running, since
/// the map's output is scaled with its bias in it), it is merged into that too.
pub struct Scaling {
    /// What is scaled.
    pub side: ScaledSide,
}

impl Scaling {
    /// `1 + s (l − 1)`.
    pub(crate) fn factor(tape: &Tape, vector: &Var, strength: f32) -> Var {
        if strength == 1.0 {
            return vector.clone();
        }
        let one = Var::constant(Tensor::full(vector.value.dims(), vector.value.dtype(), 1.0 - strength));
        ops::add_scaled(tape, &one, vector, strength)
    }
}

impl Part for Scaling {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let factor = Scaling::factor(tape, &at.values[0], at.strength);
        match self.side {
            ScaledSide::Input => next(&ops::scale_columns(tape, x, &factor)),
            ScaledSide::Output => ops::scale_columns(tape, &next(x), &factor),
        }
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let tape = Tape::off();
        let vector = Var::constant(merge.values[0].clone());
        let mut factor = Scaling::factor(&tape, &vector, merge.strength);
        if merge.direction == Direction::Unmerge {
            if factor.value.as_slice::<f32>().contains(&0.0) {
                return Err("a factor is 0, which cannot be undone; keep the base model instead of unmerging".into());
            }
            factor = ops::pointwise(&tape, &factor, ops::Pointwise::Reciprocal);
        }
        let weight = Var::constant(merge.weight.clone());
        let scaled = match (self.side, merge.weight.dims().len()) {
            (ScaledSide::Output, 1) => {
                let factor = Var::constant(factor.value.reshape(merge.weight.dims()));
                ops::multiply(&tape, &weight, &factor)
            }
            (ScaledSide::Output, _) => ops::scale_rows(&tape, &weight, &factor),
            (ScaledSide::Input, _) => ops::scale_columns(&tape, &weight, &factor),
        };
        Ok(scaled.value)
    }
}
