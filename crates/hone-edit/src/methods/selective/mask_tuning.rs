//! Mask tuning (Zheng et al. 2023, arXiv 2307.15049; R-AMT): no value of the model changes, a learned binary mask drops some:
//! `y = x (W ⊙ m)ᵀ + b`, `m = 1[M > threshold]`, `M` trained through the threshold as if it were not there (straight-through). As a
//! [`Change`]: `W ⊙ m = W + D` with `D = W ⊙ (m − 1)`, `−W` where it is dropped and 0 elsewhere.
//!
//! Start: `M = 0.01`, threshold 0.005, so nothing is dropped. The penalty is `penalty Σ ‖M‖` over tensors (norms, not squared).
//! A weight once dropped still gets its gradient `W ⊙ dL/d(W ⊙ m)`, so it can come back. The gap of 0.005 and the learning rate are
//! coupled: Adam needs about `0.005 / rate` steps in one direction to flip an element.
//!
//! Gradient dropout (`gradient_dropout` λ, the paper's regularity): with `g` the gradient of the loss and `k` that of
//! `KL(base ‖ edited)`, an element passes with probability `P = (1 + sign(g) (g + k) / (|g| + |k| + 1e-8)) / 2`, and is multiplied by
//! `1 − λ` where it does not. It needs a second backward pass a step ([`TrainingRules::wants_divergence`]).
//!
//! Parameters: one for each element of the selected maps; written as one bit each. The paper masks attention of a vision
//! encoder; here any linear map, by default q, k, v and o.

use std::sync::Arc;

use hone_engine::{RandomKey, Tape, Tensor, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::change::{Change, ChangeOf};
use crate::base::{Base, BaseWeight};
use crate::config;
use crate::error::EditError;
use crate::method::{
    At, Edit, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase, Role, Stored,
};
use crate::planning::{TargetFields, key, wrong};
use crate::sparse::SparseDelta;
use crate::training::{EditGradients, Moment, TrainingRules};

const NAME: &str = "mask_tuning";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_MASK_TUNING",
    family: "selective",
    summary: "a learned binary mask over frozen weights",
    paper: "arXiv 2307.15049",
    formula: "W ⊙ 1[M > τ]",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse,
    schema: |generator| generator.subschema_for::<MaskConfig>(),
};

/// Mask tuning's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MaskConfig {
    /// First value of `M`.
    pub mask_init: f64,
    /// Elements of `M` above it keep their weight.
    pub threshold: f64,
    /// Weight of the norms of `M` in the loss.
    pub penalty: f64,
    /// λ of gradient dropout; 0 is off.
    pub gradient_dropout: f64,
    /// Where; by default q, k, v and o.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for MaskConfig {
    fn default() -> Self {
        MaskConfig {
            mask_init: 0.01,
            threshold: 0.005,
            penalty: 1e-4,
            gradient_dropout: 0.0,
            targets: TargetFields::default(),
        }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    fields.entry("target_modules").or_insert(json!(["q_proj", "k_proj", "v_proj", "o_proj"]));
    let config: MaskConfig = config::read(NAME, &fields, &[], origin, warnings)?;
    if config.threshold >= config.mask_init {
        let expected = format!("less than `mask_init` ({}), so that nothing is dropped at the start", config.mask_init);
        return Err(wrong(NAME, "threshold", config.threshold.to_string(), expected));
    }
    if !(0.0..=1.0).contains(&config.gradient_dropout) {
        return Err(wrong(NAME, "gradient_dropout", config.gradient_dropout.to_string(), "0 (off) to 1"));
    }
    if !(config.penalty >= 0.0 && config.penalty.is_finite()) {
        return Err(wrong(NAME, "penalty", config.penalty.to_string(), "0 or more"));
    }
    config.targets.check(NAME)?;
    Ok(Arc::new(config))
}

impl MaskConfig {
    fn on_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let threshold = self.threshold as f32;
        let mask = key(weight.module(), "mask");
        // 8e-5 steps around 0.01 vanish in bf16.
        let param = ParamPlan::new(mask, &weight.shape, Init::Constant(self.mask_init as f32))
            .full_precision()
            .without_decay()
            .stored(Stored::Bits { threshold });
        plan.on_linear(weight, Change(Dropped { threshold }), [param]);
        Ok(())
    }
}

impl Method for MaskConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let config = (config::to_map(self), &[][..]);
        self.targets.plan(NAME, base, &[], config, |plan, weight| self.on_map(plan, weight))
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn training(&self, _edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        Some(Box::new(Rules { penalty: self.penalty as f32, dropout: self.gradient_dropout as f32 }))
    }

    fn finished(&self, mut edit: Edit, _base: &Base) -> Result<Edit, EditError> {
        let threshold = self.threshold as f32;
        let masks = edit.params.iter_mut().filter(|p| matches!(p.traits.stored, Stored::Bits { .. }));
        for mask in masks {
            mask.value.as_mut_slice::<f32>().iter_mut().for_each(|m| *m = f32::from(*m > threshold));
        }
        Ok(edit)
    }
}

/// `W ⊙ (m − 1)` of one map; its parameter is `M` `[out, in]`, `f32`.
struct Dropped {
    threshold: f32,
}

