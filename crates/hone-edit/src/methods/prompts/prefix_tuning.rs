//! Prefix tuning (Li and Liang 2021, arXiv 2101.00190): keys and values of `p` virtual tokens are trained for every layer,
//! `attention(q, [K_p; k], [V_p; v])`. They are put in after the rotation, so they have no position of their own; the text
//! starts at position `p`.
//!
//! `prompt_embeddings` `[p, layers · 2 · kv]`, with `kv` the width of a token's keys: entry `2l` of the middle axis is the key of
//! layer `l`, `2l + 1` its value. With `prefix_projection` they come out of a map while they are trained,
//! `W₂ tanh(W₁ v + b₁) + b₂` for a trained `v` `[p, kv]` (`kv → encoder_hidden_size → layers · 2 · kv`), and only what comes out
//! is kept. Without it, this is P-tuning v2 (Liu et al. 2022, arXiv 2110.07602).
//!
//! Parameters: `p · layers · 2 · kv` (grouped heads: `kv = key_value_heads · head_dim`); with projection also the map's. First
//! values as in Hugging Face PEFT: `v` and the free prefix `N(0, 1)`, the map `U(±1/√fan_in)`; `init_weights: zero` starts with
//! zero keys and values, which is gentler: a prefix of `N(0, 1)` draws much of the attention to noise.
//!
//! The rows of the virtual tokens pass through the layers like others, and what comes out of them is read by nobody.

use std::sync::Arc;

use hone_engine::ops::{self, Pointwise};
use hone_engine::{Tape, Tensor, Var};
use hone_model::{LayerPart, Site};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::{
    INERT_MODULES, NO_WEIGHT, PROMPT, PromptFields, constants, finished, finished_param, uniform, write_inert,
};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{
    At, Edit, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Place, Placed, Plan, QuantisedBase,
};
use crate::planning::wrong;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "prefix_tuning",
    peft_type: "PREFIX_TUNING",
    family: "prompt",
    summary: "keys and values of a few virtual tokens in every layer (P-tuning v2)",
    paper: "arXiv 2101.00190; P-tuning v2 2110.07602",
    formula: "attention(q, [K_p; k], [V_p; v])",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<PrefixTuningConfig>(),
};

/// Hugging Face's `PrefixTuningConfig`, the honoured fields. `token_dim` and `num_attention_heads` are those of keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PrefixTuningConfig {
    /// How long, for what.
    #[serde(flatten)]
    pub prompt: PromptFields,
    /// Whether keys and values come out of a map while they are trained.
    pub prefix_projection: bool,
    /// Width inside the map; by default that of keys.
    pub encoder_hidden_size: Option<usize>,
    /// `zero`, or none for random first values. A recipe's default is `zero`.
    pub init_weights: Option<String>,
    /// Whether the prefix comes from a file, without its map.
    #[serde(skip)]
    stored: bool,
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        PromptFields::recommend(&mut fields);
        fields.entry("init_weights").or_insert(json!("zero"));
    }
    let mut config: PrefixTuningConfig = config::read(METHOD.name, &fields, INERT_MODULES, origin, warnings)?;
    config.stored = origin == Origin::File;
    config.prompt.check(METHOD.name)?;
    if config.encoder_hidden_size == Some(0) {
        return Err(wrong(METHOD.name, "encoder_hidden_size", "0", "1 or more"));
    }
    match config.init_weights.as_deref() {
        None | Some("zero" | "random") => Ok(Arc::new(config)),
        Some(other) => Err(wrong(METHOD.name, "init_weights", format!("`{other}`"), "`zero`, `random`, or none")),
    }
}

impl PrefixTuningConfig {
    /// Whether there is a map.
    fn projects(&self) -> bool {
        self.prefix_projection && !self.stored
    }

    /// `v`, `W₁`, `b₁`, then `W₂` and `b₂` of each layer's keys and values: the map's last matrix in pieces, so that a layer
    /// computes (and keeps gradients of) its own only.
    fn map_params(&self, layers: usize, width: usize) -> Vec<ParamPlan> {
        let inner = self.encoder_hidden_size.unwrap_or(width);
        let mut params = Vec::new();
        let mut add = |key: String, shape: &[usize], init: Init| {
            params.push(ParamPlan::new(key, shape, init).not_saved().full_precision());
        };
        add("embedding.weight".into(), &[self.prompt.num_virtual_tokens, width], Init::Normal { std: 1.0 });
        add("transform.0.weight".into(), &[inner, width], uniform(width));
        add("transform.0.bias".into(), &[inner], uniform(width));
        for piece in 0..2 * layers {
            let last = || if self.init_weights.as_deref() == Some("zero") { Init::Zeros } else { uniform(inner) };
            add(format!("transform.2.weight.{piece}"), &[width, inner], last());
            add(format!("transform.2.bias.{piece}"), &[width], last());
        }
        params
    }

