//! Polytropon and multi-head adapter routing: `S` low-rank skills that all tasks share, mixed for task `t` in the space of their
//! parameters. Poly: Ponti et al. 2022 (arXiv 2202.13914); MHR: Caccia et al. 2023 (arXiv 2211.03831).
//!
//! `y = x Wᵀ + (x A_t) B_t / r`, `A_t` `[i, r]` and `B_t` `[r, o]` of `H` blocks each, stacked along the features:
//! `A_t[h] = Σ_s w_t[h, s] A[h, s]`, `B_t[h] = Σ_s w_t[h, s] B[h, s]`, `w_t[h, ·] = σ(z_t[h, ·]) / (Σ_s σ(z_t[h, s]) + 1e-12)`.
//! Averaging `A` and `B` apart (not their products) is meant: what two skills have in common is part of the method.
//! `H = 1` is Poly, `H > 1` MHR.
//!
//! While training `σ(z)` is a relaxed Bernoulli of temperature 1, `σ(z + ln u − ln(1 − u))`, drawn for each task, map and
//! micro-batch (PEFT: for each example). What is trained: everything; `finetune: z` (MHR-z: the routing alone);
//! `finetune: mu` (MHR-µ: the skills under the constant routing `1/S`).
//!
//! Start: `A ~ U(±1/√(i/H))`, `B = 0`, `z ~ U(±1e-3)`, so the model is unchanged. Parameters of a map: `S r (i + o) + T H S`.
//! Fields and keys are PEFT's (`PolyConfig`). The task of a row is the source of the mix it came from; outside training it is
//! the stack's group. It knows nothing of how tasks are named.

use std::sync::Arc;

use hone_engine::ops::{self, LowRank, Pointwise};
use hone_engine::{Tape, Tensor, Var, WeightRef};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{
    At, Init, LinearEffect, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase,
};
use crate::planning::{TargetFields, check_rank, key, wrong};

const NAME: &str = "poly";
const EPSILON: f32 = 1e-12;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "POLY",
    family: "routed",
    summary: "low-rank skills that tasks share, mixed by a routing of each task (Poly; MHR with `n_splits` above 1)",
    paper: "arXiv 2202.13914, 2211.03831",
    formula: "W + B_t A_t / r, A_t = Σ_s w_ts A_s, B_t = Σ_s w_ts B_s",
    mergeable: Mergeable::No("each task has its own mixture; fold one task's with `hone merge --how collapse`"),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<PolyConfig>(),
};

/// Hugging Face's `PolyConfig`, the honoured fields, and what of it is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PolyConfig {
    /// Rank of a skill.
    pub r: usize,
    /// `poly`: the only router there is.
    pub poly_type: String,
    /// Tasks; in training the sources of the mix.
    pub n_tasks: usize,
    /// Skills.
    pub n_skills: usize,
    /// Blocks of features with a routing of their own; a divisor of both widths of every map.
    pub n_splits: usize,
    /// Start at the identity; `false` starts `B` like `A`, for tests.
    pub init_weights: bool,
    /// What is trained. A recipe's field; PEFT trains `all`.
    pub finetune: Finetune,
    /// Factor on the learning rate of the routing (the papers': 100).
    pub routing_learning_rate_factor: f64,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

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

impl Default for PolyConfig {
    fn default() -> Self {
        PolyConfig {
            r: 8,
            poly_type: "poly".into(),
            n_tasks: 1,
            n_skills: 4,
            n_splits: 1,
            init_weights: true,
            finetune: Finetune::All,
            routing_learning_rate_factor: 100.0,
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        TargetFields::recommend(&mut fields);
    }
    let poly: PolyConfig = config::read(NAME, &fields, INERT, origin, warnings)?;
    poly.check()?;
    Ok(Arc::new(poly))
}

impl PolyConfig {
    fn check(&self) -> Result<(), EditError> {
        check_rank(NAME, "r", self.r)?;
        check_rank(NAME, "n_tasks", self.n_tasks)?;
        check_rank(NAME, "n_skills", self.n_skills)?;
        check_rank(NAME, "n_splits", self.n_splits)?;
        if self.poly_type != "poly" {
            return Err(wrong(NAME, "poly_type", format!("`{}`", self.poly_type), "`poly`"));
        }
        if !(self.routing_learning_rate_factor > 0.0 && self.routing_learning_rate_factor.is_finite()) {
            let found = self.routing_learning_rate_factor.to_string();
            return Err(wrong(NAME, "routing_learning_rate_factor", found, "a positive number"));
        }
        self.targets.check(NAME)
    }

