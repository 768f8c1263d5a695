//! A weight trained whole: what full tuning, `modules_to_save` and `bias` are made of.
//!
//! `W ← W₀ + s (V − W₀)` with the trained value `V`, which starts at the base weight `W₀`, and the edit's strength `s`
//! (1 in training, so `W ← V`).

use std::sync::Arc;

use hone_engine::{DType, Tensor, Var, WeightRef, ops};
use hone_model::Linear;

use crate::base::{BaseWeight, WeightKind};
use crate::method::{At, Init, LinearEffect, Merge, ParamPlan, Part, Place, Placed, Plan};

/// The part; its one parameter is the weight.
struct Replace;

impl Part for Replace {
    fn on_linear(&self, at: &At, _linear: &Linear, weight: &WeightRef) -> LinearEffect {
        LinearEffect::Weight(replaced(at, weight))
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
        let change = merge.values[0].as_slice::<f32>().iter().zip(merge.base.as_slice::<f32>());
        for (o, (value, base)) in out.as_mut_slice::<f32>().iter_mut().zip(change) {
            *o += sign * merge.strength * (value - base);
        }
        Ok(out)
    }
}

fn replaced(at: &At, weight: &WeightRef) -> WeightRef {
    at.once(|| {
        blend(at, || match weight {
            WeightRef::Frozen(weight) => weight.to_dense(at.cx.dtype),
            WeightRef::Trained(var) => var.value.to_dtype(at.cx.dtype),
        })
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

/// Plans `weights` to be trained whole. With `tie`, a head that is the embedding table shares its parameter.
pub fn plan_replacements(plan: &mut Plan, weights: &[&BaseWeight], tie: bool) {
    let mut table: Option<usize> = None;
    for weight in weights {
        let is_table = matches!(weight.kind, WeightKind::Embedding | WeightKind::Head);
        let param = match table.filter(|_| tie && is_table) {
            Some(shared) => shared,
            None => {
                plan.params.push(param(weight));
                plan.params.len() - 1
            }
        };
        if is_table {
            table = Some(param);
        }
        let place = match weight.kind {
            WeightKind::Linear => Place::Linear(weight.module().to_string()),
            _ => Place::Weight(weight.name.clone()),
        };
        plan.placed.push(Placed { place, part: Arc::new(Replace), params: vec![param] });
    }
}

fn param(weight: &BaseWeight) -> ParamPlan {
    ParamPlan {
        key: format!("base_model.model.{}", weight.name),
        aliases: Vec::new(),
        shape: weight.shape.clone(),
        init: Init::Base(weight.name.clone()),
        decay: weight.shape.len() > 1,
    }
}
