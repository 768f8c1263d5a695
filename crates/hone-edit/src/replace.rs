//! A weight trained whole: what full tuning, `modules_to_save` and `bias` are made of.
//!
//! `W ← W₀ + s (V − W₀)` with the trained value `V`, which starts at the base weight `W₀`, and the edit's strength `s`
//! (1 in training, so `W ← V`).

use std::sync::Arc;

use hone_engine::{DType, Tensor, Var, WeightRef, ops};
use hone_model::Linear;

use crate::base::{Base, BaseValue, BaseWeight, WeightKind};
use crate::method::{At, Init, LinearEffect, Merge, ParamPlan, Part, Place, Placed, Plan};

/// The part; its one parameter is the weight.
struct Replace;

impl Part for Replace {
    fn on_linear(&self, at: &At, _linear: &Linear, weight: &WeightRef) -> LinearEffect {
        LinearEffect::weight(replaced(at, weight))
    }

    fn on_matrix(&self, at: &At, weight: WeightRef) -> WeightRef {
        replaced(at, &weight)
    }

    fn on_vector(&self, at: &At, value: Var) -> Var {
        blend(at, || value.value.clone())
    }

    fn replaces(&self) -> bool {
        true
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let (mut out, sign) = (merge.weight.clone(), merge.direction.sign());
        let change = merge.values[0].as_slice::<f32>().iter().zip(merge.base()?.as_slice::<f32>());
        for (o, (value, base)) in out.as_mut_slice::<f32>().iter_mut().zip(change) {
            *o += sign * merge.strength * (value - base);
        }
        Ok(out)
    }
}

/// The base weight, whatever an edit below it put there.
struct Pin(WeightRef);

impl Part for Pin {
    fn on_matrix(&self, _at: &At, _weight: WeightRef) -> WeightRef {
        self.0.clone()
    }

    fn replaces(&self) -> bool {
        true
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        merge.base().cloned()
    }
}

fn replaced(at: &At, weight: &WeightRef) -> WeightRef {
    let trained = at.cx.tape.is_recording() && at.values.iter().any(Var::needs_grad);
    at.once(|| {
        let value = blend(at, || match weight {
            WeightRef::Frozen(weight) => weight.to_dense(at.cx.dtype),
            WeightRef::Trained(var) => var.value.to_dtype(at.cx.dtype),
        });
        // A trained master is rounded while it is multiplied, so that no second copy of the model is held.
        if trained { value } else { Var::constant(value.value.to_dtype(at.cx.dtype)) }
    })
}

/// `W₀ + s (V − W₀)`; `base` is asked for only when the strength is not 1.
fn blend(at: &At, base: impl FnOnce() -> Tensor) -> Var {
    let value = &at.values[0];
    if at.strength == 1.0 {
        return value.clone();
    }
    let base = Var::constant(base().to_dtype(DType::F32).to_dtype(value.value.dtype()));
    let kept = ops::scale(&at.cx.tape, &base, 1.0 - at.strength);
    ops::add_scaled(&at.cx.tape, &kept, value, at.strength)
}

/// Plans `weights` to be trained whole, each on its own.
///
/// Where the LM head is the embedding table, the forward pass hands the head whatever stands at the table. Training the
/// table alone (`modules_to_save: [embed_tokens]`) leaves PEFT's head as it was, so the head is pinned to the base then.
pub fn plan_replacements(plan: &mut Plan, weights: &[&BaseWeight], base: &Base) {
    for weight in weights {
        plan.params.push(param(weight));
        place(plan, weight, Arc::new(Replace), vec![plan.params.len() - 1]);
    }
    let chosen = |kind: WeightKind| weights.iter().any(|w| w.kind == kind);
    if chosen(WeightKind::Embedding) && !chosen(WeightKind::Head) {
        pin_tied_head(plan, base);
    }
}

/// Leaves a head that is the embedding table as the base has it.
pub fn pin_tied_head(plan: &mut Plan, base: &Base) {
    for head in base.weights.iter().filter(|w| base.tied_head && w.kind == WeightKind::Head) {
        if let BaseValue::Matrix(value) = &head.value {
            place(plan, head, Arc::new(Pin(value.clone())), Vec::new());
        }
    }
}

/// Plans `weights` to be trained whole, a tied head and embedding table as one parameter at the table (which the forward
/// pass hands to the head).
pub fn plan_tied_replacements(plan: &mut Plan, weights: &[&BaseWeight], base: &Base) {
    let is_head = |w: &&BaseWeight| base.tied_head && w.kind == WeightKind::Head;
    let head = weights.iter().any(is_head);
    let chosen = |w: &&BaseWeight| {
        !is_head(w) && (weights.iter().any(|c| c.name == w.name) || (head && w.kind == WeightKind::Embedding))
    };
    for weight in base.weights.iter().filter(chosen) {
        plan.params.push(param(weight));
        place(plan, weight, Arc::new(Replace), vec![plan.params.len() - 1]);
    }
}

fn place(plan: &mut Plan, weight: &BaseWeight, part: Arc<dyn Part>, params: Vec<usize>) {
    let place = match weight.kind {
        WeightKind::Linear => Place::Linear(weight.module().to_string()),
        _ => Place::Weight(weight.name.clone()),
    };
    plan.placed.push(Placed { place, part, params });
}

fn param(weight: &BaseWeight) -> ParamPlan {
    let (key, init) = (format!("base_model.model.{}", weight.name), Init::Base(weight.name.clone()));
    ParamPlan::new(key, &weight.shape, init).full_precision()
}
