//! BitFit (Ben Zaken et al. 2021, arXiv 2106.10199): biases and nothing else. Models of the llama kind have none, so
//! `add_biases: true` gives every selected map one of its own that starts at 0, `y = x Wᵀ + b`.
//!
//! Parameters: one for each output of a map. A bias that was there is written as its whole value, an added one beside it. Added
//! biases have no place in the weights of an architecture without them, so they cannot be merged.

use std::sync::Arc;

use hone_engine::{Tensor, Var, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight, WeightKind};
use crate::config;
use crate::error::EditError;
use crate::method::{At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase};
use crate::planning::{TargetFields, key};
use crate::replace::plan_replacements;

const NAME: &str = "bitfit";
const ADDED: &str = "added biases have no place in the weights of this architecture";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_BITFIT",
    family: "selective",
    summary: "biases alone; added ones where the model has none",
    paper: "arXiv 2106.10199",
    formula: "x Wᵀ + b",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<BitFitConfig>(),
};

/// Which biases.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BitFitConfig {
    /// Give selected maps without a bias one.
    pub add_biases: bool,
    /// Where; by default every linear map.
    #[serde(flatten)]
    pub targets: TargetFields,
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    TargetFields::recommend(&mut fields);
    let config: BitFitConfig = config::read(NAME, &fields, &[], origin, warnings)?;
    config.targets.check(NAME)?;
    Ok(Arc::new(config))
}

impl Method for BitFitConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let mut own: Vec<&BaseWeight> = Vec::new();
        let config = (config::to_map(self), &[][..]);
        let mut plan = self.targets.plan(NAME, base, &[], config, |plan, weight| {
            let bias = |b: &&BaseWeight| b.kind == WeightKind::Bias && b.module() == weight.module();
            match base.weights.iter().find(bias) {
                Some(bias) => own.push(bias),
                None if self.add_biases => {
                    let param = ParamPlan::new(key(weight.module(), "bitfit.bias"), &weight.shape[..1], Init::Zeros);
                    plan.on_linear(weight, AddedBias, [param]);
                }
                None => {}
            }
            Ok(())
        })?;
        plan_replacements(&mut plan, &own, base);
        if plan.params.is_empty() {
            return Err(EditError::NoTarget {
                field: "target_modules",
                target: plan.config.get("target_modules").map(Value::to_string).unwrap_or_default(),
                what: "bias",
                near: "no selected map has one; give them biases with `add_biases: true`".into(),
            });
        }
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn mergeable(&self) -> Mergeable {
        if self.add_biases { Mergeable::No(ADDED) } else { Mergeable::Yes }
    }
}

/// `y + s b`.
struct AddedBias;

impl Part for AddedBias {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let bias = if at.strength == 1.0 { at.values[0].clone() } else { ops::scale(tape, &at.values[0], at.strength) };
        ops::add_row(tape, &next(x), &bias)
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(ADDED.into())
    }
}
