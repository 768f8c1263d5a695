//! Mixtures of prompts, ATTEMPT (Asai et al. 2022, arXiv 2205.11961): `N` trained prompts are kept, a new one is trained beside
//! them, and every sequence gets its own sum of all, weighed by its input:
//!
//! `P(x) = P_t + Σ_j a_j P_j`, `a = softmax_j(p̂_j · h / T)` over the `N` sources and `P_t` itself,
//! `h = LayerNorm(W_up silu(W_down x̂))`, with `x̂` the greatest of each column of the input's embeddings, `p̂_j` the same of a
//! prompt, `W_down` `[bottleneck, hidden]`, `W_up` `[hidden, bottleneck]`, `T` `e · hidden` unless given.
//!
//! The input is what stands before the answer: before the first trained token in training (of running text, where all is
//! trained, the first token alone), the context in scoring (where several choices share a beginning: what they share of it), the
//! whole prompt in generation, so training sees no more of an answer than use does. In a chat of several turns the input is
//! all before the turn that is written; training on all turns of a conversation reads what stands before the first.
//!
//! `x̂` is taken of the base model's own embeddings. Parameters: `p · hidden + 2 · bottleneck · hidden + 2 · hidden`; the file holds
//! the sources as well. `P_t` starts like any prompt, the maps like PyTorch's. The attention learns at `attention_lr_ratio` times
//! the rate of the prompt. Sequences share no virtual tokens here, so each computes its own.

use std::sync::Arc;

use hone_engine::ops::{self, Activation};
use hone_engine::{DType, Tensor, Var, WeightRef};
use hone_model::Sharing;
use hone_model::decoder::EMBED_TOKENS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::{
    FirstPrompt, INERT, NO_WEIGHT, PROMPT, PromptFields, at_virtual_tokens, forget_origin, read_prompt, scaled,
    uniform, write_inert,
};
use crate::base::{Base, BaseValue};
use crate::config;
use crate::error::EditError;
use crate::method::{At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase};
use crate::planning::{check_rank, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "attempt",
    peft_type: "HONE_ATTEMPT",
    family: "prompt",
    summary: "trained prompts of other tasks and a new one, mixed for every input",
    paper: "arXiv 2205.11961",
    formula: "[P_t + Σ_j a_j(x) P_j; E(x)]",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<AttemptConfig>(),
};

const SOURCES: &str = "source_prompts";
const EPS: f32 = 1e-5;

/// The fields of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AttemptConfig {
    /// How long, for what.
    #[serde(flatten)]
    pub prompt: PromptFields,
    /// How the new prompt starts.
    #[serde(flatten)]
    pub first: FirstPrompt,
    /// Directories of the trained prompts, which have this length.
    #[schemars(extend("format" = "path"))]
    pub sources: Vec<String>,
    /// Width inside the attention.
    pub bottleneck: usize,
    /// `T`; by default `e · hidden`.
    pub temperature: Option<f64>,
    /// Learning rate of the attention over that of the prompt.
    pub attention_lr_ratio: f64,
}

