//! Embeddings of chosen tokens trained whole, everything else frozen: see [`tokens`](super::tokens). For tokens that are
//! new, or whose meaning a task changes.
//!
//! `E[v_k] ← V[k]`. The tokens are given by id (`token_indices`); a tied LM head has the same rows, and PEFT then writes
//! them twice, as does Hone. Parameters: `n · hidden`, counted once. A tied head is multiplied whole in every step, so
//! steps cost more than the count suggests.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::tokens;
use crate::base::{Base, WeightKind};
use crate::config;
use crate::error::EditError;
use crate::method::{Mergeable, Method, MethodInfo, Origin, Plan, QuantisedBase};
use crate::planning::{key, wrong};
use crate::target::{OneOrMany, Targets};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "trainable_tokens",
    peft_type: "TRAINABLE_TOKENS",
    family: "selective",
    summary: "embeddings of chosen tokens, trained whole",
    paper: "PEFT, TrainableTokens",
    formula: "E[v_k] ← V[k]",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse,
    schema: |generator| generator.subschema_for::<TrainableTokensConfig>(),
};

/// Hugging Face's `TrainableTokensConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainableTokensConfig {
    /// Ids of the tokens.
    pub token_indices: Vec<u32>,
    /// The table: none is the embedding table.
    pub target_modules: Option<OneOrMany<String>>,
    /// Start at the base's rows. Hugging Face's `false` (random rows) is refused.
    pub init_weights: bool,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl Default for TrainableTokensConfig {
    fn default() -> Self {
        TrainableTokensConfig { token_indices: Vec::new(), target_modules: None, init_weights: true, task_type: None }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
    }
    let tokens: TrainableTokensConfig = config::read(METHOD.name, &fields, &[], origin, warnings)?;
    if tokens.token_indices.is_empty() {
        let what = "ids of the tokens to train";
        return Err(EditError::Needs { method: METHOD.name, field: "token_indices", what });
    }
    if !tokens.init_weights && origin == Origin::Recipe {
        return Err(wrong(METHOD.name, "init_weights", "false", "true: rows start at the base's"));
    }
    Ok(Arc::new(tokens))
}

impl Method for TrainableTokensConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let targets = Targets { target_modules: self.target_modules.clone(), ..Targets::default() };
        let default = OneOrMany::Many(vec!["embed_tokens".into()]);
        let selection = targets.select(METHOD.name, base, &[WeightKind::Embedding, WeightKind::Head], default)?;
        let mut plan = Plan { config: self.fields(), params: Vec::new(), placed: Vec::new() };
        plan.config.insert("target_modules".into(), selection.resolved.clone());
        for weight in &selection.weights {
            let own = key(weight.module(), "trainable_tokens_delta");
            let field = (METHOD.name, "token_indices");
            tokens::plan_rows(&mut plan, field, weight, &self.token_indices, own)?;
            let tied = base.tied_head && weight.kind == WeightKind::Embedding;
            let heads = base.weights.iter().filter(|w| tied && w.kind == WeightKind::Head);
            let copies = heads.map(|head| key(head.module(), "trainable_tokens_delta")).collect();
            if let Some(param) = plan.params.last_mut() {
                param.copies = copies;
            }
        }
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}
