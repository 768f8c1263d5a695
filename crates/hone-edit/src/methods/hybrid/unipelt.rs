//! UniPELT (Mao et al. 2022, arXiv 2110.07577): a prefix, an adapter behind the MLP and low-rank pairs at once, each behind a
//! gate that decides how much of it is let through, `g = σ(w_g · u)`:
//!
//! - prefix: `attention(q, [g K_p; k], [g V_p; v])`, `u` what attention reads;
//! - adapter: `r + g W_up f(W_down r)`, `u = r` the residual stream behind the MLP;
//! - pair: `x Wᵀ + g s x Aᵀ Bᵀ`, `u = x` what the map reads.
//!
//! **Gates of single tokens.** The paper (and AdapterHub's code) averages a gate over the whole sequence, which suits an encoder; in
//! a decoder a token would see those to come. Here a gate is its token's own, so text continues with a cache as without one; the
//! prefix's is that of each virtual token.
//!
//! Start: prefix, `W_up` and `B` are zero, so a fresh edit adds nothing but the prefix's zero keys, which take their share of the
//! attention. Gates start from `U(±1/√d)`, near one half. Defaults are AdapterHub's: 10 virtual tokens, reduction 16, rank 8 on queries
//! and values with `lora_alpha` 2.
//!
//! Parameters a layer: prefix `2 p kv + d`; adapter `2 b d + b + 2 d`; a pair `r (in + out) + in`.

use std::sync::Arc;

use hone_engine::ops::{self, Activation};
use hone_engine::{Tensor, Var, WeightRef};
use hone_model::{LayerPart, Linear, Site};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::config;
use crate::error::EditError;
use crate::forms::dropout;
use crate::method::{
    At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Place, Placed, Plan, QuantisedBase,
};
use crate::methods::adapters::NonLinearity;
use crate::planning::{TargetFields, check_probability, check_rank, key, wrong};

const NO_WEIGHT: &str = "its gates follow the tokens, so it is not a change of weights";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "unipelt",
    peft_type: "HONE_UNIPELT",
    family: "hybrid",
    summary: "a prefix, an adapter and low-rank pairs, each behind a gate",
    paper: "arXiv 2110.07577",
    formula: "attention(q, [g K_p; k], [g V_p; v]); r + g W_up f(W_down r); x Wᵀ + g s x Aᵀ Bᵀ",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<UniPeltConfig>(),
};

/// What targets are named by default.
const TARGETS: [&str; 2] = ["q_proj", "v_proj"];

/// The fields of the three; names are those of their own methods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UniPeltConfig {
    /// Virtual tokens of the prefix.
    pub num_virtual_tokens: usize,
    /// The width of the adapter is the model's divided by this.
    #[serde(serialize_with = "config::number")]
    pub reduction_factor: f64,
    /// The function inside the adapter.
    pub non_linearity: NonLinearity,
    /// Rank of the pairs.
    pub r: usize,
    /// The pairs are scaled by `lora_alpha / r`.
    #[serde(serialize_with = "config::number")]
    pub lora_alpha: f64,
    /// Dropout on what `A` reads.
    pub lora_dropout: f64,
    /// Where the pairs stand.
    #[serde(flatten)]
    pub fields: TargetFields,
}

impl Default for UniPeltConfig {
    fn default() -> Self {
        UniPeltConfig {
            num_virtual_tokens: 10,
            reduction_factor: 16.0,
            non_linearity: NonLinearity::Swish,
            r: 8,
            lora_alpha: 2.0,
            lora_dropout: 0.0,
            fields: TargetFields { task_type: Some("CAUSAL_LM".into()), ..TargetFields::default() },
        }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let config: UniPeltConfig = config::read(METHOD.name, fields, &[], origin, warnings)?;
    config.fields.check(METHOD.name)?;
    check_rank(METHOD.name, "r", config.r)?;
    check_probability(METHOD.name, "lora_dropout", config.lora_dropout)?;
    if config.num_virtual_tokens == 0 {
        return Err(wrong(METHOD.name, "num_virtual_tokens", "0", "a number of virtual tokens, 1 or more"));
    }
    if !(config.reduction_factor > 0.0 && config.reduction_factor.is_finite()) {
        return Err(wrong(METHOD.name, "reduction_factor", config.reduction_factor.to_string(), "a positive number"));
    }
    if !config.lora_alpha.is_finite() {
        return Err(wrong(METHOD.name, "lora_alpha", config.lora_alpha.to_string(), "a number"));
    }
    Ok(Arc::new(config))
}

impl Method for UniPeltConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let written = (config::to_map(self), [].as_slice());
        let mut plan = self.fields.plan(METHOD.name, base, &TARGETS, written, |plan, weight| {
            self.plan_pair(plan, weight);
            Ok(())
        })?;
        (0..base.geometry.layers).for_each(|layer| self.plan_layer(&mut plan, layer, base));
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn default_learning_rate(&self) -> f64 {
        1e-3
    }

    fn virtual_tokens(&self) -> usize {
        self.num_virtual_tokens
    }
}

impl UniPeltConfig {
    fn plan_pair(&self, plan: &mut Plan, weight: &BaseWeight) {
        let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
        let named = |tensor: &str| key(module, &format!("unipelt.{tensor}.weight"));
        let params = [
            ParamPlan::new(named("lora_A"), &[self.r, inputs], uniform(inputs)),
            ParamPlan::new(named("lora_B"), &[out, self.r], Init::Zeros),
            gate(named("gate"), inputs),
        ];
        let part = GatedPair { scale: (self.lora_alpha / self.r as f64) as f32, dropout: self.lora_dropout as f32 };
        plan.on_linear(weight, part, params);
    }

