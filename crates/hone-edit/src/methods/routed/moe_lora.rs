//! MoE-LoRA: `E` low-rank experts beside each frozen map and a router that weighs them token by token. Zadouri et al. 2023
//! (MoLoRA, arXiv 2309.05444); top-k as in Mixtral (Jiang et al. 2024, arXiv 2401.04088); balance loss of Switch (Fedus et al.
//! 2021, arXiv 2101.03961).
//!
//! `y = x Wᵀ + s · Σ_e g_e(x) (x A_eᵀ) B_eᵀ`, `p = softmax(x Rᵀ)` in `f32`, and `g = p`, or with `top_k` the `k` highest of `p` divided
//! by their sum and 0 elsewhere. All experts are computed as one pair of rank `E r`, whose inner products are multiplied by their
//! expert's `g`: they are narrow, so that leaving some out would save nothing.
//!
//! Training adds `router_aux_loss_coef · E Σ_e f_e P_e` for each map, `f_e` the share of the micro-batch's choices (the `k` highest
//! of a token, or its highest) that fall to expert `e`, `P_e` the mean of `p_e`: 1 when the experts are used alike. Gradients
//! reach it through `P`.
//!
//! Start: `A ~ U(±1/√i)`, `B = 0`, `R ~ N(0, 0.02²)`, so the model is unchanged. Parameters of a map: `E r (i + o) + E i`.
//! Keys, in PEFT's layout: `moe_lora_A.weight` `[E r, i]`, `moe_lora_B.weight` `[o, E r]` (expert after expert),
//! `moe_router.weight` `[E, i]`. `s = alpha / r`.

use std::sync::Arc;

use hone_engine::ops::{self, Pointwise};
use hone_engine::{DType, Tape, Tensor, Var, WeightRef};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_factor, check_rank, key, wrong};

const NAME: &str = "moe_lora";
const BY_TOKEN: &str = "each token has a mixture of its own";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_MOE_LORA",
    family: "routed",
    summary: "LoRA experts that a softmax router weighs token by token, all or the top k, kept in balance",
    paper: "arXiv 2309.05444, 2401.04088, 2101.03961",
    formula: "x Wᵀ + s Σ_e g_e(x) x A_eᵀ B_eᵀ, g = softmax(x Rᵀ)",
    mergeable: Mergeable::No(BY_TOKEN),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<MoeLoraConfig>(),
};

/// The fields; ranks and scales are named as LoRA's are, the rest as in Hugging Face's Mixtral.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MoeLoraConfig {
    /// Rank of an expert.
    pub r: usize,
    /// Scaling: `alpha / r`.
    #[serde(serialize_with = "config::number")]
    pub lora_alpha: f64,
    /// Experts, `E`.
    pub num_experts: usize,
    /// Experts used for a token; all unless said.
    pub top_k: Option<usize>,
    /// Factor of the balance loss.
    pub router_aux_loss_coef: f64,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for MoeLoraConfig {
    fn default() -> Self {
        MoeLoraConfig {
            r: 4,
            lora_alpha: 8.0,
            num_experts: 4,
            top_k: None,
            router_aux_loss_coef: 0.01,
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
    let moe: MoeLoraConfig = config::read(NAME, &fields, INERT, origin, warnings)?;
    moe.check()?;
    Ok(Arc::new(moe))
}

impl MoeLoraConfig {
    fn check(&self) -> Result<(), EditError> {
        check_rank(NAME, "r", self.r)?;
        check_rank(NAME, "num_experts", self.num_experts)?;
        if let Some(k) = self.top_k
            && !(1..=self.num_experts).contains(&k)
        {
            let expected = format!("1 to {} (`num_experts`)", self.num_experts);
            return Err(wrong(NAME, "top_k", k.to_string(), expected));
        }
        check_factor(NAME, "lora_alpha", self.lora_alpha)?;
        let coefficient = self.router_aux_loss_coef;
        if !(coefficient >= 0.0 && coefficient.is_finite()) {
            return Err(wrong(NAME, "router_aux_loss_coef", coefficient.to_string(), "0 or more"));
        }
        self.targets.check(NAME)
    }

    fn on_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (out, inputs) = (weight.shape[0], weight.shape[1]);
        let (experts, all) = (self.num_experts, self.num_experts * self.r);
        let bound = 1.0 / (inputs as f32).sqrt();
        let named = |tensor: &str| key(weight.module(), tensor);
        let params = [
            ParamPlan::new(named("moe_lora_A.weight"), &[all, inputs], Init::Uniform { bound }),
            ParamPlan::new(named("moe_lora_B.weight"), &[out, all], Init::Zeros),
            ParamPlan::new(named("moe_router.weight"), &[experts, inputs], Init::Normal { std: 0.02 }).full_precision(),
        ];
        let part = Experts {
            experts,
            top_k: self.top_k.unwrap_or(experts),
            rank: self.r,
            scale: (self.lora_alpha / self.r as f64) as f32,
            balance: self.router_aux_loss_coef as f32,
        };
        plan.on_linear(weight, part, params);
        Ok(())
    }
}

impl Method for MoeLoraConfig {
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
}

/// The experts of one map. Parameters: `A` `[E r, i]`, `B` `[o, E r]`, `R` `[E, i]` in `f32`.
struct Experts {
    experts: usize,
    top_k: usize,
    rank: usize,
    scale: f32,
    balance: f32,
}

/// 1 at the `k` highest of each row of `p` `[tokens, E]`, of equal ones the first, else 0.
pub fn highest(p: &Tensor, k: usize) -> Tensor {
    let width = p.rows_cols().1;
    let mut chosen = vec![0f32; p.elements()];
    for (row, chosen) in p.as_slice::<f32>().chunks_exact(width).zip(chosen.chunks_exact_mut(width)) {
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a])); // stable
        order.iter().take(k).for_each(|&at| chosen[at] = 1.0);
    }
    Tensor::from_slice(p.shape(), &chosen)
}

