//! Polytropon and multi-head routing over (IA)³'s vectors instead of low-rank pairs: the IA3 variant of Caccia et al. 2023
//! (arXiv 2211.03831) on Liu et al. 2022 (arXiv 2205.05638).
//!
//! `y = (x Wᵀ + b) ⊙ l_t`, or `y = (x ⊙ l_t) Wᵀ + b` at `feedforward_modules`, with `l_t[h] = Σ_s w_t[h, s] l[h, s]` of `H` blocks
//! of the scaled features and the weights `w_t` of the [`super::router`]. (The authors' code has the configuration and raises an
//! error for the mixture; this is the paper's formula.)
//!
//! Start: `l = 1`, so the model is unchanged. Parameters of a map: `S d + T H S`, `d` the scaled width (`[o]`, or `[i]` at
//! feed-forward modules). PEFT lacks the type; the layout is that of `POLY` with `poly_ia3_l` `[H, S, d/H]`.

use std::sync::Arc;

use hone_engine::ops;
use hone_engine::{Tensor, Var};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::router::{Router, RoutingFields, as_peft_writes};
use crate::base::{Base, BaseWeight};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{
    At, Edit, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase,
};
use crate::planning::{TargetFields, key};

const NAME: &str = "poly_ia3";

/// Why it cannot be merged.
const BY_TASK: &str = "each task has its own mixture of scalings; apply it beside the model, with `--task-group N`";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_POLY_IA3",
    family: "routed",
    summary: "vectors that rescale keys, values and MLP activations, mixed by a routing of each task",
    paper: "arXiv 2211.03831, 2205.05638",
    formula: "(x Wᵀ) ⊙ l_t, l_t = Σ_s w_ts l_s",
    mergeable: Mergeable::No(BY_TASK),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<PolyIa3Config>(),
};

/// The fields of a routing, and IA3's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PolyIa3Config {
    /// Names of maps whose input is scaled instead of their output.
    pub feedforward_modules: Vec<String>,
    /// Tasks, skills, blocks.
    #[serde(flatten)]
    pub routing: RoutingFields,
    /// Where; `k_proj`, `v_proj` and `down_proj` unless said.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for PolyIa3Config {
    fn default() -> Self {
        PolyIa3Config {
            feedforward_modules: vec!["down_proj".into()],
            routing: RoutingFields::default(),
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
        fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
    }
    let poly: PolyIa3Config = config::read(NAME, &fields, INERT, origin, warnings)?;
    poly.routing.check(NAME)?;
    poly.targets.check(NAME)?;
    Ok(Arc::new(poly))
}

impl PolyIa3Config {
    fn on_map(&self, plan: &mut Plan, weight: &BaseWeight, source: Option<&Edit>) -> Result<(), EditError> {
        let last = weight.module().rsplit('.').next().unwrap_or_default();
        let of_input = self.feedforward_modules.iter().any(|name| name == last || name == weight.module());
        let width = weight.shape[usize::from(of_input)];
        self.routing.check_split(NAME, weight, &[width])?;
        let (splits, skills) = (self.routing.n_splits, self.routing.n_skills);
        let (router, logits) = self.routing.router(key(weight.module(), "poly_router.module_logits"));
        let vectors =
            ParamPlan::new(key(weight.module(), "poly_ia3_l"), &[splits, skills, width / splits], Init::Constant(1.0))
                .without_decay();
        let params = [self.routing.skill(NAME, source, vectors)?, logits];
        plan.on_linear(weight, Vectors { router, of_input, width }, params);
        Ok(())
    }
}

impl Method for PolyIa3Config {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let source = self.routing.source(NAME, base)?;
        let config = (config::to_map(self), INERT);
        let on_map = |plan: &mut Plan, weight: &BaseWeight| self.on_map(plan, weight, source.as_ref());
        let mut plan = self.targets.plan(NAME, base, &["k_proj", "v_proj", "down_proj"], config, on_map)?;
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

/// The vectors and the router of one map. Parameters: `l` `[H, S, d/H]`, logits `[T, H S]`.
struct Vectors {
    router: Router,
    of_input: bool,
    width: usize,
}

impl Vectors {
    /// `1 + s (l_t − 1)`, `[1, d]`.
    fn factor(&self, at: &At, task: u32) -> Var {
        let tape = &at.cx.tape;
        let made = at.once_a_group(task, || {
            let w = self.router.weights(at, &at.values[1], task);
            vec![ops::reshape(tape, &self.router.mixed(tape, &w, &at.values[0]), &[1, self.width])]
        });
        if at.strength == 1.0 {
            return made[0].clone();
        }
        let rest = Tensor::full([1, self.width], made[0].value.dtype(), 1.0 - at.strength);
        ops::add_scaled(tape, &Var::constant(rest), &made[0], at.strength)
    }

    /// Each row of `x` times the factor of its task.
    fn scaled(&self, at: &At, x: &Var) -> Var {
        let tape = &at.cx.tape;
        let groups = at.row_groups();
        let mut tasks = groups.clone();
        tasks.sort_unstable();
        tasks.dedup();
        let factors: Vec<Var> = tasks.iter().map(|task| self.factor(at, *task)).collect();
        match &factors[..] {
            [one] => ops::scale_columns(tape, x, &ops::reshape(tape, one, &[self.width])),
            _ => {
                let rows: Vec<u32> =
                    groups.iter().map(|group| tasks.partition_point(|task| task < group) as u32).collect();
                ops::multiply(tape, x, &ops::gather_rows(tape, &ops::concat_rows(tape, &factors), &rows))
            }
        }
    }
}

impl Part for Vectors {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        match self.of_input {
            true => next(&self.scaled(at, x)),
            false => self.scaled(at, &next(x)),
        }
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(BY_TASK.into())
    }
}
