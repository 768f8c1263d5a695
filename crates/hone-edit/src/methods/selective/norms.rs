//! LN-tuning (Qi et al. 2022, arXiv 2211.08682): the weights of the norms, each trained whole: `w ← v`, `v` starts at `w`.
//!
//! Parameters: the width of each norm. Fields and keys are PEFT's (`LNTuningConfig`); its default targets depend on the
//! architecture (for qwen2 the norm after attention alone).

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, WeightKind};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{Mergeable, Method, MethodInfo, Origin, Plan, QuantisedBase};
use crate::planning::wrong;
use crate::replace::plan_replacements;
use crate::target::{OneOrMany, Targets, saved_modules};

const NAME: &str = "ln_tuning";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "LN_TUNING",
    family: "selective",
    summary: "the weights of the norms",
    paper: "arXiv 2211.08682",
    formula: "w ← v (norms)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<NormConfig>(),
};

/// Hugging Face's `LNTuningConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NormConfig {
    /// Names of norms, or a regular expression over whole paths. A recipe's default is every norm of the layers and the last.
    pub target_modules: Option<OneOrMany<String>>,
    /// Names or a regular expression to leave out.
    pub exclude_modules: Option<OneOrMany<String>>,
    /// Modules trained whole and saved with the adapter.
    pub modules_to_save: Option<Vec<String>>,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

const INERT: &[Inert] = &[];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        fields.entry("target_modules").or_insert(json!(r".*norm"));
        fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
    }
    let config: NormConfig = config::read(NAME, &fields, INERT, origin, warnings)?;
    match config.task_type.as_deref() {
        None | Some("CAUSAL_LM") => Ok(Arc::new(config)),
        Some(other) => Err(wrong(NAME, "task_type", format!("`{other}`"), "`CAUSAL_LM` (or none)")),
    }
}

impl Method for NormConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let targets = Targets {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers_to_transform: None,
            layers_pattern: None,
            modules_to_save: self.modules_to_save.clone().unwrap_or_default(),
        };
        let names: &[&str] = match base.model_type.as_str() {
            "qwen2" => &["post_attention_layernorm"],
            _ => &["input_layernorm", "post_attention_layernorm", "norm"],
        };
        let default = OneOrMany::Many(names.iter().map(|name| name.to_string()).collect());
        let selection = targets.select(NAME, base, &[WeightKind::Norm], default)?;
        let mut plan = Plan { config: config::to_map(self), params: Vec::new(), placed: Vec::new() };
        plan.config.insert("target_modules".into(), selection.resolved.clone());
        plan_replacements(&mut plan, &selection.weights, base);
        for (param, weight) in plan.params.iter_mut().zip(&selection.weights) {
            let key = format!("base_model.model.{}.ln_tuning_layers.weight", weight.module());
            param.aliases.push(std::mem::replace(&mut param.key, key));
        }
        let saved = saved_modules(self.modules_to_save.as_deref().unwrap_or_default(), base)?;
        plan_replacements(&mut plan, &saved, base);
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}
