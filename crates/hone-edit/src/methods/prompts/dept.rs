//! Decomposed prompt tuning, DePT (Shi and Lipani 2024, arXiv 2309.05173): a prompt of `l` tokens is split into a short one and a
//! low-rank update of the input's embeddings, `[P_s; E(x) + c (A B)[0..n]]`, `P_s` `[s, hidden]`, `A` `[m, r]`, `B` `[r, hidden]`,
//! `c = alpha / √r` (as in the authors' code). Shorter sequences for as many parameters.
//!
//! Parameters: `s · hidden + m r + r · hidden`. Where `r` is not given it is what makes them those of a prompt of
//! `equivalent_tokens`: `r = (l − s) hidden / (m + hidden)`, rounded down. `P_s` starts like any prompt, `A` Kaiming-uniform
//! `U(±1/√r)`, `B` zero: prompt tuning with `P_s`. The pair has a learning rate of its own, `low_rank_lr_ratio` times the prompt's,
//! for what a prompt needs would wreck it. Positions, and what happens beyond `m`: [`super::input_update`].
//!
//! Hugging Face PEFT has no such type; the tensors have the names of the authors' code (`lora_embedding_A`, `lora_embedding_B`).

use std::sync::Arc;

use hone_model::Site;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::{
    FirstPrompt, INERT, NO_WEIGHT, PROMPT, PromptFields, PromptRows, at_virtual_tokens, forget_origin, uniform,
    write_inert,
};
use super::input_update::InputUpdate;
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Place, Placed, Plan, QuantisedBase};
use crate::planning::wrong;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "dept",
    peft_type: "HONE_DEPT",
    family: "prompt",
    summary: "a short prompt, and a low-rank update of the input's embeddings",
    paper: "arXiv 2309.05173",
    formula: "[P_s; E(x) + c A B]",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<DeptConfig>(),
};

/// The key of `A`.
pub const A: &str = "lora_embedding_A";
/// The key of `B`.
pub const B: &str = "lora_embedding_B";

/// The fields of a decomposed prompt: what DePT has, and EPT too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DeptConfig {
    /// The short prompt. A recipe's default is 40 tokens.
    #[serde(flatten)]
    pub prompt: PromptFields,
    /// How the short prompt starts.
    #[serde(flatten)]
    pub first: FirstPrompt,
    /// Rank of the pair; by default what `equivalent_tokens` leaves for it.
    pub r: Option<usize>,
    /// The length of the prompt whose number of parameters the short one and the pair have together.
    pub equivalent_tokens: usize,
    /// `m`: positions that are updated.
    pub max_length: usize,
    /// `c · √r`.
    #[serde(serialize_with = "config::number")]
    pub alpha: f64,
    /// Learning rate of the pair over that of the prompt.
    pub low_rank_lr_ratio: f64,
}

impl Default for DeptConfig {
    fn default() -> Self {
        DeptConfig {
            prompt: PromptFields::default(),
            first: FirstPrompt::default(),
            r: None,
            equivalent_tokens: 100,
            max_length: 256,
            alpha: 8.0,
            low_rank_lr_ratio: 0.02,
        }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        DeptConfig::recommend(&mut fields);
    }
    let mut config: DeptConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    config.first.stored = origin == Origin::File;
    config.check(METHOD.name)?;
    Ok(Arc::new(config))
}

impl DeptConfig {
    /// A recipe's defaults.
    pub fn recommend(fields: &mut Map<String, Value>) {
        fields.entry("num_virtual_tokens").or_insert(json!(40));
        PromptFields::recommend(fields);
        FirstPrompt::recommend(fields);
    }

    /// Refuses what cannot be, whatever the model.
    pub fn check(&self, method: &'static str) -> Result<(), EditError> {
        self.prompt.check(method)?;
        self.first.check(method)?;
        if self.max_length == 0 {
            return Err(wrong(method, "max_length", "0", "a number of positions, 1 or more"));
        }
        if self.r == Some(0) {
            return Err(wrong(method, "r", "0", "a rank of 1 or more"));
        }
        for (field, value) in [("alpha", self.alpha), ("low_rank_lr_ratio", self.low_rank_lr_ratio)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(wrong(method, field, value.to_string(), "a positive number"));
            }
        }
        Ok(())
    }

    /// The rank in a model of this width, and `c`.
    pub fn rank_and_scale(&self, method: &'static str, hidden: usize) -> Result<(usize, f32), EditError> {
        let (s, m) = (self.prompt.num_virtual_tokens, self.max_length);
        let left = self.equivalent_tokens.saturating_sub(s) * hidden / (m + hidden);
        let r = self.r.unwrap_or(left);
        if r == 0 {
            let found = format!("{} for {s} virtual tokens", self.equivalent_tokens);
            return Err(wrong(method, "equivalent_tokens", found, "enough to leave a rank of 1, or an `r`"));
        }
        Ok((r, (self.alpha / (r as f64).sqrt()) as f32))
    }

    /// The fields as a file has them.
    pub fn file_fields(
        &self,
        method: &'static str,
        base: &Base,
        own: &impl Serialize,
    ) -> Result<Map<String, Value>, EditError> {
        let (hidden, heads) = (base.geometry.hidden, base.geometry.query_heads);
        let mut config = config::to_map(own);
        config.extend(config::to_map(&self.prompt.sized(method, base, (hidden, heads))?));
        forget_origin(&mut config);
        config.insert("r".into(), json!(self.rank_and_scale(method, hidden)?.0));
        write_inert(&mut config, INERT);
        Ok(config)
    }

    /// `P_s`, `A` and `B`.
    pub fn params(&self, method: &'static str, base: &Base) -> Result<Vec<ParamPlan>, EditError> {
        let (tokens, hidden) = (self.prompt.num_virtual_tokens, base.geometry.hidden);
        let (r, _) = self.rank_and_scale(method, hidden)?;
        let init = self.first.init(method, base, tokens)?;
        let low_rank = |key: &str, shape: [usize; 2], init: Init| {
            ParamPlan::new(key, &shape, init).learning_rate_factor(self.low_rank_lr_ratio).full_precision()
        };
        Ok(vec![
            ParamPlan::new(PROMPT, &[tokens, hidden], init).full_precision(),
            low_rank(A, [self.max_length, r], uniform(r)),
            low_rank(B, [r, hidden], Init::Zeros),
        ])
    }
}

impl Method for DeptConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (_, scale) = self.rank_and_scale(METHOD.name, base.geometry.hidden)?;
        let placed = vec![at_virtual_tokens(PromptRows, vec![0]), at_embeddings(InputUpdate { scale }, vec![1, 2])];
        let (config, params) = (self.file_fields(METHOD.name, base, self)?, self.params(METHOD.name, base)?);
        Ok(Plan { config, params, placed })
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

/// An update of the embeddings.
pub fn at_embeddings(update: InputUpdate, params: Vec<usize>) -> Placed {
    Placed { place: Place::Activation(Site::EmbedOut), part: Arc::new(update), params }
}
