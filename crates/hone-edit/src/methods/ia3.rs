//! (IA)³: activations are multiplied by trained vectors (Liu et al. 2022, arXiv 2205.05638).
//!
//! `y = (x Wᵀ + b) ⊙ l` on most maps; on *feed-forward* ones the input is scaled, `y = (x ⊙ l) Wᵀ + b`. Which maps are
//! feed-forward says `feedforward_modules`, names or a regular expression like `target_modules`. On a square map the two cannot be
//! told apart by shape, and one in the other's place is silently wrong: the field counts.
//!
//! Shapes: `ia3_l` `[out, 1]`, feed-forward `[1, in]`. Parameters: `out` or `in` a map. Starts at `l = 1`, the identity.
//! PEFT's default targets by architecture: `k_proj`, `v_proj`, `down_proj` (llama, mistral), `q_proj`, `v_proj`, `down_proj`
//! (qwen2, qwen3, gemma3), `down_proj` feed-forward; a recipe has the paper's keys and values for every architecture. The paper
//! trains it at 3e-3.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, BaseWeight};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{ScaledSide, Scaling};
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Place, Placed, Plan, QuantisedBase};
use crate::planning::{TargetFields, key, wrong};
use crate::target::{OneOrMany, Targets};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "ia3",
    peft_type: "IA3",
    family: "scaling",
    summary: "multiplies keys, values and the MLP's inner activations by trained vectors",
    paper: "arXiv 2205.05638",
    formula: "diag(l) W, or W diag(l)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<Ia3Config>(),
};

/// Hugging Face's `IA3Config`, the honoured fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Ia3Config {
    /// Names (matched at the end of module paths), a regular expression over whole paths, or `all-linear`.
    pub target_modules: Option<OneOrMany<String>>,
    /// Names or a regular expression to leave out.
    pub exclude_modules: Option<OneOrMany<String>>,
    /// Which of the targets have their input scaled: names or a regular expression.
    pub feedforward_modules: Option<OneOrMany<String>>,
    /// `true`: ones, the identity; `false`: normal, for tests.
    pub init_ia3_weights: bool,
    /// Modules trained whole and saved with the adapter.
    pub modules_to_save: Option<Vec<String>>,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl Default for Ia3Config {
    fn default() -> Self {
        Ia3Config {
            target_modules: None,
            exclude_modules: None,
            feedforward_modules: None,
            init_ia3_weights: true,
            modules_to_save: None,
            task_type: None,
        }
    }
}

const INERT: &[Inert] = &[config::TRANSPOSED];

/// The paper's targets, as modules are called here.
const KEYS_VALUES_INNER: [&str; 3] = ["k_proj", "v_proj", "down_proj"];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
        if !fields.contains_key("target_modules") {
            fields.insert("target_modules".into(), json!(KEYS_VALUES_INNER));
            fields.entry("feedforward_modules").or_insert(json!(["down_proj"]));
        }
    }
    let ia3: Ia3Config = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    ia3.check()?;
    Ok(Arc::new(ia3))
}

impl Ia3Config {
    fn targets(&self) -> TargetFields {
        TargetFields {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            modules_to_save: self.modules_to_save.clone(),
            task_type: self.task_type.clone(),
            ..TargetFields::default()
        }
    }

    /// As PEFT: of two lists one must hold the other.
    fn check(&self) -> Result<(), EditError> {
        self.targets().check(METHOD.name)?;
        let (Some(OneOrMany::Many(inner)), Some(OneOrMany::Many(targets))) =
            (&self.feedforward_modules, &self.target_modules)
        else {
            return Ok(());
        };
        match inner.iter().find(|name| !targets.contains(name)) {
            None => Ok(()),
            Some(name) => {
                let expected = format!("names that stand in `target_modules` as well ({})", targets.join(", "));
                Err(wrong(METHOD.name, "feedforward_modules", format!("`{name}`"), expected))
            }
        }
    }

    /// The feed-forward modules of `base`; PEFT's default is the map out of the MLP.
    fn feed_forward(&self, base: &Base) -> Result<Vec<String>, EditError> {
        let default = OneOrMany::Many(vec!["down_proj".to_string()]);
        let named = match &self.feedforward_modules {
            None if self.target_modules.is_some() => return Ok(Vec::new()),
            Some(OneOrMany::Many(names)) if names.is_empty() => return Ok(Vec::new()),
            named => named.clone().unwrap_or(default.clone()),
        };
        let targets = Targets { target_modules: Some(named), ..Targets::default() };
        let selection = targets.select_linears_or(METHOD.name, base, default)?;
        Ok(selection.weights.iter().map(|w| w.module().to_string()).collect())
    }

    fn plan_map(&self, plan: &mut Plan, base: &Base, weight: &BaseWeight, feed_forward: bool) {
        let (out, inputs) = (weight.shape[0], weight.shape[1]);
        let (side, shape) = match feed_forward {
            true => (ScaledSide::Input, [1, inputs]),
            false => (ScaledSide::Output, [out, 1]),
        };
        let init = if self.init_ia3_weights { Init::Constant(1.0) } else { Init::Normal { std: 1.0 } };
        let param = ParamPlan::new(key(weight.module(), "ia3_l"), &shape, init).without_decay();
        plan.on_linear(weight, Scaling { side }, [param]);
        let bias = format!("{}.bias", weight.module());
        if side == ScaledSide::Output && base.weight(&bias).is_some() {
            let params = vec![plan.params.len() - 1];
            plan.placed.push(Placed { place: Place::Weight(bias), part: Arc::new(Scaling { side }), params });
        }
    }
}

impl Method for Ia3Config {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let default = match base.model_type.as_str() {
            "llama" | "mistral" => KEYS_VALUES_INNER,
            _ => ["q_proj", "v_proj", "down_proj"],
        };
        let inner = self.feed_forward(base)?;
        let targets = self.targets();
        targets.plan(METHOD.name, base, &default, (config::to_map(self), INERT), |plan, weight| {
            self.plan_map(plan, base, weight, inner.iter().any(|module| module == weight.module()));
            Ok(())
        })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}