/// `E Σ_e f_e P_e` of the probabilities `p` `[tokens, E]` (`f32`) and each token's `choices` highest, `[1]`.
pub fn balance_loss(tape: &Tape, p: &Var, choices: usize) -> Var {
    let (tokens, experts) = p.value.rows_cols();
    let chosen = highest(&p.value, choices);
    let mut shares = vec![0f32; experts];
    chosen.as_slice::<f32>().iter().enumerate().for_each(|(at, chosen)| shares[at % experts] += chosen);
    let factor = experts as f32 / (tokens * choices) as f32;
    shares.iter_mut().for_each(|share| *share *= factor);
    let means = ops::column_means(tape, p);
    ops::sum(tape, &ops::multiply(tape, &means, &Var::constant(Tensor::from_slice([experts], &shares))))
}

/// `y + factor · (g ⊙ x Aᵀ) Bᵀ`: a pair `A` `[R, in]`, `B` `[out, R]` with a gate for every token and row of `A`, `g` `[tokens, R]`
/// in `f32`.
pub(super) fn gated_pair(tape: &Tape, x: &Var, y: &Var, gates: &Var, [a, b]: [&Var; 2], factor: f32) -> Var {
    let inner = ops::linear(tape, x, &WeightRef::Trained(a.clone()), None, &[]);
    let inner = ops::multiply(tape, &inner, &ops::convert(tape, gates, inner.value.dtype()));
    let outer = ops::linear(tape, &inner, &WeightRef::Trained(b.clone()), None, &[]);
    ops::add_scaled(tape, y, &outer, factor)
}

impl Experts {
    /// `p` `[tokens, E]`, in `f32`.
    fn probabilities(&self, at: &At, x: &Var) -> Var {
        let tape = &at.cx.tape;
        let x = ops::convert(tape, x, DType::F32);
        let logits = ops::linear(tape, &x, &WeightRef::Trained(at.values[2].clone()), None, &[]);
        ops::softmax_rows(tape, &logits)
    }

    /// `g` `[tokens, E]` of `p`.
    fn gates(&self, tape: &Tape, p: &Var) -> Var {
        if self.top_k == self.experts {
            return p.clone();
        }
        let kept = ops::multiply(tape, p, &Var::constant(highest(&p.value, self.top_k)));
        let sums = ops::row_sums(tape, &kept);
        ops::scale_rows(tape, &kept, &ops::pointwise(tape, &sums, Pointwise::Reciprocal))
    }
}

impl Part for Experts {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let p = self.probabilities(at, x);
        // A gate for each row of its expert: times [E, E r], block after block.
        let spread: Vec<f32> = (0..self.experts * self.experts * self.rank)
            .map(|at| f32::from(at / (self.experts * self.rank) == at % (self.experts * self.rank) / self.rank))
            .collect();
        let spread = Var::constant(Tensor::from_slice([self.experts, self.experts * self.rank], &spread));
        let gates = ops::product(tape, &self.gates(tape, &p), &spread);
        let y = gated_pair(tape, x, &next(x), &gates, [&at.values[0], &at.values[1]], self.scale * at.strength);
        if self.balance == 0.0 || !at.cx.training || !at.is_trained() {
            return y;
        }
        let choices = if self.top_k == self.experts { 1 } else { self.top_k };
        ops::with_penalty(tape, &y, &balance_loss(tape, &p, choices), self.balance * at.cx.loss_share)
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(BY_TOKEN.into())
    }
}
