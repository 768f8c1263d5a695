//! The routing by task that Polytropon and multi-head routing share: of `S` skills in `H` blocks of features, task `t` uses
//! `w_t[h, s] = σ(z_t[h, s]) / (Σ_s σ(z_t[h, s]) + 1e-12)` (Ponti et al. 2022, arXiv 2202.13914; Caccia et al. 2023, arXiv
//! 2211.03831).
//!
//! While the logits `z` `[T, H S]` are trained, `σ(z)` is a relaxed Bernoulli of temperature 1, `σ(z + ln u − ln(1 − u))` with
//! `u ~ U(0, 1)`, drawn for each task, map and micro-batch (PEFT: for each example). Start: `z ~ U(±1e-3)`, nearly `1/S`.
//!
//! What is trained is one of three: everything; the routing alone (MHR-z: `H S` numbers a map and task); the skills alone,
//! under the constant routing `1/S` of logits 0 (MHR-µ). It knows nothing of what a skill is.

use std::path::PathBuf;

use hone_engine::ops::{self, Pointwise};
use hone_engine::{DType, Tape, Tensor, Var};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::{Base, BaseWeight};
use crate::error::EditError;
use crate::files::read_edit;
use crate::method::{At, Edit, Init, ParamPlan, Place, Plan};
use crate::planning::{check_rank, wrong};

const EPSILON: f32 = 1e-12;
/// Half the width of the logits' first values.
const LOGITS: f32 = 1e-3;

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finetune {
    /// Skills and routing.
    #[default]
    All,
    /// The routing (MHR-z).
    Z,
    /// The skills, the routing being `1/S` everywhere (MHR-µ).
    Mu,
}

/// The fields of a routing by task. A method's configuration holds them with `#[serde(flatten)]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RoutingFields {
    /// Tasks; in training the sources of the mix.
    pub n_tasks: usize,
    /// Skills.
    pub n_skills: usize,
    /// Blocks of features with a routing of their own; a divisor of every width that is split.
    pub n_splits: usize,
    /// What is trained. PEFT trains `all`.
    pub finetune: Finetune,
    /// Directory of a trained adapter of this method whose skills are the first ones, under a fresh routing: adaptation to a
    /// new task.
    #[schemars(extend("format" = "path"))]
    pub init_from: Option<PathBuf>,
    /// Factor on the learning rate of the routing (the papers': 100).
    pub routing_learning_rate_factor: f64,
}

impl Default for RoutingFields {
    fn default() -> Self {
        RoutingFields {
            n_tasks: 1,
            n_skills: 4,
            n_splits: 1,
            finetune: Finetune::All,
            init_from: None,
            routing_learning_rate_factor: 100.0,
        }
    }
}

impl RoutingFields {
    /// Refuses counts of 0 and a factor that is none.
    pub fn check(&self, method: &'static str) -> Result<(), EditError> {
        check_rank(method, "n_tasks", self.n_tasks)?;
        check_rank(method, "n_skills", self.n_skills)?;
        check_rank(method, "n_splits", self.n_splits)?;
        let factor = self.routing_learning_rate_factor;
        match factor > 0.0 && factor.is_finite() {
            true => Ok(()),
            false => Err(wrong(method, "routing_learning_rate_factor", factor.to_string(), "a positive number")),
        }
    }

    /// Refuses blocks that do not come out even in one of `widths` of `weight`.
    pub fn check_split(&self, method: &'static str, weight: &BaseWeight, widths: &[usize]) -> Result<(), EditError> {
        match widths.iter().all(|width| width.is_multiple_of(self.n_splits)) {
            true => Ok(()),
            false => {
                let expected = format!("a divisor of {widths:?}, the widths of `{}`", weight.module());
                Err(wrong(method, "n_splits", self.n_splits.to_string(), expected))
            }
        }
    }

    /// The router and its logits `[T, H S]` under `key`.
    pub fn router(&self, key: String) -> (Router, ParamPlan) {
        let init = match self.finetune {
            Finetune::Mu => Init::Zeros,
            _ => Init::Uniform { bound: LOGITS },
        };
        let logits = ParamPlan::new(key, &[self.n_tasks, self.n_splits * self.n_skills], init)
            .full_precision()
            .without_decay()
            .learning_rate_factor(self.routing_learning_rate_factor);
        let logits = if self.finetune == Finetune::Mu { logits.fixed() } else { logits };
        (Router { skills: self.n_skills, splits: self.n_splits }, logits)
    }

