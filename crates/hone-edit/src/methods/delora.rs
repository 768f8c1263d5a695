//! DeLoRA (Bini et al. 2025, "Decoupling Angles and Strength in Low-rank Adaptation", arXiv 2503.18225): `W + B Ξ A
//! diag(w)` with `Ξ_k = λ / (r |A_k| |B_k|)` and `w` the norms of the base's columns: each of the `r` rank-one parts has
//! its own direction and all have one length, `λ`, so the change cannot grow past it.
//!
//! `A` `[r, in]`, `B` `[out, r]`, `λ` one number (`delora_lambda` at the start), `w` `[in]` frozen; PEFT writes `w` into
//! the file. Norms below `1e-4` count as `1e-4`. Start: `A` Kaiming-uniform, `B` 0, so the model is unchanged. Parameters:
//! `r (in + out) + 1` a map.

use std::sync::Arc;

use hone_engine::ops::{LowRank, Pointwise};
use hone_engine::{DType, Tape, Tensor, Var, WeightRef, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::Base;
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::dropout;
use crate::method::{
    At, Init, LinearEffect, LowRankPair, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan,
    QuantisedBase,
};
use crate::planning::{Q_AND_V, TargetFields, check_probability, check_rank, key, number_of, rank_of, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "delora",
    peft_type: "DELORA",
    family: "low rank",
    summary: "low-rank pairs of trained direction and bounded length",
    paper: "arXiv 2503.18225",
    formula: "W + B diag(λ / (r ‖A_k‖ ‖B_k‖)) A diag(‖w_i‖)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<DeloraConfig>(),
};

/// Hugging Face's `DeloraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DeloraConfig {
    /// Rank.
    pub r: usize,
    /// The length of the change, at the start.
    #[serde(serialize_with = "config::number")]
    pub delora_lambda: f64,
    /// Dropout on the input of `A` (Hugging Face's name).
    pub module_dropout: f64,
    /// Other ranks by name or regular expression.
    pub rank_pattern: Map<String, Value>,
    /// Other lengths by name or regular expression.
    pub lambda_pattern: Map<String, Value>,
    /// Whether the model is unchanged at the start; `false`: `B` random too, for tests.
    pub init_weights: bool,
    /// Which biases are trained: `none`, `all`, `delora_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for DeloraConfig {
    fn default() -> Self {
        DeloraConfig {
            r: 8,
            delora_lambda: 15.0,
            module_dropout: 0.0,
            rank_pattern: Map::new(),
            lambda_pattern: Map::new(),
            init_weights: true,
            bias: "none".into(),
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[];
/// What a norm is taken for at least.
const SMALLEST: f32 = 1e-4;

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[("r", json!(16))]);
    let delora: DeloraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    delora.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", delora.r)?;
    check_probability(METHOD.name, "module_dropout", delora.module_dropout)?;
    if !delora.delora_lambda.is_finite() {
        return Err(wrong(METHOD.name, "delora_lambda", delora.delora_lambda.to_string(), "a number"));
    }
    delora.biases()?;
    Ok(Arc::new(delora))
}

impl DeloraConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "delora_only")
    }

    fn rank_and_lambda(&self, module: &str) -> Result<(usize, f32), EditError> {
        let rank = rank_of(METHOD.name, &self.rank_pattern, module, self.r)?;
        let lambda = number_of((METHOD.name, "lambda_pattern"), &self.lambda_pattern, module, self.delora_lambda)?;
        Ok((rank, lambda as f32))
    }
}

impl Method for DeloraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (self.fields(), INERT),
            self.biases()?,
            |plan, weight| {
                let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
                let (r, lambda) = self.rank_and_lambda(module)?;
                let kaiming = |columns: usize| Init::Uniform { bound: 1.0 / (columns as f32).sqrt() };
                let b = if self.init_weights { Init::Zeros } else { kaiming(r) };
                let name = weight.name.clone();
                let norms = move |base: &Base| match base.weight(&name) {
                    Some(weight) => column_norms(&weight.to_f32()),
                    None => Tensor::zeros([inputs], DType::F32),
                };
                let params = [
                    ParamPlan::new(key(module, "delora_A"), &[r, inputs], kaiming(inputs)),
                    ParamPlan::new(key(module, "delora_B"), &[out, r], b),
                    ParamPlan::new(key(module, "delora_lambda"), &[1], Init::Constant(lambda)).full_precision(),
                    ParamPlan::new(key(module, "delora_w_norm"), &[inputs], Init::Computed(Box::new(norms))).fixed(),
                ];
                plan.on_linear(weight, Bounded { r, dropout: self.module_dropout as f32 }, params);
                Ok(())
            },
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// The Euclidean norm of each column, summed in `f64`.
fn column_norms(matrix: &Tensor) -> Tensor {
    let (_, columns) = matrix.rows_cols();
    let mut squares = vec![0f64; columns];
    for row in matrix.as_slice::<f32>().chunks_exact(columns) {
        squares.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v) * f64::from(*v));
    }
    Tensor::from_slice([columns], &squares.into_iter().map(|sum| sum.sqrt() as f32).collect::<Vec<f32>>())
}

struct Bounded {
    r: usize,
    dropout: f32,
}

impl Bounded {
    /// `Ξ A diag(w)` `[r, in]`.
    fn first(&self, tape: &Tape, values: &[Var]) -> Var {
        let [a, b, lambda, norms] = values else { unreachable!("DeLoRA plans four parameters a map") };
        let floor = Pointwise::Clamp { low: SMALLEST, high: f32::MAX };
        let norm = |rows: &Var| ops::pointwise(tape, &ops::row_norms(tape, rows), floor);
        let lengths = ops::multiply(tape, &norm(a), &norm(&ops::transpose(tape, b)));
        let shares = ops::pointwise(tape, &lengths, Pointwise::Reciprocal);
        let shares = ops::scale_rows(tape, &ops::reshape(tape, &shares, &[1, self.r]), lambda);
        let shares = ops::scale(tape, &ops::reshape(tape, &shares, &[self.r]), 1.0 / self.r as f32);
        ops::scale_columns(tape, &ops::scale_rows(tape, a, &shares), norms)
    }

    fn constant_pair<'a>(&self, values: &'a [Tensor]) -> (Tensor, &'a Tensor) {
        let vars: Vec<Var> = values.iter().cloned().map(Var::constant).collect();
        (self.first(&Tape::off(), &vars).value, &values[1])
    }
}

impl Part for Bounded {
    fn on_linear(&self, at: &At, _linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let a = self.first(&at.cx.tape, at.values);
        LinearEffect::term(LowRank {
            a,
            b: at.values[1].clone(),
            scale: at.strength,
            dropout: dropout(at, self.dropout),
        })
    }

    fn low_rank(&self, values: &[Tensor], _group: Option<u32>) -> Option<LowRankPair> {
        let (a, b) = self.constant_pair(values);
        Some(LowRankPair { a, b: b.clone(), scale: 1.0 })
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let (a, b) = self.constant_pair(merge.values);
        Ok(merge.with_product(1.0, b, &a))
    }
}
