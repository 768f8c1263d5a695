//! What a method is. A method's file implements two traits and adds one line to [`crate::registry`]:
//!
//! - [`Method`]: its configuration (Hugging Face's fields), and [`Method::plan`]: given a model, which parameters it
//!   needs and what it puts where;
//! - [`Part`]: what it does at one place (a linear map, another weight, an activation), forward and merged;
//! - where training needs more than gradients (penalties, masks, schedules): [`crate::training::TrainingRules`].
//!
//! Most parts are of one of the forms of [`crate::forms`] and say only what is their own.
//!
//! Everything else is done once for all methods: initial values, optimiser, files, stacking, scaling, counting.
//!
//! Parameters ([`crate::params`]) live in [`Edit::params`], not in the parts: a part names the ones it reads by index, so several parts may
//! share one (a tied head, VeRA's common matrices).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use hone_engine::ops::LowRank;
use hone_engine::{Tensor, Var, Weight, WeightRef, matmul};
use hone_model::{Context, Linear, Sharing, Site};
use serde_json::{Map, Value};

use crate::base::Base;
pub use crate::edit::Edit;
use crate::error::EditError;
pub use crate::params::{Init, Param, ParamPlan, ParamTraits, Role, Saved, Stored};
use crate::sparse::SparseDelta;
use crate::training::TrainingRules;

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
    /// The formula, in a line: what stands in the table of methods.
    pub formula: &'static str,
    /// Whether it can be folded into the weights.
    pub mergeable: Mergeable,
    /// Whether the base may stay quantised.
    pub quantised_base: QuantisedBase,
    /// Reads the fields of a recipe's `method` or of an `adapter_config.json`. Warnings go to the list.
    pub parse: Parse,
    /// The JSON Schema of its fields.
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

/// Whether an edit can be folded into the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mergeable {
    /// Exactly, up to rounding.
    Yes,
    /// Not, and why.
    No(&'static str),
}

/// What happens to a base that is kept quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantisedBase {
    /// It is used as it is; the method never reads its values.
    Kept,
    /// Each matrix is expanded while the method works on it, one at a time.
    Expanded,
    /// It cannot be, and why.
    No(&'static str),
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

    /// Those of its fields that PEFT has not: they are written to `hone.json` instead of `adapter_config.json`.
    fn own_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// What whoever trains it is told of its plan: settings that this model does not allow as they were given.
    fn remarks(&self, plan: &Plan, base: &Base) -> Vec<String> {
        let _ = (plan, base);
        Vec::new()
    }

    /// The edit as its files hold it, where that is not what is trained (ranks that were cut away).
    fn saved_form(&self, edit: &Edit) -> Option<Edit> {
        let _ = edit;
        None
    }

    /// What it does beside forward and backward while it is trained: nothing, for most.
    fn training(&self, edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        let _ = edit;
        None
    }

    /// The learning rate of a recipe that gives none: what tunes this method well with AdamW.
    fn default_learning_rate(&self) -> f64 {
        2e-4
    }

    /// Virtual tokens it puts before every sequence.
    fn virtual_tokens(&self) -> usize {
        0
    }

    /// Whose virtual tokens are the same.
    fn virtual_token_sharing(&self) -> Sharing {
        Sharing::All
    }

    /// Whether it can be folded into the weights at this setting.
    fn mergeable(&self) -> Mergeable {
        self.info().mergeable
    }

    /// The trained edit as it is written and used from now on: masks rounded, what only training needed left out.
    fn finished(&self, edit: Edit, base: &Base) -> Result<Edit, EditError> {
        let _ = base;
        Ok(edit)
    }

    /// Whether its parts read what the unedited model makes of the batch ([`Context::first_pass`]).
    fn wants_first_pass(&self) -> bool {
        false
    }

    /// How many tasks (groups of a batch's sequences) it tells apart, numbered from 0; `None` where all are alike to it.
    fn groups(&self) -> Option<usize> {
        None
    }
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
    /// The embeddings of the virtual tokens.
    VirtualTokens,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Linear(name) | Place::Weight(name) => f.write_str(name),
            Place::Activation(site) => site.fmt(f),
            Place::VirtualTokens => f.write_str("virtual tokens"),
        }
    }
}

