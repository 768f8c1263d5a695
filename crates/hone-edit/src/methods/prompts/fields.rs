//! What prompt methods have in common: Hugging Face's fields for a prompt's sizes, a prompt's first value, and the part that
//! puts its rows before every sequence.
//!
//! First values of `P` `[tokens, hidden]`, as the first layer reads them (a model's factor on embeddings included): random
//! `N(0, 1)`, the embeddings of tokens drawn from the vocabulary, those of a text (repeated or cut to length), or a trained
//! prompt (SPoT, arXiv 2110.07904): of several, the one nearest to a given prompt by `cos(mean_i p_i, mean_i q_i)`, where the
//! prompts' rows are averaged.

use std::path::Path;

use hone_engine::{DType, Tape, Tensor, Var, WeightRef, ops};
use hone_model::decoder::EMBED_TOKENS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, BaseValue};
use crate::config::Inert;
use crate::error::EditError;
use crate::files::{TensorFile, WEIGHTS, adapter_directory};
use crate::method::{At, Edit, Init, Merge, Method, Param, ParamTraits, Part, Place, Placed};
use crate::planning::wrong;
use crate::target::OneOrMany;

/// Why prompts are not merged.
pub const NO_WEIGHT: &str = "virtual tokens are no weights";
/// The prompt's key in `adapter_model.safetensors`.
pub const PROMPT: &str = "prompt_embeddings";
/// Virtual tokens of a recipe that does not say how many.
const TOKENS: usize = 20;

/// Hugging Face's fields of every prompt method. Sizes that are not given are the model's; others have to agree with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PromptFields {
    /// Virtual tokens before every sequence. A recipe's default is 20.
    pub num_virtual_tokens: usize,
    /// Width of a virtual token: the residual stream's (for a prefix, that of all keys of a token).
    pub token_dim: Option<usize>,
    /// Attention heads (for a prefix, key-value heads).
    pub num_attention_heads: Option<usize>,
    /// Layers of the model.
    pub num_layers: Option<usize>,
    /// Stacks of layers that get the prompt: 1.
    pub num_transformer_submodules: Option<usize>,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl PromptFields {
    /// A recipe's defaults.
    pub fn recommend(fields: &mut Map<String, Value>) {
        fields.entry("num_virtual_tokens").or_insert(json!(TOKENS));
        fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
    }

    /// Refuses what cannot be, whatever the model.
    pub fn check(&self, method: &'static str) -> Result<(), EditError> {
        if self.num_virtual_tokens == 0 {
            return Err(wrong(method, "num_virtual_tokens", "0 or nothing", "a number of virtual tokens, 1 or more"));
        }
        if let Some(other) = self.num_transformer_submodules.filter(|count| *count != 1) {
            let expected = "1 (2 is for encoder-decoders)";
            return Err(wrong(method, "num_transformer_submodules", other.to_string(), expected));
        }
        match self.task_type.as_deref() {
            None | Some("CAUSAL_LM") => Ok(()),
            Some(other) => Err(wrong(method, "task_type", format!("`{other}`"), "`CAUSAL_LM` (or none)")),
        }
    }

    /// The fields with the model's sizes written out. Refuses others.
    pub fn sized(
        &self,
        method: &'static str,
        base: &Base,
        (width, heads): (usize, usize),
    ) -> Result<PromptFields, EditError> {
        let sizes = [
            ("token_dim", self.token_dim, width),
            ("num_attention_heads", self.num_attention_heads, heads),
            ("num_layers", self.num_layers, base.geometry.layers),
        ];
        for (field, found, expected) in sizes {
            if let Some(found) = found.filter(|found| *found != expected) {
                return Err(wrong(method, field, found.to_string(), format!("{expected}, this model's (or none)")));
            }
        }
        Ok(PromptFields {
            token_dim: Some(width),
            num_attention_heads: Some(heads),
            num_layers: Some(base.geometry.layers),
            num_transformer_submodules: Some(1),
            ..self.clone()
        })
    }
}

/// How a prompt starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PromptInit {
    /// `N(0, 1)`.
    #[default]
    Random,
    /// The embeddings of a text.
    Text,
    /// The embeddings of tokens drawn from the vocabulary.
    SampleVocab,
}

