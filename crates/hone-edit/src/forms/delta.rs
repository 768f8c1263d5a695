//! `W + s ΔW`: anything that adds a matrix made of its parameters.
//!
//! Forward, `y += s · drop(x) ΔWᵀ`, the base map left as it is (quantised, perhaps). Merged, `W ± s ΔW` in `f32`.

use std::cell::Cell;

use hone_engine::ops::{self, Dropout};
use hone_engine::{DType, Tape, Tensor, Var, WeightRef};
use hone_model::Linear;

use crate::method::{At, Merge, Part};

/// What a method adds to a weight.
pub trait Delta: Send + Sync {
    /// `ΔW` `[out, in]`, of the parameters `values` (in order of the part's plan; in the compute type or `f32`, and so is
    /// the result). `weight` gives the base weight in `f32`, for methods that need it.
    fn delta(&self, tape: &Tape, values: &[Var], weight: &dyn Fn() -> Tensor) -> Var;
}

/// A [`Delta`] as a part.
pub struct DeltaPart<D> {
    /// What is added.
    pub delta: D,
    /// Dropout on the input of `ΔW`.
    pub dropout: f32,
}

impl<D: Delta> DeltaPart<D> {
    /// Without dropout.
    pub fn new(delta: D) -> DeltaPart<D> {
        DeltaPart { delta, dropout: 0.0 }
    }
}

impl<D: Delta> DeltaPart<D> {
    /// `drop(x) ΔWᵀ`: what the part adds to the map's output at strength 1.
    pub fn added(&self, at: &At, linear: &Linear, x: &Var) -> Var {
        let tape = &at.cx.tape;
        let delta = at.once(|| {
            let delta = self.delta.delta(tape, at.values, &|| base_weight(linear));
            ops::convert(tape, &delta, at.cx.dtype)
        });
        let dropped = dropped(at, x, self.dropout);
        ops::linear(tape, &dropped, &delta, None, &[])
    }
}

impl<D: Delta> Part for DeltaPart<D> {
    fn around_linear(&self, at: &At, linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        ops::add_scaled(&at.cx.tape, &next(x), &self.added(at, linear, x), at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let values = merge.constants();
        // Most are made of their parameters alone; one that asks for a base nobody knows is given something, and refused.
        let base = merge.base();
        let unknown = Cell::new(false);
        let weight = || {
            unknown.set(base.is_err());
            base.as_ref().map_or_else(|_| merge.weight.clone(), |base| Tensor::clone(base))
        };
        let delta = self.delta.delta(&Tape::off(), &values, &weight);
        if unknown.get() {
            base?;
        }
        let scale = merge.direction.sign() * merge.strength;
        let weight = Var::constant(merge.weight.clone());
        let delta = Var::constant(delta.value.to_dtype(DType::F32));
        Ok(ops::add_scaled(&Tape::off(), &weight, &delta, scale).value)
    }
}

/// A linear map's own weight in `f32`, expanded if it is quantised.
pub(crate) fn base_weight(linear: &Linear) -> Tensor {
    match &linear.weight {
        WeightRef::Frozen(weight) => weight.to_dense(DType::F32),
        WeightRef::Trained(var) => var.value.to_dtype(DType::F32),
    }
}

/// A part's dropout as the engine's operations take it; nothing outside training.
pub(crate) fn dropout(at: &At, probability: f32) -> Option<Dropout> {
    (at.cx.training && probability > 0.0)
        .then(|| Dropout { p: probability, key: at.cx.key.named("dropout").named(at.name) })
}

/// `x` with a part's dropout.
pub(crate) fn dropped(at: &At, x: &Var, probability: f32) -> Var {
    dropout(at, probability).map_or_else(|| x.clone(), |dropout| ops::dropout(&at.cx.tape, x, dropout))
}
