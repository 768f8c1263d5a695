//! Polytropon and multi-head adapter routing: `S` low-rank skills that all tasks share, mixed for task `t` in the space of their
//! parameters. Poly: Ponti et al. 2022 (arXiv 2202.13914); MHR: Caccia et al. 2023 (arXiv 2211.03831).
//!
//! `y = x Wᵀ + (x A_t) B_t / r`, `A_t` `[i, r]` and `B_t` `[r, o]` of `H` blocks each, stacked along the features:
//! `A_t[h] = Σ_s w_t[h, s] A[h, s]`, `B_t[h] = Σ_s w_t[h, s] B[h, s]`, with the weights `w_t` of the [`super::router`].
//! Averaging `A` and `B` apart (not their products) is meant: what two skills have in common is part of the method.
//! `H = 1` is Poly, `H > 1` MHR. For one task it is a LoRA adapter of rank `r` and alpha 1 ([`crate::collapse`]).
//!
//! Start: `A ~ U(±1/√(i/H))`, `B = 0`, so the model is unchanged. Parameters of a map: `S r (i + o) + T H S`, of which
//! `finetune: z` trains the last term and `finetune: mu` the first. Fields and keys are PEFT's (`PolyConfig`), without what a
//! recipe says of training.
//!
//! The task of a row is the source of the mix it came from; outside training it is the stack's group. It knows nothing of how
//! tasks are named.

use std::sync::Arc;

use hone_engine::ops::{self, LowRank};
use hone_engine::{Tape, Tensor, Var, WeightRef};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::router::{Router, RoutingFields, as_peft_writes};
use crate::base::{Base, BaseWeight};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{
    At, Edit, Init, LinearEffect, LowRankPair, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan,
    QuantisedBase,
};
use crate::planning::{Q_AND_V, TargetFields, check_rank, key, wrong};

const NAME: &str = "poly";

/// Why it cannot be merged.
const BY_TASK: &str =
    "each task has its own mixture; make one task's a LoRA adapter (`hone edit collapse DIR --task N`) and merge that";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "POLY",
    family: "routed",
    summary: "low-rank skills that tasks share, mixed by a routing of each task (Poly; MHR with `n_splits` above 1)",
    paper: "arXiv 2202.13914, 2211.03831",
    formula: "W + B_t A_t / r, A_t = Σ_s w_ts A_s, B_t = Σ_s w_ts B_s",
    mergeable: Mergeable::No(BY_TASK),
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
    /// Tasks, skills, blocks.
    #[serde(flatten)]
    pub routing: RoutingFields,
    /// Start at the identity; `false` starts `B` like `A`, for tests.
    pub init_weights: bool,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for PolyConfig {
    fn default() -> Self {
        PolyConfig {
            r: 8,
            poly_type: "poly".into(),
            routing: RoutingFields::default(),
            init_weights: true,
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
    let fields = TargetFields::recommended(fields, origin, &[]);
    let poly: PolyConfig = config::read(NAME, &fields, INERT, origin, warnings)?;
    poly.check()?;
    Ok(Arc::new(poly))
}

impl PolyConfig {
    fn check(&self) -> Result<(), EditError> {
        check_rank(NAME, "r", self.r)?;
        self.routing.check(NAME)?;
        if self.poly_type != "poly" {
            return Err(wrong(NAME, "poly_type", format!("`{}`", self.poly_type), "`poly`"));
        }
        self.targets.check(NAME)
    }

    fn on_map(&self, plan: &mut Plan, weight: &BaseWeight, source: Option<&Edit>) -> Result<(), EditError> {
        let (out, inputs) = (weight.shape[0], weight.shape[1]);
        self.routing.check_split(NAME, weight, &[inputs, out])?;
        let (splits, skills) = (self.routing.n_splits, self.routing.n_skills);
        let (a, b) = (inputs / splits, out / splits);
        let uniform = |fan_in: usize| Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt() };
        let named = |tensor: &str| key(weight.module(), tensor);
        let first_b = if self.init_weights { Init::Zeros } else { uniform(self.r) };
        let skill = |param| self.routing.skill(NAME, source, param);
        let (router, logits) = self.routing.router(named("poly_router.module_logits"));
        let params = [
            skill(ParamPlan::new(named("poly_lora_A"), &[splits, skills, a, self.r], uniform(a)))?,
            skill(ParamPlan::new(named("poly_lora_B"), &[splits, skills, self.r, b], first_b))?,
            logits,
        ];
        plan.on_linear(weight, Skills { router, rank: self.r, inputs, out }, params);
        Ok(())
    }
}

impl Method for PolyConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let source = self.routing.source(NAME, base)?;
        let config = (config::to_map(self), INERT);
        let on_map = |plan: &mut Plan, weight: &BaseWeight| self.on_map(plan, weight, source.as_ref());
        let mut plan = self.targets.plan(NAME, base, Q_AND_V, config, on_map)?;
        as_peft_writes(&mut plan);
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn groups(&self) -> Option<usize> {
        Some(self.routing.n_tasks)
    }
}

/// The skills and the router of one map. Parameters: `A` `[H, S, i/H, r]`, `B` `[H, S, r, o/H]`, logits `[T, H S]`.
struct Skills {
    router: Router,
    rank: usize,
    inputs: usize,
    out: usize,
}

impl Skills {
    /// The pair of weights `w` as a low-rank term: `A_tᵀ` `[r, i]`, `B_tᵀ` `[o, r]`.
    fn pair(&self, tape: &Tape, a: &Var, b: &Var, w: &Var) -> [Var; 2] {
        let rank = self.rank;
        let a = ops::reshape(tape, &self.router.mixed(tape, w, a), &[self.inputs, rank]);
        // Blocks [H, r, o/H] become rows [o, r].
        let block = self.out / self.router.splits;
        let place = |at: usize| {
            let (row, rank_at) = (at / rank, at % rank);
            ((row / block) * rank * block + rank_at * block + row % block) as u32
        };
        let places: Vec<u32> = (0..self.out * rank).map(place).collect();
        let flat = ops::reshape(tape, &self.router.mixed(tape, w, b), &[self.out * rank, 1]);
        let b = ops::reshape(tape, &ops::gather_rows(tape, &flat, &places), &[self.out, rank]);
        [ops::transpose(tape, &a), b]
    }

    fn term(&self, at: &At, task: u32) -> LowRank {
        let pair = at.once_a_group(task, || {
            let w = self.router.weights(at, &at.values[2], task);
            self.pair(&at.cx.tape, &at.values[0], &at.values[1], &w).to_vec()
        });
        LowRank { a: pair[0].clone(), b: pair[1].clone(), scale: at.strength / self.rank as f32, dropout: None }
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

    fn low_rank(&self, values: &[Tensor], group: Option<u32>) -> Option<LowRankPair> {
        let w = self.router.settled(&values[2], group?);
        let skills = |at: usize| Var::constant(values[at].clone());
        let [a, b] = self.pair(&Tape::off(), &skills(0), &skills(1), &w);
        Some(LowRankPair { a: a.value, b: b.value, scale: 1.0 / self.rank as f32 })
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(BY_TASK.into())
    }
}
