//! AdaMix (Wang et al. 2022, arXiv 2205.12410), its LoRA variant: `M` low-rank pairs beside each frozen map, of which training
//! runs through one `A` and one `B` drawn at random, and whose averages remain.
//!
//! Training: `y = x Wᵀ + s · drop(x) A_mᵀ B_nᵀ`, `m` and `n` drawn apart and evenly for each map and micro-batch. Otherwise:
//! `y = x Wᵀ + s · x Āᵀ B̄ᵀ` with the means `Ā`, `B̄` over the `M` (the paper averages the projections down and up apart too), so
//! at inference it costs what one LoRA adapter does, is merged exactly, and collapses into a plain one. `s = alpha / r`.
//!
//! Consistency: each step runs a batch through two routings, with predictions `p` and `q`, and adds
//! `c · ½ (KL(p ‖ q) + KL(q ‖ p))` to the loss of the first, with gradients in both; `c` is `consistency_weight` (the paper's: 1).
//! That doubles the cost of a step; with 0 there is one pass, and the members are pulled together by their shared gradients
//! alone.
//!
//! Start: `A ~ U(±1/√i)`, `B = 0`, so the model is unchanged. Parameters of a map: `M r (i + o)`.
//! Keys, in PEFT's layout: `adamix_lora_A` `[M, r, i]`, `adamix_lora_B` `[M, o, r]`.

use std::sync::Arc;

use hone_engine::ops::{self, Dropout, LowRank};
use hone_engine::{Tape, Tensor, Var, WeightRef};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{
    At, Edit, Init, LinearEffect, LowRankPair, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan,
    QuantisedBase,
};
use crate::planning::{Q_AND_V, TargetFields, check_factor, check_probability, check_rank, key, wrong};
use crate::training::TrainingRules;

const NAME: &str = "adamix";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_ADAMIX",
    family: "routed",
    summary: "several LoRA pairs, one drawn at random in each training pass, averaged afterwards",
    paper: "arXiv 2205.12410",
    formula: "W + s B̄ Ā, means over M pairs; training: W + s B_n A_m, m and n random",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<AdaMixConfig>(),
};

/// The fields; ranks and scales are named as LoRA's are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AdaMixConfig {
    /// Rank of a pair.
    pub r: usize,
    /// Scaling: `alpha / r`.
    #[serde(serialize_with = "config::number")]
    pub lora_alpha: f64,
    /// Dropout on the input of `A`.
    pub lora_dropout: f64,
    /// Pairs, `M`.
    pub num_experts: usize,
    /// Weight of how far the predictions of two routings may be from each other; 0 leaves the second pass out.
    #[serde(serialize_with = "config::number")]
    pub consistency_weight: f64,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for AdaMixConfig {
    fn default() -> Self {
        AdaMixConfig {
            r: 8,
            lora_alpha: 16.0,
            lora_dropout: 0.0,
            num_experts: 4,
            consistency_weight: 1.0,
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
    let adamix: AdaMixConfig = config::read(NAME, &fields, INERT, origin, warnings)?;
    check_rank(NAME, "r", adamix.r)?;
    check_rank(NAME, "num_experts", adamix.num_experts)?;
    check_probability(NAME, "lora_dropout", adamix.lora_dropout)?;
    check_factor(NAME, "lora_alpha", adamix.lora_alpha)?;
    if !(adamix.consistency_weight >= 0.0 && adamix.consistency_weight.is_finite()) {
        return Err(wrong(NAME, "consistency_weight", adamix.consistency_weight.to_string(), "0 or more"));
    }
    adamix.targets.check(NAME)?;
    Ok(Arc::new(adamix))
}

impl AdaMixConfig {
    fn on_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (out, inputs, pairs) = (weight.shape[0], weight.shape[1], self.num_experts);
        let bound = 1.0 / (inputs as f32).sqrt();
        let params = [
            ParamPlan::new(key(weight.module(), "adamix_lora_A"), &[pairs, self.r, inputs], Init::Uniform { bound }),
            ParamPlan::new(key(weight.module(), "adamix_lora_B"), &[pairs, out, self.r], Init::Zeros),
        ];
        let scale = (self.lora_alpha / self.r as f64) as f32;
        plan.on_linear(weight, Pairs { pairs, scale, dropout: self.lora_dropout as f32 }, params);
        Ok(())
    }
}

impl Method for AdaMixConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let config = (config::to_map(self), INERT);
        self.targets.plan(NAME, base, Q_AND_V, config, |plan, weight| self.on_map(plan, weight))
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn training(&self, _edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        Some(Box::new(Consistency { weight: self.consistency_weight as f32 }))
    }
}

/// Two routings of a batch agree.
struct Consistency {
    weight: f32,
}

impl TrainingRules for Consistency {
    fn consistency(&self) -> Option<f32> {
        (self.weight > 0.0).then_some(self.weight)
    }
}

/// The pairs of one map. Parameters: `A` `[M, r, i]`, `B` `[M, o, r]`.
struct Pairs {
    pairs: usize,
    scale: f32,
    dropout: f32,
}

/// Matrix `at` of `[M, m, n]`.
fn member(tape: &Tape, all: &Var, at: usize) -> Var {
    let dims = all.value.dims().to_vec();
    ops::reshape(tape, &ops::rows(tape, all, at..at + 1), &dims[1..])
}

/// The mean over the first axis of `[M, m, n]`.
fn mean(tape: &Tape, all: &Var) -> Var {
    let count = all.value.dim(0);
    let first = member(tape, all, 0);
    let sum = (1..count).fold(first, |sum, at| ops::add(tape, &sum, &member(tape, all, at)));
    ops::scale(tape, &sum, 1.0 / count as f32)
}

impl Part for Pairs {
    fn on_linear(&self, at: &At, _linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let tape = &at.cx.tape;
        let scale = self.scale * at.strength;
        if !(at.cx.training && at.is_trained()) {
            let made = at.once_a_group(0, || at.values.iter().map(|all| mean(tape, all)).collect());
            return LinearEffect::term(LowRank { a: made[0].clone(), b: made[1].clone(), scale, dropout: None });
        }
        let key = at.cx.key.named("routing").named(at.name);
        let (m, n) = (key.below(0, self.pairs), key.below(1, self.pairs));
        let dropout =
            (self.dropout > 0.0).then(|| Dropout { p: self.dropout, key: at.cx.key.named("adamix").named(at.name) });
        let (a, b) = (member(tape, &at.values[0], m), member(tape, &at.values[1], n));
        LinearEffect::term(LowRank { a, b, scale, dropout })
    }

    fn low_rank(&self, values: &[Tensor], _group: Option<u32>) -> Option<LowRankPair> {
        let mean = |at: usize| mean(&Tape::off(), &Var::constant(values[at].clone())).value;
        Some(LowRankPair { a: mean(0), b: mean(1), scale: self.scale })
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let mean = |at: usize| mean(&Tape::off(), &Var::constant(merge.values[at].clone())).value;
        Ok(merge.with_product(self.scale, &mean(1), &mean(0)))
    }
}
