//! Efficient prompt tuning, EPT (Lan et al. 2025, arXiv 2405.11464): a decomposed prompt ([`super::dept`]) whose short part is
//! enriched by what the pair knows and passed through several learned spaces that a gate weighs. With `C = A B`, `d` the hidden
//! size, rows as tokens:
//!
//! 1. `E' = E(x) + c C[0..n]`, `c = alpha / √r`;
//! 2. prompt fusion: `P_f = P_s + softmax((P_s W_q)(C W_k)ᵀ / √f) C W_v₁ W_v₂`, `W_q, W_k, W_v₁` `[d, f]`, `W_v₂` `[f, d]`;
//! 3. spaces: `S_0(x) = x`, `S_k(x) = x + relu(x D_kᵀ) U_kᵀ`, `D_k` `[p, d]`, `U_k` `[d, p]`, `k < K`;
//! 4. gate: `g = softmax(W₂ relu(W₁ z))`, `z` the mean row of `P_f`, `W₁` `[h, d]`, `W₂` `[K, h]`;
//! 5. `P' = Σ_k g_k S_k(P_f) = P_f + Σ_{k>0} g_k relu(P_f D_kᵀ) U_kᵀ` (the gate sums to 1), and the model reads `[P'; E']`.
//!
//! The paper has no public code. Its modules are as published; the exact parametrisation of 2 to 4 (a single head, factors of rank
//! `f` and `p`, an identity space, the gate's depth) is chosen here. `W_v₂` and `U` start at zero and `B` too, everything else
//! uniform: EPT starts as prompt tuning with `P_s`; without fusion and spaces (`fusion_rank: 0`, `spaces: 1`) it is DePT.
//!
//! Parameters: DePT's `s d + m r + r d`, plus `4 d f`, plus `(K − 1) 2 d p`, plus `h d + K h` where there are spaces. All but `P_s`
//! learn at `low_rank_lr_ratio` times the rate. `P'` and `c C` do not depend on the text: a finished adapter keeps these two
//! (`s d + m d` numbers) and costs what DePT costs. Everything is computed in `f32`.

use std::sync::Arc;

use hone_engine::ops::{self, Pointwise};
use hone_engine::{DType, Tape, Tensor, Var};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::dept::{DeptConfig, at_embeddings};
use super::fields::{
    INERT, NO_WEIGHT, PROMPT, PromptRows, at_virtual_tokens, constants, finished, finished_param, scaled, uniform,
};
use super::input_update::{InputUpdate, product};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{
    At, Edit, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase,
};
use crate::planning::wrong;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "ept",
    peft_type: "HONE_EPT",
    family: "prompt",
    summary: "DePT with fusion of both parts and gated projections into several spaces",
    paper: "arXiv 2405.11464",
    formula: "[Σ_k g_k S_k(P_s + attention(P_s, A B)); E(x) + c A B]",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<EptConfig>(),
};

/// The key of `c A B` in a finished adapter.
const UPDATE: &str = "input_update";

/// The fields of EPT: DePT's and its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EptConfig {
    /// The short prompt and the pair.
    #[serde(flatten)]
    pub parts: DeptConfig,
    /// `f`: width of the fusion's attention; 0 leaves fusion out.
    pub fusion_rank: usize,
    /// `K`: spaces, the identity included; 1 leaves projections and gate out.
    pub spaces: usize,
    /// `p`: width of a space's projection.
    pub space_rank: usize,
    /// `h`: width inside the gate.
    pub gate_hidden: usize,
}

impl Default for EptConfig {
    fn default() -> Self {
        EptConfig { parts: DeptConfig::default(), fusion_rank: 8, spaces: 4, space_rank: 8, gate_hidden: 16 }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        DeptConfig::recommend(&mut fields);
    }
    let mut config: EptConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    config.parts.first.stored = origin == Origin::File;
    config.parts.check(METHOD.name)?;
    if config.spaces == 0 {
        return Err(wrong(METHOD.name, "spaces", "0", "1 (the identity alone) or more"));
    }
    if config.spaces > 1 && (config.space_rank == 0 || config.gate_hidden == 0) {
        return Err(wrong(METHOD.name, "space_rank, gate_hidden", "0", "1 or more, or `spaces: 1`"));
    }
    Ok(Arc::new(config))
}

impl EptConfig {
    fn has_spaces(&self) -> bool {
        self.spaces > 1
    }

