//! What a method is. A method's file implements two traits and adds one line to [`crate::registry`]:
//!
//! - [`Method`]: its configuration (Hugging Face's fields), and [`Method::plan`]: given a model, which parameters it
//!   needs and what it puts where;
//! - [`Part`]: what it does at one place (a linear map, another weight, an activation), forward and merged.
//!
//! Everything else is done once for all methods: initial values, optimiser, files, stacking, scaling, counting.
//!
//! Parameters live in [`Edit::params`], not in the parts: a part names the ones it reads by index, so several parts may
//! share one (a tied head, VeRA's common matrices).

use std::sync::{Arc, OnceLock};

use hone_engine::ops::LowRank;
use hone_engine::{RandomKey, Tensor, Var, Weight, WeightRef};
use hone_model::{Context, Linear, Site};
use serde_json::{Map, Value};

use crate::base::Base;
use crate::error::EditError;

/// A method as the registry lists it.
pub struct MethodInfo {
    /// The word in a recipe.
    pub name: &'static str,
    /// Hugging Face's `peft_type`, or `HONE_…` for methods PEFT lacks.
    pub peft_type: &'static str,
    /// Low rank, selective, prompt …
    pub family: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// Reads the fields of a recipe's `method` or of an `adapter_config.json`. Warnings go to the list.
    pub parse: Parse,
    /// The JSON Schema of its fields.
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

/// Reads a method's fields.
pub type Parse = fn(&Map<String, Value>, Origin, &mut Vec<String>) -> Result<Arc<dyn Method>, EditError>;

/// Where a configuration came from: a recipe gets Hone's recommended defaults and no unknown field; a file gets
/// Hugging Face's defaults, and unknown fields that are switched off are passed over with a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A recipe's `method`.
    Recipe,
    /// An `adapter_config.json`.
    File,
}

/// A configured method.
pub trait Method: Send + Sync {
    /// Its entry in the registry.
    fn info(&self) -> &'static MethodInfo;

    /// What it puts where in `base`. Every target must be found.
    fn plan(&self, base: &Base) -> Result<Plan, EditError>;

    /// Its fields as a recipe writes them.
    fn fields(&self) -> Map<String, Value>;
}

/// What a method needs of a model and puts into it.
pub struct Plan {
    /// The fields of `adapter_config.json`, targets resolved (`all-linear` spelled out).
    pub config: Map<String, Value>,
    /// The parameters, in the order they are numbered.
    pub params: Vec<ParamPlan>,
    /// The parts, in order of the forward pass.
    pub placed: Vec<Placed>,
}

/// A parameter to be made.
pub struct ParamPlan {
    /// Its key in `adapter_model.safetensors`.
    pub key: String,
    /// Other keys it is found under in files of other versions.
    pub aliases: Vec<String>,
    /// Its axes.
    pub shape: Vec<usize>,
    /// Its first value.
    pub init: Init,
    /// Whether weight decay applies (matrices, not norms and biases).
    pub decay: bool,
}

/// First values.
pub enum Init {
    /// All zero.
    Zeros,
    /// `U(-bound, bound)`.
    Uniform {
        /// Half the width.
        bound: f32,
    },
    /// `N(0, std²)`.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// The base weight of this tensor name.
    Base(String),
}

impl Init {
    /// The value, `f32`. Random numbers depend on `key` and position only.
    pub fn value(&self, shape: &[usize], key: RandomKey, base: &Base) -> Option<Tensor> {
        let draw = |f: &dyn Fn(u64) -> f32| {
            let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(f).collect();
            Tensor::from_slice(shape, &values)
        };
        match self {
            Init::Zeros => Some(Tensor::zeros(shape, hone_engine::DType::F32)),
            Init::Uniform { bound } => Some(draw(&|i| (2.0 * key.uniform(i) - 1.0) * bound)),
            Init::Normal { std } => Some(draw(&|i| key.normal(i) * std)),
            Init::Base(name) => base.weight(name).map(|w| w.to_f32()),
        }
    }
}

/// A part, where it sits and what it reads.
#[derive(Clone)]
pub struct Placed {
    /// Where.
    pub place: Place,
    /// What is done there.
    pub part: Arc<dyn Part>,
    /// Indices into the edit's parameters.
    pub params: Vec<usize>,
}

/// Where a part sits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A linear map, by module path: `model.layers.0.self_attn.q_proj`.
    Linear(String),
    /// An embedding table, LM head, norm or bias, by tensor name: `model.norm.weight`.
    Weight(String),
    /// An activation.
    Activation(Site),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Linear(name) | Place::Weight(name) => f.write_str(name),
            Place::Activation(site) => site.fmt(f),
        }
    }
}

/// What a part is told when the forward pass reaches it.
pub struct At<'a> {
    /// The forward pass.
    pub cx: &'a Context,
    /// Names this place's random numbers.
    pub name: &'a str,
    /// The part's parameters, in the compute type.
    pub values: &'a [Var],
    /// How strongly the edit is applied: 1 in training, what the user says elsewhere.
    pub strength: f32,
    /// Keeps what was made of frozen values; see [`At::once`].
    pub kept: &'a OnceLock<WeightRef>,
}

