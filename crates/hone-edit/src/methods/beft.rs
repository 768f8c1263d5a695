//! BEFT (2025, "BEFT: Bias-Efficient Fine-Tuning of Language Models", arXiv 2509.15974): `y + b`, a trained vector added to
//! what a map gives; by default to the values of attention, which the paper found to be the biases worth training.
//!
//! `b` `[1, out]`. Start: 0, so the model is unchanged. Parameters: `out` a map. Where a map has a bias, `b` is added to it
//! and merges into it; where it has none, `b` is added to the output and has nowhere to be merged into, as in PEFT.

use std::sync::Arc;

use hone_engine::{Tensor, Var, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{
    At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Place, Placed, Plan, QuantisedBase,
};
use crate::planning::{TargetFields, key};
use crate::target::OneOrMany;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "beft",
    peft_type: "BEFT",
    family: "selective",
    summary: "a trained vector added to the values of attention",
    paper: "arXiv 2509.15974",
    formula: "W x + b₀ + b",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<BeftConfig>(),
};

/// Hugging Face's `BeftConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BeftConfig {
    /// Names (matched at the end of module paths), a regular expression over whole paths, or `all-linear`.
    pub target_modules: Option<OneOrMany<String>>,
    /// Modules trained whole and saved with the adapter.
    pub modules_to_save: Option<Vec<String>>,
    /// `true`: zeros, so that the model is unchanged; `false`: normal, for tests.
    pub init_weights: bool,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl Default for BeftConfig {
    fn default() -> Self {
        BeftConfig { target_modules: None, modules_to_save: None, init_weights: true, task_type: None }
    }
}

/// The paper's targets, as modules are called here.
const VALUES: &[&str] = &["v_proj"];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
        fields.entry("target_modules").or_insert(json!(VALUES));
    }
    let beft: BeftConfig = config::read(METHOD.name, &fields, &[], origin, warnings)?;
    beft.targets().check(METHOD.name)?;
    Ok(Arc::new(beft))
}

impl BeftConfig {
    fn targets(&self) -> TargetFields {
        TargetFields {
            target_modules: self.target_modules.clone(),
            modules_to_save: self.modules_to_save.clone(),
            task_type: self.task_type.clone(),
            ..TargetFields::default()
        }
    }
}

impl Method for BeftConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.targets().plan(METHOD.name, base, VALUES, (self.fields(), &[]), |plan, weight| {
            let (module, out) = (weight.module(), weight.shape[0]);
            let init = if self.init_weights { Init::Zeros } else { Init::Normal { std: 1.0 } };
            let params = plan.add([ParamPlan::new(key(module, "beft_bias"), &[1, out], init).without_decay()]);
            let own = format!("{module}.bias");
            let place = match base.weight(&own) {
                Some(_) => Place::Weight(own),
                None => Place::Linear(module.to_string()),
            };
            plan.placed.push(Placed { place, part: Arc::new(Vector), params });
            Ok(())
        })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn default_learning_rate(&self) -> f64 {
        1e-2
    }
}

/// `b`, added.
struct Vector;

fn flat(at: &At) -> Var {
    let b = &at.values[0];
    ops::reshape(&at.cx.tape, b, &[b.value.elements()])
}

impl Part for Vector {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        ops::add_row(tape, &next(x), &ops::scale(tape, &flat(at), at.strength))
    }

    fn on_vector(&self, at: &At, value: Var) -> Var {
        ops::add_scaled(&at.cx.tape, &value, &flat(at), at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let change = &merge.values[0];
        if merge.weight.dims() != [change.elements()] {
            return Err("there is no bias of the map to go into; keep the adapter apart, as PEFT does".into());
        }
        let mut out = merge.weight.clone();
        let scale = merge.direction.sign() * merge.strength;
        let change = change.as_slice::<f32>();
        out.as_mut_slice::<f32>().iter_mut().zip(change).for_each(|(to, v)| *to += scale * v);
        Ok(out)
    }
}