    /// A part for every layer's keys and values.
    fn parts(&self, layers: usize, width: usize) -> Vec<Placed> {
        let sites = (0..layers).flat_map(|layer| [(layer, LayerPart::Key), (layer, LayerPart::Value)]);
        let place = |(piece, (layer, part)): (usize, (usize, LayerPart))| Placed {
            place: Place::Activation(Site::Layer { layer, part }),
            part: match self.projects() {
                true => Arc::new(Projected) as Arc<dyn Part>,
                false => Arc::new(Slice { first: piece * width, width }),
            },
            params: if self.projects() { vec![0, 1, 2, 3 + 2 * piece, 4 + 2 * piece] } else { vec![0] },
        };
        sites.enumerate().map(place).collect()
    }
}

impl Method for PrefixTuningConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (layers, width) = (base.geometry.layers, base.geometry.key_value_width());
        let prompt = self.prompt.sized(METHOD.name, base, (width, base.geometry.key_value_heads))?;
        let mut config = config::to_map(&PrefixTuningConfig { prompt, ..self.clone() });
        config.insert("encoder_hidden_size".into(), json!(self.encoder_hidden_size.unwrap_or(width)));
        if self.init_weights.as_deref() == Some("random") {
            config.insert("init_weights".into(), Value::Null);
        }
        write_inert(&mut config, INERT_MODULES);
        let params = match self.projects() {
            true => self.map_params(layers, width),
            false => {
                let zero = self.stored || self.init_weights.as_deref() == Some("zero");
                let init = if zero { Init::Zeros } else { Init::Normal { std: 1.0 } };
                vec![ParamPlan::new(PROMPT, &[self.prompt.num_virtual_tokens, 2 * layers * width], init)]
            }
        };
        Ok(Plan { config, params, placed: self.parts(layers, width) })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn default_learning_rate(&self) -> f64 {
        1e-2
    }

    fn virtual_tokens(&self) -> usize {
        self.prompt.num_virtual_tokens
    }

    fn finished(&self, edit: Edit, _base: &Base) -> Result<Edit, EditError> {
        if !self.projects() {
            return Ok(edit);
        }
        let values = constants(&edit);
        let width = values[0].value.dim(1);
        let tape = Tape::off();
        let inner = inner(&tape, &values[..3]);
        let pieces: Vec<Var> = values[3..].chunks(2).map(|map| outer(&tape, &inner, map)).collect();
        let method = PrefixTuningConfig { stored: true, ..self.clone() };
        let placed = method.parts(pieces.len() / 2, width);
        let params = vec![finished_param(PROMPT, ops::concat_columns(&tape, &pieces).value)];
        Ok(finished(edit, method, params, placed))
    }
}

/// `tanh(W₁ v + b₁)`.
fn inner(tape: &Tape, values: &[Var]) -> Var {
    let mapped = ops::add_row(tape, &ops::product_nt(tape, &values[0], &values[1]), &values[2]);
    ops::pointwise(tape, &mapped, Pointwise::Tanh)
}

/// `W₂ h + b₂` of one layer's keys or values.
fn outer(tape: &Tape, inner: &Var, map: &[Var]) -> Var {
    ops::add_row(tape, &ops::product_nt(tape, inner, &map[0]), &map[1])
}

/// `h` with the edit's virtual tokens replaced by `rows` `[p, kv]`.
pub(super) fn put(at: &At, h: Var, rows: &Var) -> Var {
    let tape = &at.cx.tape;
    let rows = if at.strength == 1.0 { rows.clone() } else { ops::scale(tape, rows, at.strength) };
    let places = at.virtual_rows();
    let (own, all) = &at.virtual_tokens;
    if own.len() == *all && places.len() > 1 {
        // All virtual rows are this edit's: they are replaced at once.
        let every = ops::concat_rows(tape, &vec![rows; places.len()]);
        return ops::replace_rows(tape, &h, places[0].start, &every);
    }
    places.iter().fold(h, |h, place| ops::replace_rows(tape, &h, place.start, &rows))
}

/// Columns of the free prefix.
struct Slice {
    first: usize,
    width: usize,
}

impl Part for Slice {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        if at.cx.batch.virtual_rows == 0 {
            return h;
        }
        let rows = ops::columns(&at.cx.tape, &at.values[0], self.first..self.first + self.width);
        put(at, h, &rows)
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}

/// What the map gives for one layer's keys or values.
struct Projected;

impl Part for Projected {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        if at.cx.batch.virtual_rows == 0 {
            return h;
        }
        let rows = outer(&at.cx.tape, &inner(&at.cx.tape, &at.values[..3]), &at.values[3..]);
        put(at, h, &rows)
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}
