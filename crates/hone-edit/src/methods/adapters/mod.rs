//! Adapters: small networks put into every layer, the rest frozen. What they share is here: where they sit and what they read.
//!
//! With `Δ` an adapter's network (a bottleneck, mostly), `s` its `scaling`, and a sub-layer (attention or MLP) that reads `u`
//! (normed) and adds `f(u)` to the residual stream `h`:
//!
//! | `insertion` | becomes | as in |
//! |---|---|---|
//! | `sequential` | `h + o + s Δ(o)`, `o = f(u)` | Houlsby et al. 2019, arXiv 1902.00751 |
//! | `residual` | `r + s Δ(r)`, `r = h + f(u)` | Pfeiffer et al. 2021, arXiv 2005.00247, on pre-norm models |
//! | `parallel` | `h + f(u) + s Δ(u)` | He et al. 2022, arXiv 2110.04366 |
//!
//! `placement` says at which sub-layers. A bottleneck is `bottleneck` wide, or `hidden / reduction_factor`, rounded. None of them
//! is a change of a weight, so none can be merged; none reads a weight, so a quantised base stays as it is.
//!
//! Hugging Face PEFT has no such types; the names of fields are those of AdapterHub's `adapters` where it has them. Keys are
//! `base_model.model.model.layers.N.mlp.METHOD.TENSOR` (`self_attn` at attention).

pub mod bottleneck;
pub mod compacter;
pub mod conformer;
pub mod fusion;
pub mod houlsby;
pub mod parallel;
pub mod pfeiffer;

use hone_engine::ops::{self, Activation, Dropout};
use hone_engine::{RandomKey, Tensor, Var, WeightRef};
use hone_model::{LayerPart, Site};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, Geometry};
use crate::config;
use crate::error::EditError;
use crate::method::{At, Init, Merge, ParamPlan, Part, Place, Placed, Plan};
use crate::planning::{check_probability, key, wrong};
use crate::replace::plan_replacements;
use crate::target::{OneOrMany, saved_modules};

/// Why no adapter merges.
const NO_WEIGHT: &str = "it is a network beside the weights, not a change of one";

/// At which sub-layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Attention.
    Attention,
    /// The MLP.
    Mlp,
    /// Both, with parameters of their own.
    Both,
}

/// What an adapter reads and where its output goes; see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Insertion {
    /// Reads the sub-layer's output.
    Sequential,
    /// Reads the residual stream behind the sub-layer.
    Residual,
    /// Reads the sub-layer's input.
    Parallel,
}

/// The function inside a bottleneck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NonLinearity {
    /// `max(x, 0)`.
    Relu,
    /// With erf.
    Gelu,
    /// With the tanh approximation.
    GeluNew,
    /// `x σ(x)`.
    Swish,
    /// Hyperbolic tangent.
    Tanh,
    /// `σ(x)`.
    Sigmoid,
}

impl NonLinearity {
    pub(crate) fn activation(self) -> Activation {
        match self {
            NonLinearity::Relu => Activation::Relu,
            NonLinearity::Gelu => Activation::Gelu,
            NonLinearity::GeluNew => Activation::GeluTanh,
            NonLinearity::Swish => Activation::Silu,
            NonLinearity::Tanh => Activation::Tanh,
            NonLinearity::Sigmoid => Activation::Sigmoid,
        }
    }
}

/// The fields all adapters have. Their defaults are each method's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AdapterFields {
    /// At which sub-layers.
    pub placement: Placement,
    /// What is read and where the output goes.
    pub insertion: Insertion,
    /// The width of the bottleneck is the model's divided by this.
    #[serde(serialize_with = "config::number")]
    pub reduction_factor: f64,
    /// The width of the bottleneck, instead of a reduction factor.
    pub bottleneck: Option<usize>,
    /// Factor on the adapter's output.
    #[serde(serialize_with = "config::number")]
    pub scaling: f64,
    /// Dropout on the adapter's output.
    pub dropout: f64,
    /// Only these layers.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// Modules trained whole and saved with the adapter (norms, say).
    pub modules_to_save: Option<Vec<String>>,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl Default for AdapterFields {
    fn default() -> Self {
        AdapterFields {
            placement: Placement::Mlp,
            insertion: Insertion::Sequential,
            reduction_factor: 16.0,
            bottleneck: None,
            scaling: 1.0,
            dropout: 0.0,
            layers_to_transform: None,
            modules_to_save: None,
            task_type: None,
        }
    }
}

