//! LLaMA-Adapter (Zhang et al. 2023, arXiv 2303.16199): in the upper layers every token attends, by a second softmax, to `p`
//! learned vectors `P` `[p, hidden]` that the layer's own maps make keys and values of, behind a gate that starts at zero:
//!
//! `heads += g · softmax(q (W_k P)ᵀ / √d) (W_v P)`, before the output map, `q` with the rotation, the keys without.
//!
//! Parameters: `(p · hidden + 1)` a layer. `P` starts at `N(0, 1)`, `g` at 0. Hugging Face PEFT sends
//! what is added through the output map on its own, whose bias, where it has one, so comes in twice, here as well. Keys are the map's, bias included, without a norm of keys where the model has one; edits
//! of these maps that are stacked beside it do not reach them. There are no virtual tokens: positions stay as they are.

use std::sync::Arc;

use hone_engine::{DType, Tensor, Var, WeightRef, ops};
use hone_model::{LayerPart, Linear, Site};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, BaseValue};
use crate::config;
use crate::error::EditError;
use crate::method::{
    At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Place, Placed, Plan, QuantisedBase,
};
use crate::planning::{key, wrong};

const NO_MERGE: &str = "a second attention behind a gate is no change of weights";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "adaption_prompt",
    peft_type: "ADAPTION_PROMPT",
    family: "prompt",
    summary: "a gated second attention over a few learned vectors in the upper layers",
    paper: "arXiv 2303.16199",
    formula: "heads + g · softmax(q (W_k P)ᵀ/√d) W_v P",
    mergeable: Mergeable::No(NO_MERGE),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<AdaptionPromptConfig>(),
};

/// Hugging Face's `AdaptionPromptConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AdaptionPromptConfig {
    /// Learned vectors a layer. A recipe's default is 10.
    pub adapter_len: usize,
    /// The topmost layers that get them. A recipe's default is all but the first two, as in the paper's 30 of 32.
    pub adapter_layers: Option<usize>,
    /// `self_attn`.
    pub target_modules: Option<String>,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        fields.entry("adapter_len").or_insert(json!(10));
        fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
    }
    let config: AdaptionPromptConfig = config::read(METHOD.name, &fields, &[], origin, warnings)?;
    if config.adapter_len == 0 {
        return Err(wrong(METHOD.name, "adapter_len", "0 or nothing", "a number of vectors, 1 or more"));
    }
    if let Some(other) = config.target_modules.as_deref().filter(|name| *name != "self_attn") {
        return Err(wrong(METHOD.name, "target_modules", format!("`{other}`"), "`self_attn` (or none)"));
    }
    match config.task_type.as_deref() {
        None | Some("CAUSAL_LM") => Ok(Arc::new(config)),
        Some(other) => Err(wrong(METHOD.name, "task_type", format!("`{other}`"), "`CAUSAL_LM` (or none)")),
    }
}

impl Method for AdaptionPromptConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let geometry = base.geometry;
        let layers = self.adapter_layers.unwrap_or(geometry.layers.saturating_sub(2).max(1));
        if layers == 0 || layers > geometry.layers {
            let expected = format!("1 to {}, the model's layers", geometry.layers);
            return Err(wrong(METHOD.name, "adapter_layers", layers.to_string(), expected));
        }
        let mut config = self.fields();
        config.insert("adapter_layers".into(), json!(layers));
        config.insert("target_modules".into(), json!("self_attn"));
        let mut plan = Plan { config, params: Vec::new(), placed: Vec::new() };
        for layer in geometry.layers - layers..geometry.layers {
            let module = format!("model.layers.{layer}.self_attn");
            let params = plan.add([
                ParamPlan::new(
                    key(&module, "adaption_prompt"),
                    &[1, self.adapter_len, geometry.hidden],
                    Init::Normal { std: 1.0 },
                ),
                ParamPlan::new(key(&module, "adaption_gate"), &[1], Init::Zeros).full_precision(),
            ]);
            let site = |part| Place::Activation(Site::Layer { layer, part });
            let attends = Attends {
                key: linear(base, &format!("{module}.k_proj"))?,
                value: linear(base, &format!("{module}.v_proj"))?,
                heads: geometry.query_heads,
                key_value_heads: geometry.key_value_heads,
            };
            plan.placed.push(Placed { place: site(LayerPart::Query), part: Arc::new(Queries), params: Vec::new() });
            plan.placed.push(Placed { place: site(LayerPart::HeadOut), part: Arc::new(attends), params });
            let bias = format!("{module}.o_proj.bias");
            if base.weight(&bias).is_some() {
                plan.placed.push(Placed { place: Place::Weight(bias), part: Arc::new(Twice), params: Vec::new() });
            }
        }
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn default_learning_rate(&self) -> f64 {
        9e-3
    }
}