    /// What comes after `P_s`, `A`, `B`: fusion, spaces, gate.
    fn own_params(&self, hidden: usize) -> Vec<ParamPlan> {
        let mut params = Vec::new();
        let mut add = |key: &str, shape: [usize; 2], init: Init| {
            let param = ParamPlan::new(key, &shape, init).not_saved().full_precision();
            params.push(param.learning_rate_factor(self.parts.low_rank_lr_ratio));
        };
        let f = self.fusion_rank;
        if f > 0 {
            add("fusion.query", [hidden, f], uniform(hidden));
            add("fusion.key", [hidden, f], uniform(hidden));
            add("fusion.value.down", [hidden, f], uniform(hidden));
            add("fusion.value.up", [f, hidden], Init::Zeros);
        }
        if self.has_spaces() {
            let inner = (self.spaces - 1) * self.space_rank;
            add("spaces.down", [inner, hidden], uniform(hidden));
            add("spaces.up", [hidden, inner], Init::Zeros);
            add("gate.0", [self.gate_hidden, hidden], uniform(hidden));
            add("gate.1", [self.spaces, self.gate_hidden], uniform(self.gate_hidden));
        }
        params
    }

    fn rebuilt(&self) -> Rebuilt {
        Rebuilt { fuses: self.fusion_rank > 0, spaces: self.spaces, space_rank: self.space_rank }
    }
}

impl Method for EptConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let hidden = base.geometry.hidden;
        let config = self.parts.file_fields(METHOD.name, base, self)?;
        if self.parts.first.stored {
            let (tokens, length) = (self.parts.prompt.num_virtual_tokens, self.parts.max_length);
            let params = vec![
                ParamPlan::new(PROMPT, &[tokens, hidden], Init::Zeros).full_precision(),
                ParamPlan::new(UPDATE, &[length, hidden], Init::Zeros).full_precision(),
            ];
            let placed =
                vec![at_virtual_tokens(PromptRows, vec![0]), at_embeddings(InputUpdate { scale: 1.0 }, vec![1])];
            return Ok(Plan { config, params, placed });
        }
        let (_, scale) = self.parts.rank_and_scale(METHOD.name, hidden)?;
        let decomposed = self.parts.params(METHOD.name, base)?.into_iter().map(ParamPlan::not_saved);
        let params: Vec<ParamPlan> = decomposed.chain(self.own_params(hidden)).collect();
        let placed = vec![
            at_virtual_tokens(self.rebuilt(), (0..params.len()).collect()),
            at_embeddings(InputUpdate { scale }, vec![1, 2]),
        ];
        Ok(Plan { config, params, placed })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn default_learning_rate(&self) -> f64 {
        0.03
    }

    fn virtual_tokens(&self) -> usize {
        self.parts.prompt.num_virtual_tokens
    }

    fn finished(&self, edit: Edit, _base: &Base) -> Result<Edit, EditError> {
        if self.parts.first.stored {
            return Ok(edit);
        }
        let values = constants(&edit);
        let prompt = self.rebuilt().run(&Tape::off(), &values).value;
        let (a, b) = (&values[1].value, &values[2].value);
        let scale = (self.parts.alpha / (b.dim(0) as f64).sqrt()) as f32;
        let params = vec![finished_param(PROMPT, prompt), finished_param(UPDATE, product(a, b, scale))];
        let params = params.into_iter().map(|mut param| {
            param.traits.full_precision = true;
            param
        });
        let mut method = self.clone();
        method.parts.first.stored = true;
        let placed = vec![at_virtual_tokens(PromptRows, vec![0]), at_embeddings(InputUpdate { scale: 1.0 }, vec![1])];
        Ok(finished(edit, method, params.collect(), placed))
    }
}

/// `P'`, made of everything.
struct Rebuilt {
    fuses: bool,
    spaces: usize,
    space_rank: usize,
}