    /// The prefix and the adapter of a layer.
    fn plan_layer(&self, plan: &mut Plan, layer: usize, base: &Base) {
        let (hidden, keys) = (base.geometry.hidden, base.geometry.key_value_width());
        let width = ((hidden as f64 / self.reduction_factor).round() as usize).max(1);
        let named = |sublayer: &str, tensor: &str| {
            key(&format!("model.layers.{layer}.{sublayer}"), &format!("unipelt.{tensor}"))
        };
        let prefix = |tensor| ParamPlan::new(named("self_attn", tensor), &[self.num_virtual_tokens, keys], Init::Zeros);
        let prefix = plan.add([
            prefix("prefix_key"),
            prefix("prefix_value"),
            gate(named("self_attn", "prefix_gate.weight"), hidden),
        ]);
        let adapter = plan.add([
            ParamPlan::new(named("mlp", "down.weight"), &[width, hidden], uniform(hidden)),
            ParamPlan::new(named("mlp", "down.bias"), &[width], Init::Zeros),
            ParamPlan::new(named("mlp", "up.weight"), &[hidden, width], Init::Zeros),
            ParamPlan::new(named("mlp", "up.bias"), &[hidden], Init::Zeros),
            gate(named("mlp", "adapter_gate.weight"), hidden),
        ]);
        let mut put = |part: Arc<dyn Part>, at: LayerPart, params: Vec<usize>| {
            plan.placed.push(Placed { place: Place::Activation(Site::Layer { layer, part: at }), part, params });
        };
        let [key, value, gate] = [prefix[0], prefix[1], prefix[2]];
        put(Arc::new(Leave { layer }), LayerPart::AttnIn, Vec::new());
        put(Arc::new(GatedPrefix { layer }), LayerPart::Key, vec![key, gate]);
        put(Arc::new(GatedPrefix { layer }), LayerPart::Value, vec![value, gate]);
        put(Arc::new(GatedAdapter { f: self.non_linearity.activation() }), LayerPart::ResidPost, adapter);
    }
}

/// Under which name what a layer's attention reads is left.
fn note(layer: usize) -> String {
    format!("unipelt {}", Site::Layer { layer, part: LayerPart::AttnIn })
}

/// `w_g` `[1, width]`.
fn gate(key: String, width: usize) -> ParamPlan {
    ParamPlan::new(key, &[1, width], uniform(width)).without_decay()
}

/// PyTorch's default for a linear map.
fn uniform(inputs: usize) -> Init {
    Init::Uniform { bound: 1.0 / (inputs as f32).sqrt() }
}

/// `change` `[tokens, width]`, each row times `σ(w_g · u)` of its row of `u`.
fn gated(at: &At, change: &Var, u: &Var, gate: &Var) -> Var {
    let tape = &at.cx.tape;
    let logits = ops::linear(tape, u, &WeightRef::Trained(gate.clone()), None, &[]);
    let open = ops::activation(tape, &logits, Activation::Sigmoid);
    ops::scale_rows(tape, change, &ops::reshape(tape, &open, &[u.value.rows_cols().0]))
}

/// `A`, `B`, `w_g` on a linear map.
struct GatedPair {
    scale: f32,
    dropout: f32,
}

impl Part for GatedPair {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let [a, b, gate] = at.values else { unreachable!("planned with three values") };
        let read = match dropout(at, self.dropout) {
            Some(dropout) => ops::dropout(tape, x, dropout),
            None => x.clone(),
        };
        let inner = ops::linear(tape, &read, &WeightRef::Trained(a.clone()), None, &[]);
        let change = ops::linear(tape, &inner, &WeightRef::Trained(b.clone()), None, &[]);
        ops::add_scaled(tape, &next(x), &gated(at, &change, x, gate), self.scale * at.strength)
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}

/// `W_down`, `b_down`, `W_up`, `b_up`, `w_g` on the residual stream.
struct GatedAdapter {
    f: Activation,
}

impl Part for GatedAdapter {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        let tape = &at.cx.tape;
        let [down, down_bias, up, up_bias, gate] = at.values else { unreachable!("planned with five values") };
        let affine = |x: &Var, w: &Var, b: &Var| ops::linear(tape, x, &WeightRef::Trained(w.clone()), Some(b), &[]);
        let inner = ops::activation(tape, &affine(&h, down, down_bias), self.f);
        let change = gated(at, &affine(&inner, up, up_bias), &h, gate);
        ops::add_scaled(tape, &h, &change, at.strength)
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}

/// Leaves what attention reads for the prefix's gate.
struct Leave {
    layer: usize,
}

impl Part for Leave {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        if at.cx.batch.virtual_rows > 0 {
            at.cx.note(&note(self.layer), h.clone());
        }
        h
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}

/// The prefix's keys (or values) of a layer and `w_g`.
struct GatedPrefix {
    layer: usize,
}

impl Part for GatedPrefix {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        if at.cx.batch.virtual_rows == 0 {
            return h;
        }
        let tape = &at.cx.tape;
        let [prefix, gate] = at.values else { unreachable!("planned with two values") };
        // `Leave` stands at every layer's attention and runs before it in the same block.
        let read = at.cx.noted(&note(self.layer)).expect("what attention reads was left");
        at.virtual_rows().into_iter().fold(h, |h, own| {
            let start = own.start;
            let let_through = gated(at, prefix, &ops::rows(tape, &read, own), gate);
            ops::replace_rows(tape, &h, start, &ops::scale(tape, &let_through, at.strength))
        })
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}
