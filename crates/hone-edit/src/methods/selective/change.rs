//! The change of a weight, `W + D`: what masks of gradients, masks of weights, grafts and pruned differences do at a place.
//!
//! `D` has the weight's shape and is dense and `f32` while it is trained; gradients outside a mask are zeroed before clipping
//! ([`EditGradients::confine`](crate::training::EditGradients::confine)), so what is not chosen stays exactly 0. Merged, and in the file
//! ([`Stored::Sparse`]; a mask has bits), it is a [`SparseDelta`]. Memory while training is that of full tuning: what is saved is the
//! file, and what is learned is confined.

use std::sync::Arc;

use hone_engine::{DType, Tensor, Var, WeightRef, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight, WeightKind};
use crate::error::EditError;
use crate::method::{At, Init, LinearEffect, Merge, ParamPlan, Part, Place, Placed, Plan, Stored};
use crate::sparse::SparseDelta;
use crate::target::{OneOrMany, Targets};

/// The weights a change may touch. Embeddings and the LM head are left out unless named: a share of the weights is always
/// meant of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ChangeFields {
    /// Names (matched at the end of module paths) or a regular expression over whole paths; none is every linear map and norm.
    pub target_modules: Option<OneOrMany<String>>,
    /// Names or a regular expression to leave out.
    pub exclude_modules: Option<OneOrMany<String>>,
    /// Only these layers.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// What stands before the layer's number in module paths.
    pub layers_pattern: Option<OneOrMany<String>>,
}

impl ChangeFields {
    /// The weights they name, and the fields with the targets spelled out.
    pub fn select<'a>(&self, method: &'static str, base: &'a Base) -> Result<(Vec<&'a BaseWeight>, Value), EditError> {
        let targets = Targets {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            layers_pattern: self.layers_pattern.clone(),
            modules_to_save: Vec::new(),
        };
        use WeightKind::{Bias, Embedding, Head, Linear, Norm};
        let (kinds, everything): (&[WeightKind], _) = match self.target_modules {
            None => (&[Linear, Norm, Bias], OneOrMany::One(".*".to_string())),
            Some(_) => (&[Linear, Norm, Bias, Embedding, Head], OneOrMany::Many(Vec::new())),
        };
        let selection = targets.select(method, base, kinds, everything)?;
        Ok((selection.weights, selection.resolved))
    }

    /// A plan with `D` alone, 0 at the start, on every weight they name.
    pub fn plan_plain(&self, method: &'static str, base: &Base, config: Map<String, Value>) -> Result<Plan, EditError> {
        self.plan(method, base, config, Arc::new(Change(Plain)), |weight| vec![change_param(weight, Init::Zeros)])
    }

    /// A plan with a change on every weight they name: `on_weight` says which parameters, the first of which is `D`.
    pub fn plan(
        &self,
        method: &'static str,
        base: &Base,
        mut config: Map<String, Value>,
        part: Arc<dyn Part>,
        mut on_weight: impl FnMut(&BaseWeight) -> Vec<ParamPlan>,
    ) -> Result<Plan, EditError> {
        let (weights, resolved) = self.select(method, base)?;
        if self.target_modules.is_some() {
            config.insert("target_modules".into(), resolved);
        }
        let mut plan = Plan { config, params: Vec::new(), placed: Vec::new() };
        for weight in weights {
            let params = plan.add(on_weight(weight));
            let place = match weight.kind {
                WeightKind::Linear => Place::Linear(weight.module().to_string()),
                _ => Place::Weight(weight.name.clone()),
            };
            plan.placed.push(Placed { place, part: part.clone(), params });
        }
        Ok(plan)
    }
}

/// `D` of `weight`, as it is planned.
pub fn change_param(weight: &BaseWeight, init: Init) -> ParamPlan {
    let mut plan = ParamPlan::new(change_key(&weight.name), &weight.shape, init).stored(Stored::Sparse);
    // Decay would pull towards the base weight, and would touch what is masked.
    plan.traits.decay = false;
    plan
}

/// The key of the change of the tensor `name`; the file adds `.indices` and `.values`.
pub fn change_key(name: &str) -> String {
    format!("base_model.model.{name}.change")
}

/// `W + s D`, or what a method makes of `D` and other parameters in its place.
pub struct Change<F>(pub F);

/// What is added to a weight, of the part's parameters.
pub trait ChangeOf: Send + Sync {
    /// The change, in the weight's shape, in the compute type or `f32`. `weight` gives the weight in `f32`, for changes made of it.
    fn change(&self, at: &At, weight: &dyn Fn() -> Tensor) -> Var;

    /// The same outside a forward pass, as used (not as trained), at strength 1. `Err` says why there is none.
    fn settled(&self, merge: &Merge) -> Result<SparseDelta, String>;
}

/// `D` itself.
pub struct Plain;

