//! Cartridges (Eyuboglu et al. 2025, "Cartridges: Lightweight and general-purpose long context representations via
//! self-study", arXiv 2506.06266): keys and values of `p` virtual tokens for every layer, as in [`super::prefix_tuning`]
//! without its map, of which the first `num_frozen_tokens` stay as they are: models pay much attention to their first
//! tokens, whatever those are, and training them is unsteady.
//!
//! `prompt_embeddings` `[p, layers · 2 · kv]`, with `kv` the width of a token's keys. What is trained is a change `[p − f, …]`
//! of the rows behind the `f` frozen ones, which starts at 0 and is added to them in the file; so weight decay would pull
//! towards the start, and there is none. First values `N(0, 1)`, as PEFT's configuration has them. Starting from the keys and
//! values that the model makes of a text, as the paper prefers, is a step of its own in PEFT and not built here; an adapter
//! that was started so is read and trained on like any.
//!
//! Parameters: `(p − f) · layers · 2 · kv`.

use std::sync::Arc;

use hone_engine::{Tape, Tensor, Var, ops};
use hone_model::{LayerPart, Site};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::{INERT_MODULES, NO_WEIGHT, PROMPT, PromptFields, write_inert};
use super::prefix_tuning::put;
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{
    At, Edit, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Place, Placed, Plan, QuantisedBase,
};
use crate::planning::wrong;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "cartridge",
    peft_type: "CARTRIDGE",
    family: "prompt",
    summary: "keys and values of a few virtual tokens in every layer, the first of them frozen",
    paper: "arXiv 2506.06266",
    formula: "attention(q, [K_f; K_p; k], [V_f; V_p; v])",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<CartridgeConfig>(),
};

/// Hugging Face's `CartridgeConfig`. `token_dim` and `num_attention_heads` are those of keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CartridgeConfig {
    /// How long, for what.
    #[serde(flatten)]
    pub prompt: PromptFields,
    /// Virtual tokens, the first ones, that are not trained.
    pub num_frozen_tokens: usize,
}

impl Default for CartridgeConfig {
    fn default() -> Self {
        CartridgeConfig { prompt: PromptFields::default(), num_frozen_tokens: 1 }
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
    }
    let config: CartridgeConfig = config::read(METHOD.name, &fields, INERT_MODULES, origin, warnings)?;
    config.prompt.check(METHOD.name)?;
    if config.num_frozen_tokens >= config.prompt.num_virtual_tokens {
        let expected = format!("fewer than the {} virtual tokens", config.prompt.num_virtual_tokens);
        return Err(wrong(METHOD.name, "num_frozen_tokens", config.num_frozen_tokens.to_string(), expected));
    }
    Ok(Arc::new(config))
}

impl Method for CartridgeConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (layers, width) = (base.geometry.layers, base.geometry.key_value_width());
        let prompt = self.prompt.sized(METHOD.name, base, (width, base.geometry.key_value_heads))?;
        let mut config = config::to_map(&CartridgeConfig { prompt, ..self.clone() });
        write_inert(&mut config, INERT_MODULES);
        let (tokens, all) = (self.prompt.num_virtual_tokens, 2 * layers * width);
        let trained = tokens - self.num_frozen_tokens;
        let start = ParamPlan::new(PROMPT, &[tokens, all], Init::Normal { std: 1.0 }).fixed().full_precision();
        let change = ParamPlan::new("trainable_embedding", &[trained, all], Init::Zeros);
        let params = vec![start, change.not_saved().full_precision().without_decay()];
        let sites = (0..layers).flat_map(|layer| [(layer, LayerPart::Key), (layer, LayerPart::Value)]);
        let place = |(piece, (layer, part)): (usize, (usize, LayerPart))| Placed {
            place: Place::Activation(Site::Layer { layer, part }),
            part: Arc::new(Slice { first: piece * width, width }),
            params: vec![0, 1],
        };
        Ok(Plan { config, params, placed: sites.enumerate().map(place).collect() })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn saved_form(&self, edit: &Edit) -> Option<Edit> {
        Some(folded(edit))
    }

    fn default_learning_rate(&self) -> f64 {
        1e-2
    }

    fn virtual_tokens(&self) -> usize {
        self.prompt.num_virtual_tokens
    }
}

/// The edit with its change added to where it started.
fn folded(edit: &Edit) -> Edit {
    let mut edit = edit.clone();
    let [start, change] = edit.params.as_mut_slice() else { unreachable!("a cartridge has two parameters") };
    let value = changed(&Tape::off(), &Var::constant(start.value.clone()), &Var::constant(change.value.clone()));
    start.value = value.value;
    change.value = Tensor::zeros(change.value.dims(), change.value.dtype());
    edit
}

/// `start` with `change` added to its last rows.
fn changed(tape: &Tape, start: &Var, change: &Var) -> Var {
    let (all, trained) = (start.value.dim(0), change.value.dim(0));
    let last = ops::add(tape, &ops::rows(tape, start, all - trained..all), change);
    if trained == all {
        return last;
    }
    ops::concat_rows(tape, &[ops::rows(tape, start, 0..all - trained), last])
}

/// Columns of the keys and values: one layer's.
struct Slice {
    first: usize,
    width: usize,
}

impl Part for Slice {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        if at.cx.batch.virtual_rows == 0 {
            return h;
        }
        let tape = &at.cx.tape;
        let [start, change] = [0, 1].map(|i| ops::columns(tape, &at.values[i], self.first..self.first + self.width));
        let rows = ops::convert(tape, &changed(tape, &start, &change), h.value.dtype());
        put(at, h, &rows)
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}
