//! The LM head, trained whole: the oldest way to adapt a frozen network. `W ← V`, `V` starts at `W`.
//!
//! A head that is the embedding table gets values of its own: the table stays as it was. Parameters: `v d`.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight, WeightKind};
use crate::config;
use crate::error::EditError;
use crate::method::{Mergeable, Method, MethodInfo, Plan, QuantisedBase};
use crate::replace::plan_replacements;

const NAME: &str = "head_only";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_HEAD_ONLY",
    family: "selective",
    summary: "the LM head, trained whole",
    paper: "-",
    formula: "W ← V (LM head)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse: |fields, origin, warnings| {
        let config: HeadConfig = config::read(NAME, fields, &[], origin, warnings)?;
        Ok(Arc::new(config))
    },
    schema: |generator| generator.subschema_for::<HeadConfig>(),
};

/// The head has no settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HeadConfig {}

impl Method for HeadConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let head: Vec<&BaseWeight> = base.weights.iter().filter(|w| w.kind == WeightKind::Head).collect();
        let mut plan = Plan { config: config::to_map(self), params: Vec::new(), placed: Vec::new() };
        plan_replacements(&mut plan, &head, base);
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}