impl ChangeOf for Plain {
    fn change(&self, at: &At, _weight: &dyn Fn() -> Tensor) -> Var {
        at.values[0].clone()
    }

    fn settled(&self, merge: &Merge) -> Result<SparseDelta, String> {
        Ok(SparseDelta::of(&merge.values[0]))
    }
}

impl<F: ChangeOf> Change<F> {
    fn changed(&self, at: &At, weight: &WeightRef) -> Var {
        let (tape, dtype) = (&at.cx.tape, at.cx.dtype);
        let change = ops::convert(tape, &self.0.change(at, &|| dense(weight, DType::F32)), dtype);
        ops::add_scaled(tape, &Var::constant(dense(weight, dtype)), &change, at.strength)
    }
}

impl<F: ChangeOf> Part for Change<F> {
    fn on_linear(&self, at: &At, _linear: &Linear, weight: &WeightRef) -> LinearEffect {
        LinearEffect::weight(at.once(|| self.changed(at, weight)))
    }

    fn on_matrix(&self, at: &At, weight: WeightRef) -> WeightRef {
        at.once(|| self.changed(at, &weight))
    }

    fn on_vector(&self, at: &At, value: Var) -> Var {
        let tape = &at.cx.tape;
        let change = self.0.change(at, &|| value.value.to_dtype(DType::F32));
        ops::add_scaled(tape, &value, &ops::convert(tape, &change, value.value.dtype()), at.strength)
    }

    fn replaces(&self) -> bool {
        true
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        Ok(merge.with_sparse(&self.0.settled(merge)?))
    }
}

/// A weight's values in `dtype`.
fn dense(weight: &WeightRef, dtype: DType) -> Tensor {
    match weight {
        WeightRef::Frozen(weight) => weight.to_dense(dtype),
        WeightRef::Trained(var) => var.value.to_dtype(dtype),
    }
}

/// The size above which the `count` largest of all magnitudes lie, over several tensors: what is strictly larger is chosen,
/// so ties at the threshold are left out.
///
/// Magnitudes are ordered as their bits are. The upper half of the bits is counted first, so that only those values have to be
/// held and ordered that share it with the threshold, and not a copy of all.
pub fn threshold_of_largest<'a>(tensors: impl Iterator<Item = &'a [f32]> + Clone, count: usize) -> f32 {
    let upper = |value: f32| (value.abs().to_bits() >> 16) as usize;
    let mut counted = vec![0usize; 1 << 15];
    let mut total = 0;
    for values in tensors.clone() {
        total += values.len();
        values.iter().for_each(|v| counted[upper(*v)] += 1);
    }
    if count >= total {
        return -1.0;
    }
    let (mut half, mut above) = (counted.len() - 1, 0);
    while above + counted[half] <= count {
        above += counted[half];
        half -= 1;
    }
    let all = tensors.flat_map(|values| values.iter().copied());
    let mut inside: Vec<f32> = all.filter(|v| upper(*v) == half).map(f32::abs).collect();
    let at = inside.len() - 1 - (count - above);
    *inside.select_nth_unstable_by(at, f32::total_cmp).1
}

/// How many of `total` a share is, at least one.
pub fn share_of(total: usize, share: f64) -> usize {
    ((total as f64 * share) as usize).clamp(1, total.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_is_that_of_sorting_everything_together() {
        let tensors: [&[f32]; 3] = [&[3.0, -1.0, 0.5], &[-7.0], &[2.0, 2.0, -0.1]];
        let chosen = |threshold: f32| tensors.iter().flat_map(|t| t.iter()).filter(|v| v.abs() > threshold).count();
        assert_eq!(threshold_of_largest(tensors.iter().copied(), 2), 2.0);
        assert_eq!(chosen(2.0), 2);
        // The third and the fourth largest are equal: neither is chosen alone.
        assert_eq!(chosen(threshold_of_largest(tensors.iter().copied(), 3)), 2);
        assert_eq!(chosen(threshold_of_largest(tensors.iter().copied(), 7)), 7);
    }

    proptest::proptest! {
        #[test]
        fn the_threshold_is_that_of_sorting_whatever_the_values(
            tensors in proptest::collection::vec(proptest::collection::vec(proptest::num::f32::ANY, 0..40), 1..5),
            tied in -2i8..3,
            count in 0usize..120,
        ) {
            let mut tensors = tensors;
            tensors.push(vec![f32::from(tied); 7]);
            let mut sizes: Vec<f32> = tensors.iter().flatten().map(|v| v.abs()).collect();
            sizes.sort_by(|a, b| b.total_cmp(a));
            let expected = sizes.get(count).copied().unwrap_or(-1.0);
            let found = threshold_of_largest(tensors.iter().map(Vec::as_slice), count);
            proptest::prop_assert_eq!(found.to_bits(), expected.to_bits());
        }
    }
}