/// The fields of a prompt's first value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FirstPrompt {
    /// `RANDOM` (Hugging Face's default), `TEXT` or `SAMPLE_VOCAB` (a recipe's default, for it learns faster).
    pub prompt_tuning_init: PromptInit,
    /// The text of `TEXT`.
    pub prompt_tuning_init_text: Option<String>,
    /// The tokenizer of `TEXT`: the model's own.
    pub tokenizer_name_or_path: Option<String>,
    /// Directories of trained prompts of this length and width: start from the only one, or from the one nearest to
    /// `init_nearest_to`.
    #[schemars(extend("format" = "path"))]
    pub init_from: Option<OneOrMany<String>>,
    /// The directory of a prompt that was trained a little on the task at hand, to choose among `init_from` by.
    #[schemars(extend("format" = "path"))]
    pub init_nearest_to: Option<String>,
    /// Whether the prompt comes from a file, so that nothing of the above is done.
    #[serde(skip)]
    pub stored: bool,
}

/// Fields of Hugging Face's that no prompt method honours.
pub const INERT: &[Inert] = &[
    Inert { field: "tokenizer_kwargs", off: &["null", "{}"], reason: "the model's own tokenizer is used as it is" },
    Inert { field: "modules_to_save", off: &[], reason: "stack a `full` edit of these modules beside the prompt" },
];

/// The fields that have nothing to do with a tokenizer.
pub const INERT_MODULES: &[Inert] = &[Inert { field: "modules_to_save", off: &[], reason: INERT[1].reason }];

/// Writes fields that are not honoured as switched off.
pub fn write_inert(config: &mut Map<String, Value>, inert: &[Inert]) {
    inert.iter().for_each(|inert| drop(config.insert(inert.field.into(), Value::Null)));
}

/// Takes out where a prompt started from, which a file does not say.
pub fn forget_origin(config: &mut Map<String, Value>) {
    for own in ["init_from", "init_nearest_to"] {
        config.shift_remove(own);
    }
}

impl FirstPrompt {
    /// A recipe's defaults.
    pub fn recommend(fields: &mut Map<String, Value>) {
        let text = fields.get("prompt_tuning_init_text").is_some_and(|text| !text.is_null());
        fields.entry("prompt_tuning_init").or_insert(json!(if text { "TEXT" } else { "SAMPLE_VOCAB" }));
    }

    fn sources(&self) -> Vec<&String> {
        match &self.init_from {
            None => Vec::new(),
            Some(OneOrMany::One(one)) => vec![one],
            Some(OneOrMany::Many(many)) => many.iter().collect(),
        }
    }

    /// Refuses fields that do not go together.
    pub fn check(&self, method: &'static str) -> Result<(), EditError> {
        let text = self.prompt_tuning_init_text.as_deref().unwrap_or_default();
        if self.prompt_tuning_init == PromptInit::Text && text.is_empty() && !self.stored {
            return Err(wrong(method, "prompt_tuning_init_text", "nothing", "a text, for `prompt_tuning_init: TEXT`"));
        }
        let sources = self.sources();
        match (sources.len(), &self.init_nearest_to) {
            (0, Some(_)) => {
                Err(wrong(method, "init_from", "nothing", "directories to choose from by `init_nearest_to`"))
            }
            (2.., None) => {
                let expected = "one directory, or `init_nearest_to` to choose among them by";
                Err(wrong(method, "init_from", format!("{} directories", sources.len()), expected))
            }
            _ => Ok(()),
        }
    }

    /// The first value of a prompt of `tokens` rows.
    pub fn init(&self, method: &'static str, base: &Base, tokens: usize) -> Result<Init, EditError> {
        if self.stored {
            return Ok(Init::Zeros);
        }
        if self.init_from.is_some() {
            let prompt = self.trained(tokens, base.geometry.hidden)?;
            return Ok(Init::Computed(Box::new(move |_| prompt.clone())));
        }
        Ok(match self.prompt_tuning_init {
            PromptInit::Random => Init::Normal { std: 1.0 },
            PromptInit::SampleVocab => {
                let (table, vocabulary) = (Embeddings::of(base), base.geometry.vocabulary.max(1) as u32);
                Init::Drawn(Box::new(move |key| {
                    let ids: Vec<u32> = (0..tokens as u64).map(|at| key.bits(at) % vocabulary).collect();
                    table.rows(&ids)
                }))
            }
            PromptInit::Text => {
                let ids = self.text_ids(method, base, tokens)?;
                Init::Computed(Box::new(move |base| Embeddings::of(base).rows(&ids)))
            }
        })
    }

