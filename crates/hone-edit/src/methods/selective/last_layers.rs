//! The last `k` layers and the final norm, trained whole: `W ← V`, `V` starts at `W`. Parameters: the weights chosen.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight, WeightKind};
use crate::config;
use crate::error::EditError;
use crate::method::{Mergeable, Method, MethodInfo, Plan, QuantisedBase};
use crate::planning::wrong;
use crate::replace::plan_replacements;

const NAME: &str = "last_layers";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_LAST_LAYERS",
    family: "selective",
    summary: "the last layers and the final norm, trained whole",
    paper: "-",
    formula: "W ← V (last layers)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse: |fields, origin, warnings| {
        let config: LastLayersConfig = config::read(NAME, fields, &[], origin, warnings)?;
        if config.layers == 0 {
            return Err(wrong(NAME, "layers", "0", "1 or more"));
        }
        Ok(Arc::new(config))
    },
    schema: |generator| generator.subschema_for::<LastLayersConfig>(),
};

/// How many layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LastLayersConfig {
    /// Layers, counted from the top.
    pub layers: usize,
    /// Whether the final norm is trained as well.
    pub final_norm: bool,
}

impl Default for LastLayersConfig {
    fn default() -> Self {
        LastLayersConfig { layers: 2, final_norm: true }
    }
}

impl Method for LastLayersConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let layers = base.geometry.layers;
        if self.layers > layers {
            return Err(wrong(NAME, "layers", self.layers.to_string(), format!("at most the model's {layers}")));
        }
        let first = layers - self.layers;
        let number = |w: &BaseWeight| w.name.split_once("layers.")?.1.split('.').next()?.parse::<usize>().ok();
        let chosen = |w: &&BaseWeight| match number(w) {
            Some(layer) => layer >= first,
            None => self.final_norm && w.kind == WeightKind::Norm,
        };
        let weights: Vec<&BaseWeight> = base.weights.iter().filter(chosen).collect();
        let mut plan = Plan { config: config::to_map(self), params: Vec::new(), placed: Vec::new() };
        plan_replacements(&mut plan, &weights, base);
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}