impl AdapterFields {
    fn check(&self, method: &'static str) -> Result<(), EditError> {
        check_probability(method, "dropout", self.dropout)?;
        if !(self.reduction_factor > 0.0 && self.reduction_factor.is_finite()) {
            return Err(wrong(method, "reduction_factor", self.reduction_factor.to_string(), "a positive number"));
        }
        if self.bottleneck == Some(0) {
            return Err(wrong(method, "bottleneck", "0", "a width of 1 or more"));
        }
        if !self.scaling.is_finite() || self.scaling == 0.0 {
            return Err(wrong(method, "scaling", self.scaling.to_string(), "a number other than 0"));
        }
        match self.task_type.as_deref() {
            None | Some("CAUSAL_LM") => Ok(()),
            Some(other) => Err(wrong(method, "task_type", format!("`{other}`"), "`CAUSAL_LM` (or none)")),
        }
    }

    /// The width of the bottleneck.
    fn width(&self, geometry: &Geometry) -> usize {
        let divided = (geometry.hidden as f64 / self.reduction_factor).round() as usize;
        self.bottleneck.unwrap_or(divided.max(1))
    }

    /// The sub-layers an adapter is put at, in order of the forward pass.
    fn slots(&self, method: &'static str, base: &Base) -> Result<Vec<Slot>, EditError> {
        let layers = base.geometry.layers;
        let wanted: Vec<usize> = match &self.layers_to_transform {
            None => (0..layers).collect(),
            Some(OneOrMany::One(layer)) => vec![*layer],
            Some(OneOrMany::Many(list)) => list.clone(),
        };
        if let Some(layer) = wanted.iter().find(|layer| **layer >= layers) {
            let expected = format!("layers from 0 to {}", layers.saturating_sub(1));
            return Err(wrong(method, "layers_to_transform", layer.to_string(), expected));
        }
        let at = |layer| {
            let sublayers: &[Sublayer] = match self.placement {
                Placement::Attention => &[Sublayer::Attention],
                Placement::Mlp => &[Sublayer::Mlp],
                Placement::Both => &[Sublayer::Attention, Sublayer::Mlp],
            };
            sublayers.iter().map(move |&sublayer| Slot { layer, sublayer })
        };
        Ok((0..layers).filter(|layer| wanted.contains(layer)).flat_map(at).collect())
    }

    /// Puts `network` at `slot`, reading parameters `params`.
    fn place(&self, plan: &mut Plan, slot: Slot, network: impl Network + 'static, params: Vec<usize>) {
        if self.insertion == Insertion::Parallel {
            let part = std::sync::Arc::new(Leave(slot));
            plan.placed.push(Placed { place: Place::Activation(slot.input()), part, params: Vec::new() });
        }
        let part = AdapterPart {
            network,
            scaling: self.scaling as f32,
            dropout: self.dropout as f32,
            parallel: (self.insertion == Insertion::Parallel).then_some(slot),
        };
        let place = Place::Activation(slot.output(self.insertion));
        plan.placed.push(Placed { place, part: std::sync::Arc::new(part), params });
    }

    /// A plan without parts yet.
    fn begin(&self, config: &impl Serialize) -> Plan {
        Plan { config: config::to_map(config), params: Vec::new(), placed: Vec::new() }
    }

    /// Adds the modules that are trained whole.
    fn finish(&self, plan: &mut Plan, base: &Base) -> Result<(), EditError> {
        let saved = saved_modules(self.modules_to_save.as_deref().unwrap_or_default(), base)?;
        plan_replacements(plan, &saved, base);
        Ok(())
    }
}

/// Puts a method's defaults where `fields` says nothing.
fn with_defaults(fields: &Map<String, Value>, defaults: Value) -> Map<String, Value> {
    let mut fields = fields.clone();
    if let Value::Object(defaults) = defaults {
        for (field, value) in defaults {
            fields.entry(field).or_insert(value);
        }
    }
    fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
    fields
}

/// Attention or MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sublayer {
    Attention,
    Mlp,
}

