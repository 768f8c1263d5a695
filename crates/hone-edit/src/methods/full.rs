//! Full tuning: every weight, or every weight of the selected modules, trained whole. `W ← V`, `V` starts at `W`.
//!
//! Masters are `f32` whatever the compute type. A tied head and embedding table are one parameter, counted and saved once.
//! Parameters: those of the selected weights. Hugging Face PEFT has no type for it: the adapter directory has
//! `peft_type: "HONE_FULL"` and the tuned values under `base_model.model.<tensor>`; merging writes a plain model directory.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, WeightKind};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{Mergeable, Method, MethodInfo, Origin, Plan, QuantisedBase};
use crate::replace::plan_tied_replacements;
use crate::target::{OneOrMany, Targets};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "full",
    peft_type: "HONE_FULL",
    family: "selective",
    summary: "every weight, or all of the selected modules, trained whole",
    paper: "-",
    formula: "W ← V",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse,
    schema: |generator| generator.subschema_for::<FullConfig>(),
};

/// Which weights are trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FullConfig {
    /// Names (matched at the end of module paths) or a regular expression over whole paths; none is every module.
    pub target_modules: Option<OneOrMany<String>>,
    /// Names or a regular expression to leave out.
    pub exclude_modules: Option<OneOrMany<String>>,
    /// Only these layers; needs a list in `target_modules`.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// What stands before the layer's number in module paths.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

const INERT: &[Inert] =
    &[Inert { field: "modules_to_save", off: &[], reason: "with `type: full` name the modules in `target_modules`" }];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    Ok(Arc::new(config::read::<FullConfig>(METHOD.name, fields, INERT, origin, warnings)?))
}

impl Method for FullConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        use WeightKind::*;
        let targets = Targets {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            layers_pattern: self.layers_pattern.clone(),
            modules_to_save: Vec::new(),
        };
        let everything = OneOrMany::One(".*".to_string());
        let selection = targets.select(METHOD.name, base, &[Linear, Embedding, Head, Norm, Bias], everything)?;
        let mut config = self.fields();
        config.insert("target_modules".into(), selection.resolved.clone());
        let mut plan = Plan { config, params: Vec::new(), placed: Vec::new() };
        plan_tied_replacements(&mut plan, &selection.weights, base);
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn default_learning_rate(&self) -> f64 {
        2e-5
    }
}