impl Rebuilt {
    /// `[s, hidden]` in `f32` of `P_s`, `A`, `B`, fusion, spaces and gate.
    fn run(&self, tape: &Tape, values: &[Var]) -> Var {
        let [short, a, b, rest @ ..] = values else { unreachable!("at least the decomposed prompt") };
        let (fusion, projections) = rest.split_at(if self.fuses { 4 } else { 0 });
        let fused = match fusion {
            [query, key, down, up] => {
                let pair = ops::product(tape, a, b);
                let queries = ops::product(tape, short, query);
                let queries = ops::scale(tape, &queries, (query.value.dim(1) as f32).powf(-0.5));
                let scores = ops::product_nt(tape, &queries, &ops::product(tape, &pair, key));
                let read = ops::product(tape, &ops::softmax_rows(tape, &scores), &ops::product(tape, &pair, down));
                ops::add(tape, short, &ops::product(tape, &read, up))
            }
            _ => short.clone(),
        };
        let [down, up, first, second] = projections else { return fused };
        let gates = self.gates(tape, &fused, first, second);
        let inner = ops::pointwise(tape, &ops::product_nt(tape, &fused, down), Pointwise::Relu);
        let weighed = ops::scale_columns(tape, &inner, &ops::product(tape, &gates, &self.spread()));
        ops::add(tape, &fused, &ops::product_nt(tape, &weighed, up))
    }

    /// `g`, `[1, K]`.
    fn gates(&self, tape: &Tape, fused: &Var, first: &Var, second: &Var) -> Var {
        let mean = ops::reshape(tape, &ops::column_means(tape, fused), &[1, fused.value.dim(1)]);
        let inner = ops::pointwise(tape, &ops::product_nt(tape, &mean, first), Pointwise::Relu);
        ops::softmax_rows(tape, &ops::product_nt(tape, &inner, second))
    }

    /// `[K, (K − 1) p]`: gives each column of the projections the gate of its space.
    fn spread(&self) -> Var {
        let columns = (self.spaces - 1) * self.space_rank;
        let mut spread = vec![0f32; self.spaces * columns];
        (0..columns).for_each(|column| spread[(1 + column / self.space_rank) * columns + column] = 1.0);
        Var::constant(Tensor::from_slice([self.spaces, columns], &spread))
    }
}

impl Part for Rebuilt {
    fn virtual_embeddings(&self, at: &At) -> Option<Var> {
        debug_assert!(at.values.iter().all(|value| value.value.dtype() == DType::F32));
        Some(scaled(at, self.run(&at.cx.tape, at.values)))
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}

#[cfg(test)]
mod tests {
    use hone_engine::RandomKey;

    use super::*;

    fn random(shape: &[usize], name: &str) -> Var {
        let key = RandomKey::new(5).named(name);
        let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| key.normal(i)).collect();
        Var::constant(Tensor::from_slice(shape, &values))
    }

    /// `s = 3`, `d = 6`, `m = 5`, `r = 2`, `f = 4`, `K = 3`, `p = 2`, `h = 4`.
    fn values() -> Vec<Var> {
        let shapes: [&[usize]; 11] =
            [&[3, 6], &[5, 2], &[2, 6], &[6, 4], &[6, 4], &[6, 4], &[4, 6], &[4, 6], &[6, 4], &[4, 6], &[3, 4]];
        shapes.iter().enumerate().map(|(at, shape)| random(shape, &at.to_string())).collect()
    }

    const REBUILT: Rebuilt = Rebuilt { fuses: true, spaces: 3, space_rank: 2 };

    fn run(values: &[Var]) -> Vec<f32> {
        REBUILT.run(&Tape::off(), values).value.to_vec_f32()
    }

    fn apart(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    fn permuted(x: &Var, order: &[u32]) -> Var {
        ops::gather_rows(&Tape::off(), x, order)
    }

    #[test]
    fn exchanging_two_spaces_with_their_gates_changes_nothing() {
        let tape = Tape::off();
        let (given, mut exchanged) = (values(), values());
        exchanged[7] = permuted(&given[7], &[2, 3, 0, 1]);
        exchanged[8] = ops::transpose(&tape, &permuted(&ops::transpose(&tape, &given[8]), &[2, 3, 0, 1]));
        exchanged[10] = permuted(&given[10], &[0, 2, 1]);
        assert!(apart(&run(&given), &run(&exchanged)) < 1e-5);
        // The gates alone are another prompt.
        exchanged[10] = given[10].clone();
        assert!(apart(&run(&given), &run(&exchanged)) > 1e-2);
    }

    #[test]
    fn gates_sum_to_one_and_zero_maps_leave_the_short_prompt() {
        let tape = Tape::off();
        let mut given = values();
        let gates = REBUILT.gates(&tape, &given[0], &given[9], &given[10]).value.to_vec_f32();
        assert!((gates.iter().sum::<f32>() - 1.0).abs() < 1e-6 && gates.len() == 3);
        for zero in [6, 8] {
            given[zero] = ops::scale(&tape, &given[zero], 0.0);
        }
        assert_eq!(run(&given), given[0].value.to_vec_f32());
    }
}