impl Default for AttemptConfig {
    fn default() -> Self {
        AttemptConfig {
            prompt: PromptFields::default(),
            first: FirstPrompt::default(),
            sources: Vec::new(),
            bottleneck: 100,
            temperature: None,
            attention_lr_ratio: 0.1,
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
        PromptFields::recommend(&mut fields);
        FirstPrompt::recommend(&mut fields);
    }
    let mut config: AttemptConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    config.first.stored = origin == Origin::File;
    config.prompt.check(METHOD.name)?;
    config.first.check(METHOD.name)?;
    check_rank(METHOD.name, "bottleneck", config.bottleneck)?;
    for (field, value) in [("temperature", config.temperature), ("attention_lr_ratio", Some(config.attention_lr_ratio))]
    {
        if let Some(value) = value.filter(|value| !(*value > 0.0 && value.is_finite())) {
            return Err(wrong(METHOD.name, field, value.to_string(), "a positive number"));
        }
    }
    Ok(Arc::new(config))
}

impl AttemptConfig {
    /// The sources' prompts, `[N, tokens, hidden]`.
    fn source_prompts(&self, hidden: usize) -> Result<Init, EditError> {
        if self.first.stored {
            return Ok(Init::Zeros);
        }
        let tokens = self.prompt.num_virtual_tokens;
        let mut values = Vec::new();
        for source in &self.sources {
            values.extend(read_prompt(source, [tokens, hidden])?.to_vec_f32());
        }
        let all = Tensor::from_slice([self.sources.len(), tokens, hidden], &values);
        Ok(Init::Computed(Box::new(move |_| all.clone())))
    }
}

impl Method for AttemptConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (tokens, hidden) = (self.prompt.num_virtual_tokens, base.geometry.hidden);
        if self.sources.is_empty() {
            let what = "directories of prompts trained with `prompt_tuning`";
            return Err(EditError::Needs { method: METHOD.name, field: "sources", what });
        }
        let temperature = self.temperature.unwrap_or(std::f64::consts::E * hidden as f64);
        let mut config = self.fields();
        config.extend(config::to_map(&self.prompt.sized(METHOD.name, base, (hidden, base.geometry.query_heads))?));
        config.insert("temperature".into(), json!(temperature));
        forget_origin(&mut config);
        write_inert(&mut config, INERT);
        let attention = |key: &str, shape: &[usize], init: Init| {
            let param = ParamPlan::new(format!("attention.{key}"), shape, init).full_precision();
            param.learning_rate_factor(self.attention_lr_ratio)
        };
        let params = vec![
            ParamPlan::new(PROMPT, &[tokens, hidden], self.first.init(METHOD.name, base, tokens)?).full_precision(),
            ParamPlan::new(SOURCES, &[self.sources.len(), tokens, hidden], self.source_prompts(hidden)?)
                .fixed()
                .full_precision(),
            attention("down.weight", &[self.bottleneck, hidden], uniform(hidden)),
            attention("up.weight", &[hidden, self.bottleneck], uniform(self.bottleneck)),
            attention("norm.weight", &[hidden], Init::Constant(1.0)),
            attention("norm.bias", &[hidden], Init::Zeros),
        ];
        let table = match base.weight(EMBED_TOKENS).map(|table| &table.value) {
            Some(BaseValue::Matrix(table)) => table.clone(),
            _ => WeightRef::Trained(Var::constant(Tensor::zeros([base.geometry.vocabulary, hidden], DType::F32))),
        };
        let part = Mixture { table, factor: base.embedding_factor, inverse_temperature: (1.0 / temperature) as f32 };
        Ok(Plan { config, placed: vec![at_virtual_tokens(part, (0..params.len()).collect())], params })
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

    fn virtual_token_sharing(&self) -> Sharing {
        Sharing::Sequence
    }
}

/// The mixture of each sequence.
struct Mixture {
    table: WeightRef,
    factor: f32,
    inverse_temperature: f32,
}

impl Mixture {
    /// `x̂`, `[inputs, hidden]` in `f32`.
    fn pooled(&self, at: &At) -> Var {
        let tape = &at.cx.tape;
        let (mut ids, mut ranges) = (Vec::new(), Vec::new());
        for input in at.inputs() {
            ranges.push(ids.len()..ids.len() + input.len());
            ids.extend_from_slice(input);
        }
        let embeddings = ops::embedding(tape, &self.table, &ids, self.factor, DType::F32);
        ops::segment_maxima(tape, &embeddings, &ranges)
    }
}

impl Part for Mixture {
    fn virtual_embeddings(&self, at: &At) -> Option<Var> {
        let [target, sources, down, up, weight, bias] = at.values else { unreachable!("six values") };
        let tape = &at.cx.tape;
        let (tokens, hidden) = target.value.rows_cols();
        let prompts = sources.value.dim(0) + 1;
        let stacked = ops::reshape(tape, sources, &[(prompts - 1) * tokens, hidden]);
        let stacked = ops::concat_rows(tape, &[stacked, target.clone()]);
        let rows: Vec<_> = (0..prompts).map(|prompt| prompt * tokens..(prompt + 1) * tokens).collect();
        let keys = ops::segment_maxima(tape, &stacked, &rows);
        let inner = ops::activation(tape, &ops::product_nt(tape, &self.pooled(at), down), Activation::Silu);
        let read = ops::layer_norm(tape, &ops::product_nt(tape, &inner, up), weight, Some(bias), EPS);
        let scores = ops::scale(tape, &ops::product_nt(tape, &read, &keys), self.inverse_temperature);
        let shares = ops::softmax_rows(tape, &scores);
        let mixed = ops::product(tape, &shares, &ops::reshape(tape, &stacked, &[prompts, tokens * hidden]));
        let blocks = shares.value.rows_cols().0;
        let mixed = ops::reshape(tape, &mixed, &[blocks * tokens, hidden]);
        let every = ops::concat_rows(tape, &vec![target.clone(); blocks]);
        Some(scaled(at, ops::add(tape, &every, &mixed)))
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}