    /// A parameter of the skills, as [`Finetune`] and `source` (what [`RoutingFields::source`] read) have it.
    pub fn skill(
        &self,
        method: &'static str,
        source: Option<&Edit>,
        mut param: ParamPlan,
    ) -> Result<ParamPlan, EditError> {
        if let Some(source) = source {
            let found = source.params.iter().find(|p| p.key == param.key && p.value.dims() == param.shape);
            let Some(found) = found else {
                let expected = format!("an adapter with `{}` of shape {:?}", param.key, param.shape);
                return Err(wrong(method, "init_from", format!("{:?}, which has none", self.init_from), expected));
            };
            let value = found.value.clone();
            param.init = Init::Computed(Box::new(move |_| value.clone()));
        }
        Ok(if self.finetune == Finetune::Z { param.fixed() } else { param })
    }

    /// The adapter of `init_from`, which must be one of `method`.
    pub fn source(&self, method: &'static str, base: &Base) -> Result<Option<Edit>, EditError> {
        let Some(dir) = &self.init_from else { return Ok(None) };
        let edit = read_edit(dir, base)?;
        match edit.method.info().name {
            found if found == method => Ok(Some(edit)),
            found => {
                let found = format!("{}, an adapter of `{found}`", dir.display());
                Err(wrong(method, "init_from", found, format!("an adapter of `{method}`")))
            }
        }
    }
}

/// Takes out of an adapter's configuration what is a recipe's only, and what is as PEFT has it.
pub fn as_peft_writes(plan: &mut Plan) {
    plan.config.remove("init_from");
    let default = RoutingFields::default();
    let default = crate::config::to_map(&default);
    for field in ["finetune", "routing_learning_rate_factor"] {
        if plan.config.get(field) == default.get(field) {
            plan.config.remove(field);
        }
    }
    // PEFT knows no choice of layers here: the maps are named one by one.
    let layers = plan.config.remove("layers_to_transform");
    plan.config.remove("layers_pattern");
    if layers.is_some_and(|layers| !layers.is_null()) {
        let modules = plan.placed.iter().filter_map(|placed| match &placed.place {
            Place::Linear(module) => Some(Value::from(module.clone())),
            _ => None,
        });
        plan.config.insert("target_modules".into(), modules.collect());
    }
}

/// Mixes `S` skills in `H` blocks.
pub struct Router {
    /// `S`.
    pub skills: usize,
    /// `H`.
    pub splits: usize,
}

impl Router {
    /// `w` `[H, S]` of `task`, of the logits `[T, H S]`.
    ///
    /// Panics on a task beyond `T`, which whoever chooses tasks refuses ([`crate::stack::check_group`]).
    pub fn weights(&self, at: &At, logits: &Var, task: u32) -> Var {
        let noise = (at.cx.training && logits.needs_grad()).then(|| {
            let key = at.cx.key.named("routing").named(at.name).index(u64::from(task));
            let logistic = |i: u64| {
                let u = key.uniform(i).clamp(1e-6, 1.0 - 1e-6);
                u.ln() - (1.0 - u).ln()
            };
            let draws: Vec<f32> = (0..(self.splits * self.skills) as u64).map(logistic).collect();
            Tensor::from_slice([self.splits, self.skills], &draws)
        });
        self.normalised(&at.cx.tape, logits, task, noise)
    }

    /// The same without a forward pass and its noise.
    pub fn settled(&self, logits: &Tensor, task: u32) -> Var {
        self.normalised(&Tape::off(), &Var::constant(logits.clone()), task, None)
    }

    fn normalised(&self, tape: &Tape, logits: &Var, task: u32, noise: Option<Tensor>) -> Var {
        let task = task as usize;
        let row = ops::reshape(tape, &ops::rows(tape, logits, task..task + 1), &[self.splits, self.skills]);
        let row = match noise {
            Some(noise) => ops::add(tape, &row, &Var::constant(noise)),
            None => row,
        };
        let open = ops::pointwise(tape, &row, Pointwise::Sigmoid);
        let epsilon = Var::constant(Tensor::full([self.splits], DType::F32, EPSILON));
        let sums = ops::add(tape, &ops::row_sums(tape, &open), &epsilon);
        ops::scale_rows(tape, &open, &ops::pointwise(tape, &sums, Pointwise::Reciprocal))
    }

    /// `skills` `[H, S, …]` mixed by `w` `[H, S]`, block by block: `[H, …]`, the last axes as one.
    pub fn mixed(&self, tape: &Tape, w: &Var, skills: &Var) -> Var {
        let (splits, count) = (self.splits, self.skills);
        let repeated = ops::concat_columns(tape, &vec![w.clone(); splits]);
        let own = |at: usize| f32::from(at / (splits * count) == at % (splits * count) / count);
        let mask: Vec<f32> = (0..splits * splits * count).map(own).collect();
        let mask = Var::constant(Tensor::from_slice([splits, splits * count], &mask));
        let by_block = ops::convert(tape, &ops::multiply(tape, &repeated, &mask), skills.value.dtype());
        let rows = splits * count;
        ops::product(tape, &by_block, &ops::reshape(tape, skills, &[rows, skills.value.elements() / rows]))
    }
}
