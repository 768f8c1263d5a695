//! LoHa (Hyeon-Woo et al. 2022, FedPara, arXiv 2108.06098; LyCORIS, arXiv 2309.14859): `W + s (w1a w1b) ⊙ (w2a w2b)`, an
//! element-wise product of two low-rank matrices, whose rank may be as high as `r²`. `s = alpha / r`.
//!
//! Shapes: `w1a`, `w2a` `[out, r]`, `w1b`, `w2b` `[r, in]`. Start: `w1a`, `w1b`, `w2a` Kaiming-uniform (`U(±1/√columns)`),
//! `w2b` 0, so the model is unchanged. Parameters: `2 r (in + out)` a map. The product `[out, in]` is made anew every step,
//! so a step costs more than LoRA's.

use std::sync::Arc;

use hone_engine::{Tape, Tensor, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{INERT, LycorisFields, kaiming, recommend};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::forms::Delta;
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, key};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "loha",
    peft_type: "LOHA",
    family: "low rank",
    summary: "an element-wise product of two low-rank matrices beside each map",
    paper: "arXiv 2108.06098, 2309.14859",
    formula: "W + s (w1a w1b) ⊙ (w2a w2b)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<LohaConfig>(),
};

/// Hugging Face's `LoHaConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LohaConfig {
    /// Ranks, scales and dropouts.
    #[serde(flatten)]
    pub lycoris: LycorisFields,
    /// Whether the model is unchanged at the start; `false` draws all four factors, for tests.
    pub init_weights: bool,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for LohaConfig {
    fn default() -> Self {
        LohaConfig { lycoris: LycorisFields::default(), init_weights: true, targets: TargetFields::default() }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        recommend(&mut fields);
    }
    let loha: LohaConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    loha.lycoris.check(METHOD.name)?;
    loha.targets.check(METHOD.name)?;
    Ok(Arc::new(loha))
}

impl Method for LohaConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.targets.plan(METHOD.name, base, Q_AND_V, (self.fields(), INERT), |plan, weight| {
            let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
            let (r, scale) = self.lycoris.rank_and_scale(METHOD.name, weight)?;
            let last = if self.init_weights { Init::Zeros } else { kaiming(inputs) };
            let factors = [
                ParamPlan::new(key(module, "hada_w1_a"), &[out, r], kaiming(r)),
                ParamPlan::new(key(module, "hada_w1_b"), &[r, inputs], kaiming(inputs)),
                ParamPlan::new(key(module, "hada_w2_a"), &[out, r], kaiming(r)),
                ParamPlan::new(key(module, "hada_w2_b"), &[r, inputs], last),
            ];
            plan.on_linear(weight, self.lycoris.part(Hadamard { scale }, false), factors);
            Ok(())
        })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// `s (w1a w1b) ⊙ (w2a w2b)`.
struct Hadamard {
    scale: f32,
}

impl Delta for Hadamard {
    fn delta(&self, tape: &Tape, values: &[Var], _weight: &dyn Fn() -> Tensor) -> Var {
        let [w1a, w1b, w2a, w2b] = values else { unreachable!("LoHa plans four factors") };
        let (first, second) = (ops::product(tape, w1a, w1b), ops::product(tape, w2a, w2b));
        ops::scale(tape, &ops::multiply(tape, &first, &second), self.scale)
    }
}