/// The base model's map `name`.
fn linear(base: &Base, name: &str) -> Result<Linear, EditError> {
    let none = || EditError::NoTarget {
        field: "target_modules",
        target: name.into(),
        what: "linear map",
        near: "the adapter needs key and value maps of every layer".into(),
    };
    let weight = base.weight(&format!("{name}.weight")).ok_or_else(none)?;
    let weight = match &weight.value {
        BaseValue::Matrix(matrix) => matrix.clone(),
        BaseValue::Vector(vector) => WeightRef::Trained(Var::constant(vector.clone())),
        BaseValue::Unknown => return Err(EditError::UnknownBase { place: weight.name.clone() }),
    };
    let bias = base.weight(&format!("{name}.bias")).map(|bias| bias.to_f32());
    Ok(Linear { name: name.into(), weight, bias })
}

const QUERIES: &str = "adaption_prompt queries";

/// Leaves the queries for [`Attends`].
struct Queries;

impl Part for Queries {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        at.cx.note(QUERIES, h.clone());
        h
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_MERGE.into())
    }
}

/// The bias of the output map, once more.
struct Twice;

impl Part for Twice {
    fn on_vector(&self, at: &At, value: Var) -> Var {
        ops::scale(&at.cx.tape, &value, 1.0 + at.strength)
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_MERGE.into())
    }
}

/// The second attention of one layer.
struct Attends {
    key: Linear,
    value: Linear,
    heads: usize,
    key_value_heads: usize,
}

impl Attends {
    /// Keys and values of the prompt, `[p, kv]` each; made once while nothing is trained.
    fn keys_values(&self, at: &At) -> [Var; 2] {
        let (cx, tape) = (at.cx, &at.cx.tape);
        let [_, tokens, hidden] = at.values[0].value.dims() else { unreachable!("[1, p, hidden]") };
        let made = || {
            let prompt = ops::convert(tape, &ops::reshape(tape, &at.values[0], &[*tokens, *hidden]), cx.dtype);
            let of = |map: &Linear| {
                let bias = map.bias.as_ref().map(|bias| Var::constant(bias.to_dtype(cx.dtype)));
                ops::linear(tape, &prompt, &map.weight, bias.as_ref(), &[])
            };
            ops::concat_rows(tape, &[of(&self.key), of(&self.value)])
        };
        let both = match at.once(made) {
            WeightRef::Trained(var) => var,
            WeightRef::Frozen(weight) => Var::constant(weight.to_dense(cx.dtype)),
        };
        [0, 1].map(|which| ops::rows(tape, &both, which * tokens..(which + 1) * tokens))
    }
}

impl Part for Attends {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        let Some(queries) = at.cx.noted(QUERIES) else { return h };
        let tape = &at.cx.tape;
        let [keys, values] = self.keys_values(at);
        let scale = (h.value.rows_cols().1 as f32 / self.heads as f32).powf(-0.5);
        let read = ops::prompt_attention(tape, &queries, &keys, &values, self.heads, self.key_value_heads, scale);
        // The gate in every row, so that each is scaled by it.
        let rows = h.value.rows_cols().0;
        let ones = Var::constant(Tensor::full([rows, 1], DType::F32, at.strength));
        let gates = ops::product(tape, &ones, &ops::reshape(tape, &at.values[1], &[1, 1]));
        ops::add(tape, &h, &ops::scale_rows(tape, &read, &gates))
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_MERGE.into())
    }
}