    /// The text's ids, repeated or cut to `tokens`.
    fn text_ids(&self, method: &'static str, base: &Base, tokens: usize) -> Result<Vec<u32>, EditError> {
        if let Some(other) = self.tokenizer_name_or_path.as_ref().filter(|name| **name != base.reference) {
            let expected = format!("`{}`, whose tokenizer is used (or none)", base.reference);
            return Err(wrong(method, "tokenizer_name_or_path", format!("`{other}`"), expected));
        }
        let text = self.prompt_tuning_init_text.as_deref().unwrap_or_default();
        let ids = match &base.tokenizer {
            Some(tokenizer) => tokenizer.encode(text, true)?.ids,
            None => Vec::new(),
        };
        if ids.is_empty() {
            return Err(wrong(method, "prompt_tuning_init_text", format!("{text:?}"), "a text of at least one token"));
        }
        Ok(ids.iter().copied().cycle().take(tokens).collect())
    }

    /// The trained prompt to start from.
    fn trained(&self, tokens: usize, width: usize) -> Result<Tensor, EditError> {
        let mut prompts = Vec::new();
        for source in self.sources() {
            prompts.push(read_prompt(source, [tokens, width])?);
        }
        let Some(target) = &self.init_nearest_to else { return Ok(prompts.swap_remove(0)) };
        let target = mean_row(&read_prompt(target, [tokens, width])?);
        let likeness = |prompt: &Tensor| cosine(&mean_row(prompt), &target);
        let nearest = (0..prompts.len()).max_by(|a, b| likeness(&prompts[*a]).total_cmp(&likeness(&prompts[*b])));
        Ok(prompts.swap_remove(nearest.unwrap_or(0)))
    }
}

/// The prompt of shape `[tokens, width]` in an adapter's directory (or a run's).
pub fn read_prompt(directory: &str, shape: [usize; 2]) -> Result<Tensor, EditError> {
    TensorFile::read(&adapter_directory(Path::new(directory)).join(WEIGHTS))?.tensor(PROMPT, &shape)
}

fn mean_row(prompt: &Tensor) -> Vec<f64> {
    let (rows, width) = prompt.rows_cols();
    let mut mean = vec![0.0; width];
    for row in prompt.as_slice::<f32>().chunks(width) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value) / rows as f64);
    }
    mean
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

/// A model's embedding table and the factor on its rows.
pub(super) struct Embeddings {
    table: Option<WeightRef>,
    hidden: usize,
    factor: f32,
}

impl Embeddings {
    pub(super) fn of(base: &Base) -> Embeddings {
        let table = match base.weight(EMBED_TOKENS).map(|table| &table.value) {
            Some(BaseValue::Matrix(table)) => Some(table.clone()),
            _ => None,
        };
        Embeddings { table, hidden: base.geometry.hidden, factor: base.embedding_factor }
    }

    /// What the first layer reads for `ids`, `[ids, hidden]` in `f32`. A base without values has zeros.
    pub(super) fn rows(&self, ids: &[u32]) -> Tensor {
        match &self.table {
            Some(table) => ops::embedding(&Tape::off(), table, ids, self.factor, DType::F32).value,
            None => Tensor::zeros([ids.len(), self.hidden], DType::F32),
        }
    }
}

/// `P` `[tokens, hidden]`, the first value of the part, before every sequence.
pub struct PromptRows;

impl Part for PromptRows {
    fn virtual_embeddings(&self, at: &At) -> Option<Var> {
        Some(scaled(at, at.values[0].clone()))
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}

/// A prompt at the strength of its edit.
pub fn scaled(at: &At, prompt: Var) -> Var {
    if at.strength == 1.0 { prompt } else { ops::scale(&at.cx.tape, &prompt, at.strength) }
}

/// A part at the virtual tokens.
pub fn at_virtual_tokens(part: impl Part + 'static, params: Vec<usize>) -> Placed {
    Placed { place: Place::VirtualTokens, part: std::sync::Arc::new(part), params }
}

/// A parameter of a finished edit: plain, trained on if anybody does.
pub fn finished_param(key: &str, value: Tensor) -> Param {
    Param { key: key.into(), value, copies: Vec::new(), traits: ParamTraits::default(), resting: false }
}

/// `edit` with what its encoders gave in their place.
pub fn finished(edit: Edit, method: impl Method + 'static, params: Vec<Param>, placed: Vec<Placed>) -> Edit {
    Edit { method: std::sync::Arc::new(method), params, placed, ..edit }
}

/// The values of an edit's parameters, for what is computed outside a forward pass.
pub fn constants(edit: &Edit) -> Vec<Var> {
    edit.params.iter().map(|param| Var::constant(param.value.clone())).collect()
}

/// PyTorch's `nn.Linear` and `nn.LSTM` start like this: `U(±1/√fan_in)`.
pub fn uniform(fan_in: usize) -> Init {
    Init::Uniform { bound: 1.0 / (fan_in.max(1) as f32).sqrt() }
}