    fn on_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (out, inputs, splits) = (weight.shape[0], weight.shape[1], self.n_splits);
        if !inputs.is_multiple_of(splits) || !out.is_multiple_of(splits) {
            let expected = format!("a divisor of both widths of `{}`, [{out}, {inputs}]", weight.module());
            return Err(wrong(NAME, "n_splits", splits.to_string(), expected));
        }
        let (a, b) = (inputs / splits, out / splits);
        let uniform = |fan_in: usize| Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt() };
        let named = |tensor: &str| key(weight.module(), tensor);
        let first_b = if self.init_weights { Init::Zeros } else { uniform(self.r) };
        let mut params = vec![
            ParamPlan::new(named("poly_lora_A"), &[splits, self.n_skills, a, self.r], uniform(a)),
            ParamPlan::new(named("poly_lora_B"), &[splits, self.n_skills, self.r, b], first_b),
            ParamPlan::new(
                named("poly_router.module_logits"),
                &[self.n_tasks, splits * self.n_skills],
                Init::Uniform { bound: 1e-3 },
            )
            .full_precision()
            .without_decay()
            .learning_rate_factor(self.routing_learning_rate_factor),
        ];
        let fixed: &[usize] = match self.finetune {
            Finetune::All => &[],
            Finetune::Z => &[0, 1],
            Finetune::Mu => &[2],
        };
        for &at in fixed {
            params[at].traits.role = crate::method::Role::Fixed;
        }
        let skills = Skills {
            rank: self.r,
            skills: self.n_skills,
            splits,
            tasks: self.n_tasks,
            constant: self.finetune == Finetune::Mu,
            inputs,
            out,
        };
        plan.on_linear(weight, skills, params);
        Ok(())
    }
}

impl Method for PolyConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let config = (config::to_map(self), INERT);
        self.targets.plan(NAME, base, &["q_proj", "v_proj"], config, |plan, weight| self.on_map(plan, weight))
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// The skills and the router of one map. Parameters: `A` `[H, S, i/H, r]`, `B` `[H, S, r, o/H]`, logits `[T, H S]`.
struct Skills {
    rank: usize,
    skills: usize,
    splits: usize,
    tasks: usize,
    /// Whether the routing is `1/S` whatever the logits.
    constant: bool,
    inputs: usize,
    out: usize,
}

impl Skills {
    /// `w` `[H, S]` of `task`; `noise` are logistic draws, one a logit.
    fn routing(&self, tape: &Tape, logits: &Var, task: usize, noise: Option<Tensor>) -> Var {
        let (splits, skills) = (self.splits, self.skills);
        if self.constant {
            return Var::constant(Tensor::full([splits, skills], logits.value.dtype(), 1.0 / skills as f32));
        }
        let row = ops::reshape(tape, &ops::rows(tape, logits, task..task + 1), &[splits, skills]);
        let row = match noise {
            Some(noise) => ops::add(tape, &row, &Var::constant(noise)),
            None => row,
        };
        let open = ops::pointwise(tape, &row, Pointwise::Sigmoid);
        let epsilon = Var::constant(Tensor::full([splits], open.value.dtype(), EPSILON));
        let sums = ops::add(tape, &ops::convert(tape, &ops::row_sums(tape, &open), open.value.dtype()), &epsilon);
        ops::scale_rows(tape, &open, &ops::pointwise(tape, &sums, Pointwise::Reciprocal))
    }