/// What a part is told when the forward pass reaches it.
pub struct At<'a> {
    /// The forward pass.
    pub cx: &'a Context,
    /// Names this place's random numbers.
    pub name: &'a str,
    /// The part's parameters, in the compute type or in `f32` as planned.
    pub values: &'a [Var],
    /// How strongly the edit is applied: 1 in training, what the user says elsewhere.
    pub strength: f32,
    /// Keeps what was made of frozen values; see [`At::once`].
    pub kept: &'a OnceLock<WeightRef>,
    /// The same, group by group; see [`At::once_a_group`].
    pub kept_by_group: &'a Mutex<HashMap<u32, Vec<Var>>>,
    /// This edit's virtual tokens among all that stand before a sequence, and how many those are.
    pub virtual_tokens: (Range<usize>, usize),
    /// The group of batches that do not say any.
    pub group: u32,
}

impl At<'_> {
    /// The rows of this edit's virtual tokens in the batch that passes: one run, or one for each sequence that begins.
    pub fn virtual_rows(&self) -> Vec<Range<usize>> {
        let batch = &self.cx.batch;
        let (own, all) = &self.virtual_tokens;
        let first = batch.len() - batch.virtual_rows;
        let blocks = batch.virtual_rows.checked_div(*all).unwrap_or(0);
        (0..blocks).map(|block| first + block * all + own.start..first + block * all + own.end).collect()
    }

    /// What the sequences behind each of [`At::virtual_rows`] are to answer, where every sequence has virtual tokens of
    /// its own.
    pub fn inputs(&self) -> &[Vec<u32>] {
        &self.cx.batch.inputs
    }

    /// The group (task) of every row of the batch that passes.
    pub fn row_groups(&self) -> Vec<u32> {
        match self.cx.batch.groups.is_empty() {
            true => vec![self.group; self.cx.batch.len()],
            false => self.cx.batch.row_groups(),
        }
    }

    /// Whether gradients reach this part's values in the pass that runs.
    pub fn is_trained(&self) -> bool {
        self.values.iter().any(Var::needs_grad)
    }

    /// What this part's values make for the rows of `group`: made anew while they are trained, once and for all while they
    /// are frozen.
    pub fn once_a_group(&self, group: u32, make: impl FnOnce() -> Vec<Var>) -> Vec<Var> {
        if self.is_trained() && (self.cx.tape.is_recording() || self.cx.training) {
            return make();
        }
        let mut kept = self.kept_by_group.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        kept.entry(group).or_insert_with(|| make().iter().map(Var::detach).collect()).clone()
    }

    /// A weight made of this part's values: made anew while they are trained, once and for all (and packed) while they
    /// are frozen.
    pub fn once(&self, make: impl FnOnce() -> Var) -> WeightRef {
        if self.cx.tape.is_recording() && self.is_trained() {
            return WeightRef::Trained(make());
        }
        self.kept.get_or_init(|| WeightRef::Frozen(Arc::new(Weight::dense(make().value)))).clone()
    }
}

/// What a part does to a linear map.
pub enum LinearEffect {
    /// Multiplies by another matrix (or not) and adds low-rank terms: handed to the engine as one operation with the map.
    Fused {
        /// What stands in for the weight. Only parts that say [`Part::replaces`] may.
        weight: Option<WeightRef>,
        /// What is added.
        terms: Vec<LowRank>,
    },
    /// Anything else: [`Part::around_linear`] is called.
    Around,
}

impl LinearEffect {
    /// Adds a low-rank term.
    pub fn term(term: LowRank) -> LinearEffect {
        LinearEffect::Fused { weight: None, terms: vec![term] }
    }

    /// Multiplies by another matrix.
    pub fn weight(weight: WeightRef) -> LinearEffect {
        LinearEffect::Fused { weight: Some(weight), terms: Vec::new() }
    }
}