/// A sub-layer of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    layer: usize,
    sublayer: Sublayer,
}

impl Slot {
    /// The key of a tensor of the adapter there.
    fn key(self, method: &str, tensor: &str) -> String {
        let sublayer = match self.sublayer {
            Sublayer::Attention => "self_attn",
            Sublayer::Mlp => "mlp",
        };
        key(&format!("model.layers.{}.{sublayer}", self.layer), &format!("{method}.{tensor}"))
    }

    fn site(self, part: LayerPart) -> Site {
        Site::Layer { layer: self.layer, part }
    }

    /// What the sub-layer reads.
    fn input(self) -> Site {
        self.site(match self.sublayer {
            Sublayer::Attention => LayerPart::AttnIn,
            Sublayer::Mlp => LayerPart::MlpIn,
        })
    }

    /// Where the adapter's output is added.
    fn output(self, insertion: Insertion) -> Site {
        self.site(match (self.sublayer, insertion) {
            (Sublayer::Attention, Insertion::Residual) => LayerPart::ResidMid,
            (Sublayer::Attention, _) => LayerPart::AttnOut,
            (Sublayer::Mlp, Insertion::Residual) => LayerPart::ResidPost,
            (Sublayer::Mlp, _) => LayerPart::MlpOut,
        })
    }

    /// What a parallel adapter finds its input under.
    fn note(self) -> String {
        self.input().to_string()
    }
}

/// Leaves a sub-layer's input for the parallel adapter at its output.
struct Leave(Slot);

impl Part for Leave {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        at.cx.note(&self.0.note(), h.clone());
        h
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}

/// An adapter's network.
trait Network: Send + Sync {
    /// `Δ(u)`, `[tokens, hidden]` to the same.
    fn apply(&self, at: &At, u: &Var) -> Var;
}

/// A network at its place.
struct AdapterPart<N> {
    network: N,
    scaling: f32,
    dropout: f32,
    /// Where its input was left, of a parallel one.
    parallel: Option<Slot>,
}

impl<N: Network> Part for AdapterPart<N> {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        let tape = &at.cx.tape;
        let noted = self.parallel.map(|slot| at.cx.noted(&slot.note()));
        // `Leave` stands at every parallel adapter's sub-layer and runs before it in the same block.
        let input = noted.map_or_else(|| h.clone(), |input| input.expect("the sub-layer's input was left"));
        let mut change = self.network.apply(at, &input);
        if at.cx.training && self.dropout > 0.0 {
            let key = at.cx.key.named("adapter_dropout").named(at.name);
            change = ops::dropout(tape, &change, Dropout { p: self.dropout, key });
        }
        ops::add_scaled(tape, &h, &change, self.scaling * at.strength)
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}

/// `x Wᵀ + b` with `W` `[out, in]` and `b` `[out]` among a part's values.
fn affine(at: &At, x: &Var, weight: &Var, bias: &Var) -> Var {
    ops::linear(&at.cx.tape, x, &WeightRef::Trained(weight.clone()), Some(bias), &[])
}

/// The parameters of an affine map: weight and bias.
fn affine_params(slot: Slot, method: &str, name: &str, dims: [usize; 2], inits: [Init; 2]) -> [ParamPlan; 2] {
    let [weight, bias] = inits;
    [
        ParamPlan::new(slot.key(method, &format!("{name}.weight")), &dims, weight),
        ParamPlan::new(slot.key(method, &format!("{name}.bias")), &[dims[0]], bias),
    ]
}

/// PyTorch's default for a linear or convolutional map: `U(±1/√fan_in)`.
fn torch_default(fan_in: usize) -> Init {
    Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt() }
}

/// `N(0, std²)` without what lies further out than two standard deviations.
fn truncated_normal(dims: [usize; 2], std: f32) -> Init {
    Init::Drawn(Box::new(move |random: RandomKey| {
        // A draw outside is made again; 32 in a row lie outside once in 10^43.
        let value = |i: u64| (0..32).map(|again| random.index(again).normal(i)).find(|v| v.abs() <= 2.0).unwrap_or(0.0);
        let values: Vec<f32> = (0..(dims[0] * dims[1]) as u64).map(|i| std * value(i)).collect();
        Tensor::from_slice(dims, &values)
    }))
}