    /// `w` as the matrix `[H, H S]` that mixes the skills of each block with its own row.
    fn by_block(&self, tape: &Tape, w: &Var) -> Var {
        let (splits, skills) = (self.splits, self.skills);
        let repeated = ops::concat_columns(tape, &vec![w.clone(); splits]);
        let own = |at: usize| f32::from(at / (splits * skills) == at % (splits * skills) / skills);
        let mask: Vec<f32> = (0..splits * splits * skills).map(own).collect();
        let mask = Tensor::from_slice([splits, splits * skills], &mask).to_dtype(w.value.dtype());
        ops::multiply(tape, &repeated, &Var::constant(mask))
    }

    /// The task's pair as a low-rank term: `A_tᵀ` `[r, i]`, `B_tᵀ` `[o, r]`.
    fn pair(&self, tape: &Tape, values: &[Var], w: &Var) -> (Var, Var) {
        let dtype = values[0].value.dtype();
        let mix = ops::convert(tape, &self.by_block(tape, w), dtype);
        let (count, rank) = (self.splits * self.skills, self.rank);
        let mixed = |skills: &Var, width: usize| {
            ops::product(tape, &mix, &ops::reshape(tape, skills, &[count, width * rank / self.splits]))
        };
        let a = ops::reshape(tape, &mixed(&values[0], self.inputs), &[self.inputs, rank]);
        // Blocks [H, r, o/H] become rows [o, r].
        let block = self.out / self.splits;
        let place = |at: usize| {
            let (row, rank_at) = (at / rank, at % rank);
            ((row / block) * rank * block + rank_at * block + row % block) as u32
        };
        let places: Vec<u32> = (0..self.out * rank).map(place).collect();
        let flat = ops::reshape(tape, &mixed(&values[1], self.out), &[self.out * rank, 1]);
        let b = ops::reshape(tape, &ops::gather_rows(tape, &flat, &places), &[self.out, rank]);
        (ops::transpose(tape, &a), b)
    }

    fn term(&self, at: &At, task: u32) -> LowRank {
        let task = (task as usize).min(self.tasks - 1);
        let noise = (at.cx.training && !self.constant).then(|| {
            let key = at.cx.key.named("routing").named(at.name).index(task as u64);
            let logistic = |i: u64| {
                let u = key.uniform(i).clamp(1e-6, 1.0 - 1e-6);
                u.ln() - (1.0 - u).ln()
            };
            let draws: Vec<f32> = (0..(self.splits * self.skills) as u64).map(logistic).collect();
            Tensor::from_slice([self.splits, self.skills], &draws)
        });
        let tape = &at.cx.tape;
        let w = self.routing(tape, &at.values[2], task, noise);
        let (a, b) = self.pair(tape, at.values, &w);
        LowRank { a, b, scale: at.strength / self.rank as f32, dropout: None }
    }
}

impl Part for Skills {
    fn on_linear(&self, at: &At, _linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let groups = at.row_groups();
        match groups.first() {
            Some(&first) if groups.iter().all(|group| *group == first) => LinearEffect::term(self.term(at, first)),
            _ => LinearEffect::Around,
        }
    }

    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let groups = at.row_groups();
        let mut tasks = groups.clone();
        tasks.sort_unstable();
        tasks.dedup();
        tasks.into_iter().fold(next(x), |y, task| {
            let term = self.term(at, task);
            let mask: Vec<f32> = groups.iter().map(|group| f32::from(*group == task)).collect();
            let mask = Var::constant(Tensor::from_slice([mask.len()], &mask));
            let inner = ops::linear(tape, x, &WeightRef::Trained(term.a), None, &[]);
            let inner = ops::scale_rows(tape, &inner, &mask);
            let outer = ops::linear(tape, &inner, &WeightRef::Trained(term.b), None, &[]);
            ops::add_scaled(tape, &y, &outer, term.scale)
        })
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        match METHOD.mergeable {
            Mergeable::No(reason) => Err(reason.into()),
            Mergeable::Yes => Err("tasks differ".into()),
        }
    }
}
