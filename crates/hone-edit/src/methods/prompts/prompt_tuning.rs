//! Prompt tuning (Lester et al. 2021, arXiv 2104.08691): the embeddings of `p` virtual tokens before every sequence are
//! trained, `[P; E(x)]`, `P` `[p, hidden]`.
//!
//! Virtual tokens have the positions `0..p`, and the text starts at `p`. Parameters: `p · hidden`. First values and the
//! transfer of a trained prompt (SPoT): [`super::fields`]. The learning rate is far above that of adapters: nothing but the
//! prompt moves, and a row of it is one of many that attention reads.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::write_inert;
use super::fields::{
    FirstPrompt, INERT, NO_WEIGHT, PROMPT, PromptFields, PromptInit, PromptRows, at_virtual_tokens, forget_origin,
};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "prompt_tuning",
    peft_type: "PROMPT_TUNING",
    family: "prompt",
    summary: "the embeddings of a few virtual tokens before every sequence",
    paper: "arXiv 2104.08691; SPoT 2110.07904",
    formula: "[P; E(x)]",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<PromptTuningConfig>(),
};

/// Hugging Face's `PromptTuningConfig`, the honoured fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PromptTuningConfig {
    /// How long, for what.
    #[serde(flatten)]
    pub prompt: PromptFields,
    /// How it starts.
    #[serde(flatten)]
    pub first: FirstPrompt,
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        PromptFields::recommend(&mut fields);
        FirstPrompt::recommend(&mut fields);
    }
    let mut config: PromptTuningConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    config.first.stored = origin == Origin::File;
    config.prompt.check(METHOD.name)?;
    config.first.check(METHOD.name)?;
    Ok(Arc::new(config))
}

impl Method for PromptTuningConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (tokens, hidden) = (self.prompt.num_virtual_tokens, base.geometry.hidden);
        let prompt = self.prompt.sized(METHOD.name, base, (hidden, base.geometry.query_heads))?;
        let init = self.first.init(METHOD.name, base, tokens)?;
        let mut config = config::to_map(&PromptTuningConfig { prompt, first: self.first.clone() });
        // Where the prompt came from is not Hugging Face's to know.
        forget_origin(&mut config);
        if self.first.prompt_tuning_init == PromptInit::Text {
            config.insert("tokenizer_name_or_path".into(), json!(base.reference));
        }
        write_inert(&mut config, INERT);
        let params = vec![ParamPlan::new(PROMPT, &[tokens, hidden], init)];
        Ok(Plan { config, params, placed: vec![at_virtual_tokens(PromptRows, vec![0])] })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn default_learning_rate(&self) -> f64 {
        0.03
    }

    fn virtual_tokens(&self) -> usize {
        self.prompt.num_virtual_tokens
    }
}