/// What a method does at one place.
pub trait Part: Send + Sync {
    /// At a linear map whose weight is `weight` (earlier edits included).
    fn on_linear(&self, at: &At, linear: &Linear, weight: &WeightRef) -> LinearEffect {
        let _ = (at, linear, weight);
        LinearEffect::Around
    }

    /// A linear map whose [`Part::on_linear`] said [`LinearEffect::Around`]: `next` is the map with its bias and the edits
    /// below.
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

    /// At an activation. Rows of virtual tokens come last (`at.cx.batch.virtual_rows`).
    fn on_activation(&self, at: &At, h: Var) -> Var {
        let _ = at;
        h
    }

    /// The embeddings of the method's virtual tokens, of a part at [`Place::VirtualTokens`]: `[virtual_tokens, hidden]` for
    /// all sequences, or so many rows for each of [`At::virtual_rows`].
    fn virtual_embeddings(&self, at: &At) -> Option<Var> {
        let _ = at;
        None
    }

    /// Whether the part replaces what stands at its place (two such parts cannot share one).
    fn replaces(&self) -> bool {
        false
    }

    /// The rows of its matrix that the part replaces, where it is some of them (two parts cannot replace the same row of one).
    fn replaced_rows(&self) -> &[u32] {
        &[]
    }

    /// What the part adds to its linear map's weight when nothing is trained, if that is a low-rank product of its parameters
    /// `values` (`f32`) and nothing else: for the rows of `group`, or, where none is given, for all rows alike. What
    /// [`crate::algebra`] works on, and how a mixture of adapters becomes one plain LoRA adapter.
    fn low_rank(&self, values: &[Tensor], group: Option<u32>) -> Option<LowRankPair> {
        let _ = (values, group);
        None
    }

    /// The weight (`f32`) with the part's effect added, or taken away again. `Err` says why it cannot be.
    fn merge(&self, merge: &Merge) -> Result<Tensor, String>;
}

/// `ΔW = scale · b a`.
#[derive(Clone, Debug)]
pub struct LowRankPair {
    /// `[rank, in]`, `f32`.
    pub a: Tensor,
    /// `[out, rank]`, `f32`.
    pub b: Tensor,
    /// Factor of the product.
    pub scale: f32,
}

/// What a part is told when it is merged.
pub struct Merge<'a> {
    /// The weight as it is, `f32`.
    pub weight: &'a Tensor,
    /// The weight as the base model has it, `f32`, where that is known: see [`Merge::base`].
    pub own: Option<&'a Tensor>,
    /// The part's parameters, `f32`.
    pub values: &'a [Tensor],
    /// How strongly the edit is applied.
    pub strength: f32,
    /// Into the weight, or out of it.
    pub direction: Direction,
}

impl Merge<'_> {
    /// The weight as the base model has it, `f32`. `Err` where an edit is taken out of a merged model whose base nobody named.
    pub fn base(&self) -> Result<&Tensor, String> {
        self.own.ok_or_else(|| NEEDS_BASE.to_string())
    }

    /// The part's parameters as values of a pass.
    pub fn constants(&self) -> Vec<Var> {
        self.values.iter().cloned().map(Var::constant).collect()
    }

    /// The weight with `scale · b a` added, or taken away again.
    pub fn with_product(&self, scale: f32, b: &Tensor, a: &Tensor) -> Tensor {
        let mut weight = self.weight.clone();
        matmul::matmul_nn_add(&mut weight, self.direction.sign() * self.strength * scale, b, a);
        weight
    }

    /// The weight with a sparse change added, or taken away again.
    pub fn with_sparse(&self, delta: &SparseDelta) -> Tensor {
        let mut weight = self.weight.clone();
        delta.add_to(&mut weight, self.direction.sign() * self.strength);
        weight
    }
}

/// Why a part that is made of the base's weight cannot be taken out without it; [`EditError::UnknownBase`] says it aloud.
pub(crate) const NEEDS_BASE: &str = "it is made of the weight as it was before";

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