impl At<'_> {
    /// A weight made of this part's values: made anew while they are trained, once and for all (and packed) while they
    /// are frozen.
    pub fn once(&self, make: impl FnOnce() -> Var) -> WeightRef {
        if self.cx.tape.is_recording() && self.values.iter().any(Var::needs_grad) {
            return WeightRef::Trained(make());
        }
        self.kept.get_or_init(|| WeightRef::Frozen(Arc::new(Weight::dense(make().value)))).clone()
    }
}

/// What a part does to a linear map. The first two are handed to the engine as one operation with the map itself.
pub enum LinearEffect {
    /// Adds a low-rank term.
    LowRank(LowRank),
    /// Multiplies by another matrix instead.
    Weight(WeightRef),
    /// Anything else: [`Part::around_linear`] is called.
    Around,
}

/// What a method does at one place.
pub trait Part: Send + Sync {
    /// At a linear map whose weight is `weight` (earlier edits included).
    fn on_linear(&self, at: &At, linear: &Linear, weight: &WeightRef) -> LinearEffect {
        let _ = (at, linear, weight);
        LinearEffect::Around
    }

    /// A linear map whose [`Part::on_linear`] said [`LinearEffect::Around`]: `next` is the map with the edits below.
    fn around_linear(&self, at: &At, linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let _ = (at, linear);
        next(x)
    }

    /// At an embedding table or LM head.
    fn on_matrix(&self, at: &At, weight: WeightRef) -> WeightRef {
        let _ = at;
        weight
    }

    /// At a norm or bias.
    fn on_vector(&self, at: &At, value: Var) -> Var {
        let _ = at;
        value
    }

    /// At an activation.
    fn on_activation(&self, at: &At, h: Var) -> Var {
        let _ = at;
        h
    }

    /// Whether the part replaces what stands at its place (two such parts cannot share one).
    fn replaces(&self) -> bool {
        false
    }

    /// The weight (`f32`) with the part's effect added, or taken away again. `Err` says why it cannot be.
    fn merge(&self, merge: &Merge) -> Result<Tensor, String>;
}

/// What a part is told when it is merged.
pub struct Merge<'a> {
    /// The weight as it is, `f32`.
    pub weight: &'a Tensor,
    /// The weight as the base model has it, `f32`.
    pub base: &'a Tensor,
    /// The part's parameters, `f32`.
    pub values: &'a [Tensor],
    /// How strongly the edit is applied.
    pub strength: f32,
    /// Into the weight, or out of it.
    pub direction: Direction,
}

/// Into the weights, or out of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Add the edit.
    Merge,
    /// Take it away.
    Unmerge,
}

impl Direction {
    /// 1 or -1.
    pub fn sign(self) -> f32 {
        match self {
            Direction::Merge => 1.0,
            Direction::Unmerge => -1.0,
        }
    }
}

/// A trained value.
#[derive(Clone)]
pub struct Param {
    /// Its key in `adapter_model.safetensors`.
    pub key: String,
    /// The master, `f32`.
    pub value: Tensor,
    /// Whether weight decay applies.
    pub decay: bool,
}

/// A method on a model: parameters and parts.
#[derive(Clone)]
pub struct Edit {
    /// The configured method.
    pub method: Arc<dyn Method>,
    /// What `adapter_config.json` says of the method.
    pub config: Map<String, Value>,
    /// Every parameter.
    pub params: Vec<Param>,
    /// Every part, in order of the forward pass.
    pub placed: Vec<Placed>,
    /// The model it is for, as the user named it.
    pub base_reference: String,
    /// SHA-256 of that model's weights.
    pub base_sha256: String,
    /// What was noticed while it was made or read.
    pub warnings: Vec<String>,
}

impl Edit {
    /// A fresh edit of `base`; its random numbers depend on `seed` and the parameters' names only.
    pub fn new(method: Arc<dyn Method>, base: &Base, seed: u64) -> Result<Edit, EditError> {
        let key = RandomKey::new(seed).named("init");
        Edit::with_values(method, base, |plan| {
            let value = plan.init.value(&plan.shape, key.named(&plan.key), base);
            value.ok_or_else(|| EditError::NoTarget {
                field: "init",
                target: plan.key.clone(),
                what: "weight",
                near: "the method planned for a weight the model lacks".into(),
            })
        })
    }

    /// An edit of `base` whose parameters `value_of` supplies.
    pub fn with_values(
        method: Arc<dyn Method>,
        base: &Base,
        mut value_of: impl FnMut(&ParamPlan) -> Result<Tensor, EditError>,
    ) -> Result<Edit, EditError> {
        let plan = method.plan(base)?;
        let make = |p: &ParamPlan| Ok(Param { key: p.key.clone(), value: value_of(p)?, decay: p.decay });
        let params = plan.params.iter().map(make).collect::<Result<_, EditError>>()?;
        Ok(Edit {
            method,
            config: plan.config,
            params,
            placed: plan.placed,
            base_reference: base.reference.clone(),
            base_sha256: base.sha256.clone(),
            warnings: Vec::new(),
        })
    }

    /// Trained numbers.
    pub fn parameter_count(&self) -> usize {
        self.params.iter().map(|p| p.value.elements()).sum()
    }
}
