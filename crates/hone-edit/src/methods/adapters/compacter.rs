//! Compacter: a bottleneck whose maps are sums of Kronecker products with factors that all layers share (Karimi Mahabadi,
//! Henderson and Ruder 2021, arXiv 2106.04647).
//!
//! `Δ(u) = H_upᵀ f(H_downᵀ u + b_down) + b_up`, `H = Σ_i A_i ⊗ (s_i t_i)`, `i = 1 … n`: the `A_i` `[n, n]` are shared by every
//! map of every layer; `s_i` `[in / n, r]` and `t_i` `[r, out / n]` are each map's own.
//!
//! Defaults are the paper's: both sub-layers, sequential, gelu, `phm_dim` `n` 4, `phm_rank` `r` 1, reduction 32; Compacter++ is
//! `placement: mlp`. A width that comes of the reduction factor is rounded to a multiple of `n`.
//!
//! First values: the `A_i` are `N(0, 0.0001²)`, `s` and `t` Glorot-uniform, biases zero: within rounding of the identity.
//! Shapes: `phm_rule` `[n, n, n]` once; `down.W_left` `[n, hidden / n, r]`, `down.W_right` `[n, r, b / n]`, `down.bias` `[b]`,
//! `up.W_left` `[n, b / n, r]`, `up.W_right` `[n, r, hidden / n]`, `up.bias` `[hidden]`. Parameters: `n³` once, and
//! `2 r (hidden + b) + b + hidden` a sub-layer. The paper trains it at 3e-3.

use std::sync::Arc;

use hone_engine::{Tape, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{AdapterFields, NO_WEIGHT, Network, NonLinearity};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{At, Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::{check_rank, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "compacter",
    peft_type: "HONE_COMPACTER",
    family: "adapter",
    summary: "bottlenecks made of Kronecker products with factors shared by all layers",
    paper: "arXiv 2106.04647",
    formula: "o + Hᵤᵀ f(Hᵈᵀ o), H = Σ A ⊗ s t",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<CompacterConfig>(),
};

/// Compacter's fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CompacterConfig {
    /// Number and side of the shared factors.
    pub phm_dim: usize,
    /// Rank of a map's own factors.
    pub phm_rank: usize,
    /// The function in the middle.
    pub non_linearity: NonLinearity,
    /// Where and how wide.
    #[serde(flatten)]
    pub fields: AdapterFields,
}

impl Default for CompacterConfig {
    fn default() -> Self {
        CompacterConfig { phm_dim: 4, phm_rank: 1, non_linearity: NonLinearity::Gelu, fields: AdapterFields::default() }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let defaults = json!({ "placement": "both", "insertion": "sequential", "reduction_factor": 32, "scaling": 1 });
    let fields = super::with_defaults(fields, defaults);
    let compacter: CompacterConfig = config::read(METHOD.name, &fields, &[], origin, warnings)?;
    compacter.fields.check(METHOD.name)?;
    check_rank(METHOD.name, "phm_dim", compacter.phm_dim)?;
    check_rank(METHOD.name, "phm_rank", compacter.phm_rank)?;
    Ok(Arc::new(compacter))
}

impl CompacterConfig {
    /// The width of the bottleneck, a multiple of `phm_dim`.
    fn width(&self, base: &Base) -> Result<usize, EditError> {
        let (n, hidden) = (self.phm_dim, base.geometry.hidden);
        if !hidden.is_multiple_of(n) {
            let expected = format!("a divisor of {hidden}, the width of the model");
            return Err(wrong(METHOD.name, "phm_dim", n.to_string(), expected));
        }
        match self.fields.bottleneck {
            Some(width) if !width.is_multiple_of(n) => {
                let expected = format!("a multiple of `phm_dim` ({n})");
                Err(wrong(METHOD.name, "bottleneck", width.to_string(), expected))
            }
            Some(width) => Ok(width),
            None => {
                let blocks = hidden as f64 / self.fields.reduction_factor / n as f64;
                Ok(n * (blocks.round() as usize).max(1))
            }
        }
    }
}

impl Method for CompacterConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (n, r, hidden, width) = (self.phm_dim, self.phm_rank, base.geometry.hidden, self.width(base)?);
        let mut plan = self.fields.begin(self);
        let rule = ParamPlan::new("base_model.compacter.phm_rule", &[n, n, n], Init::Normal { std: 1e-4 });
        let rule = plan.add([rule])[0];
        for slot in self.fields.slots(METHOD.name, base)? {
            let key = |tensor: &str| slot.key(METHOD.name, tensor);
            let map = |name: &str, from: usize, to: usize| {
                let glorot = |fan: usize| Init::Uniform { bound: (6.0 / (fan + r) as f32).sqrt() };
                [
                    ParamPlan::new(key(&format!("{name}.W_left")), &[n, from / n, r], glorot(from / n)),
                    ParamPlan::new(key(&format!("{name}.W_right")), &[n, r, to / n], glorot(to / n)),
                    ParamPlan::new(key(&format!("{name}.bias")), &[to], Init::Zeros),
                ]
            };
            let own = plan.add(map("down", hidden, width).into_iter().chain(map("up", width, hidden)));
            let params = std::iter::once(rule).chain(own).collect();
            self.fields.place(&mut plan, slot, Compacted { f: self.non_linearity }, params);
        }
        self.fields.finish(&mut plan, base)?;
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// Values: the shared factors, then left, right and bias of the map down and of the map up.
struct Compacted {
    f: NonLinearity,
}

impl Network for Compacted {
    fn apply(&self, at: &At, u: &Var) -> Var {
        let tape = &at.cx.tape;
        let [rule, left_down, right_down, bias_down, left_up, right_up, bias_up] = at.values else {
            unreachable!("planned with seven parameters")
        };
        let inner = ops::product(tape, u, &kronecker_sum(tape, rule, left_down, right_down));
        let inner = ops::activation(tape, &ops::add_row(tape, &inner, bias_down), self.f.activation());
        let outer = ops::product(tape, &inner, &kronecker_sum(tape, rule, left_up, right_up));
        ops::add_row(tape, &outer, bias_up)
    }
}

/// `Σ_i A_i ⊗ (s_i t_i)`, `[in, out]`; `a` `[n, n, n]`, `s` `[n, in / n, r]`, `t` `[n, r, out / n]`.
fn kronecker_sum(tape: &Tape, a: &Var, s: &Var, t: &Var) -> Var {
    let block = |x: &Var, i: usize| {
        let [_, rows, columns] = x.value.dims() else { unreachable!("planned with three axes") };
        ops::reshape(tape, &ops::rows(tape, x, i..i + 1), &[*rows, *columns])
    };
    let term = |i: usize| ops::kronecker(tape, &block(a, i), &ops::product(tape, &block(s, i), &block(t, i)));
    (1..a.value.dim(0)).fold(term(0), |sum, i| ops::add(tape, &sum, &term(i)))
}