impl Dropped {
    fn of(&self, tape: &Tape, mask: &Var, weight: Tensor) -> Var {
        let mask = ops::straight_through(tape, mask, self.threshold);
        let dropped = ops::pointwise(tape, &mask, ops::Pointwise::Shift { by: -1.0 });
        ops::multiply(tape, &dropped, &Var::constant(weight))
    }
}

impl ChangeOf for Dropped {
    fn change(&self, at: &At, weight: &dyn Fn() -> Tensor) -> Var {
        self.of(&at.cx.tape, &at.values[0], weight())
    }

    fn settled(&self, merge: &Merge) -> Result<SparseDelta, String> {
        let base = merge.base()?;
        let elements = merge.values[0].as_slice::<f32>().iter().zip(base.as_slice::<f32>()).enumerate();
        let dropped = elements.filter(|(_, (mask, _))| **mask <= self.threshold);
        Ok(SparseDelta::of_entries(base.dims(), dropped.map(|(at, (_, weight))| (at as u32, -weight))))
    }
}

struct Rules {
    penalty: f32,
    dropout: f32,
}

/// The probability that an element passes gradient dropout.
fn keep_probability(g: f32, k: f32) -> f32 {
    let sign = if g > 0.0 { 1.0 } else { -1.0 };
    (1.0 + sign * (g + k) / (g.abs() + k.abs() + 1e-8)) / 2.0
}

impl TrainingRules for Rules {
    fn penalty(&self, tape: &Tape, values: &[Var], _moment: &Moment) -> Option<Var> {
        if self.penalty == 0.0 {
            return None;
        }
        let norm = |mask: &Var| {
            let row = ops::reshape(tape, mask, &[1, mask.value.elements()]);
            ops::row_norms(tape, &row)
        };
        let trained = values.iter().filter(|value| value.needs_grad());
        let total = trained.map(norm).reduce(|sum, next| ops::add(tape, &sum, &next))?;
        Some(ops::scale(tape, &total, self.penalty))
    }

    fn wants_divergence(&self) -> bool {
        self.dropout > 0.0
    }

    fn gradients(&mut self, edit: &Edit, gradients: &mut EditGradients, moment: &Moment) {
        if self.dropout == 0.0 {
            return;
        }
        for (at, param) in edit.params.iter().enumerate().filter(|(_, p)| p.traits.role == Role::Trained) {
            let Some(divergence) = gradients.divergence(at).cloned() else { continue };
            let Some(gradient) = gradients.get_mut(at) else { continue };
            drop_out(gradient.as_mut_slice(), divergence.as_slice(), self.dropout, moment.key.named(&param.key));
        }
    }
}

fn drop_out(gradient: &mut [f32], divergence: &[f32], dropout: f32, key: RandomKey) {
    for (at, (g, k)) in gradient.iter_mut().zip(divergence).enumerate() {
        if keep_probability(*g, *k) <= key.uniform(at as u64) {
            *g *= 1.0 - dropout;
        }
    }
}

#[cfg(test)]
mod tests {
    use hone_engine::{Gradients, ParamId};

    use super::*;

    /// What is differentiated is the surrogate that is linear in the mask: `dL/dM = dL/d(W ⊙ m) ⊙ W`, dropped or not.
    #[test]
    fn a_dropped_weight_still_gets_its_gradient() {
        let tape = Tape::recording();
        let weight = Tensor::from_slice([2, 2], &[2.0f32, -3.0, 5.0, 7.0]);
        let mask = Var::param(ParamId(0), Tensor::from_slice([2, 2], &[0.01f32, 0.001, 0.0, 0.02]));
        let dropped = Dropped { threshold: 0.005 }.of(&tape, &mask, weight.clone());
        let masked = ops::add(&tape, &Var::constant(weight), &dropped);
        assert_eq!(masked.value.to_vec_f32(), [2.0, 0.0, 0.0, 7.0]);
        let upstream = Tensor::from_slice([2, 2], &[1.0f32, 10.0, 100.0, 1000.0]);
        let loss = ops::sum(&tape, &ops::multiply(&tape, &masked, &Var::constant(upstream)));
        let mut gradients = Gradients::new();
        tape.backward(&loss, Tensor::from_slice([1], &[1.0f32]), &mut gradients);
        let gradient = gradients.param(ParamId(0)).map(Tensor::to_vec_f32);
        assert_eq!(gradient, Some(vec![2.0, -30.0, 500.0, 7000.0]));
    }

    #[test]
    fn gradients_pass_as_often_as_the_two_agree() {
        for ((g, k), expected) in [((1.0, 1.0), 1.0), ((1.0, -1.0), 0.5), ((1.0, -3.0), 0.25), ((1.0, 0.0), 1.0)] {
            assert!((keep_probability(g, k) - expected).abs() < 1e-6);
            assert!((keep_probability(-g, -k) - expected).abs() < 1e-6);
        }
        let mut gradient = vec![1.0f32; 100_000];
        drop_out(&mut gradient, &vec![-3.0; 100_000], 1.0, RandomKey::new(3));
        let kept = gradient.iter().filter(|g| **g == 1.0).count() as f64 / 1e5;
        assert!((kept - 0.25).abs() < 0.01, "{kept}");
        let mut same = vec![1.0f32, -2.0];
        drop_out(&mut same, &[-1.0, 1.0], 0.0, RandomKey::new(3));
        assert_eq!(same, [1.0, -2.0]);
    }
}
