//! DEFT, decompositional efficient fine-tuning (2025, "DEFT: Decompositional Efficient Fine-Tuning for Text-to-Image
//! Models", arXiv 2509.22793): part of what a map gives is taken away, and something trained put in its place,
//! `(I − Q Kᵀ) W + s Q R`.
//!
//! Of a trained `P` `[out, r]`, by `decomposition_method`: `relu`, `Q = P` and `K = max(P, 0)`; `qr`, `Q = K` the orthonormal
//! columns of `P = Q T`, with signs as LAPACK leaves them (each diagonal entry of `T` against the sign of the entry that is
//! eliminated with). `R` `[r, in]`; `s = alpha / r`, 1 without `alpha`. `r` is at most `out`. `para` (PaRa): only the taking
//! away, no `R`.
//!
//! Start: `P` is `N(0, 0.02²)` and `R = Kᵀ W / s`, so the model is unchanged (`init_weights: false`: `N(0, (0.02 init_scale)²)`;
//! `para` cannot start unchanged). Parameters: `r (in + out)` a map. `Kᵀ W` is made anew every step, in `f32`: a quantised base
//! is expanded a matrix at a time. Stacked on other edits, `W` is the model's own weight.

use std::sync::Arc;

use hone_engine::ops::{self, LowRank, Pointwise};
use hone_engine::{DType, Tape, Tensor, Var, WeightRef, matmul};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{base_weight, dropout};
use crate::method::{
    At, Init, LinearEffect, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase,
};
use crate::planning::{Q_AND_V, TargetFields, check_factor, check_probability, check_rank, key};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "deft",
    peft_type: "DEFT",
    family: "low rank",
    summary: "takes a trained subspace out of what a map gives, and puts something trained in its place",
    paper: "arXiv 2509.22793",
    formula: "(I − Q Kᵀ) W + s Q R, Q and K of one P",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse,
    schema: |generator| generator.subschema_for::<DeftConfig>(),
};

/// How `Q` and `K` are made of `P`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decomposition {
    /// `Q = P`, `K = max(P, 0)`.
    Relu,
    /// Both the orthonormal columns of `P`.
    Qr,
}

/// Hugging Face's `DeftConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DeftConfig {
    /// Rank: directions that are replaced.
    pub r: usize,
    /// `relu`, or `qr` for orthogonal directions.
    pub decomposition_method: Decomposition,
    /// Factor of `R`'s first deviation, with `init_weights: false`.
    #[serde(serialize_with = "config::number")]
    pub init_scale: f64,
    /// What is put in is multiplied by `alpha / r`; by 1 if not said.
    pub alpha: Option<i64>,
    /// Only take away, put nothing in (PaRa).
    pub para: bool,
    /// Dropout on the input of `R`.
    pub deft_dropout: f64,
    /// Whether the model is unchanged at the start.
    pub init_weights: bool,
    /// Which biases are trained: `none`, `all`, `deft_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for DeftConfig {
    fn default() -> Self {
        DeftConfig {
            r: 8,
            decomposition_method: Decomposition::Relu,
            init_scale: 1.0,
            alpha: None,
            para: false,
            deft_dropout: 0.0,
            init_weights: true,
            bias: "none".into(),
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[config::TRANSPOSED];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[]);
    let deft: DeftConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    deft.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", deft.r)?;
    check_probability(METHOD.name, "deft_dropout", deft.deft_dropout)?;
    check_factor(METHOD.name, "init_scale", deft.init_scale)?;
    deft.biases()?;
    Ok(Arc::new(deft))
}

impl DeftConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "deft_only")
    }

    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight) {
        let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
        let r = self.r.min(out);
        // As PEFT: no `alpha`, or one of 0, is no factor.
        let scale = self.alpha.filter(|alpha| *alpha != 0).map_or(1.0, |alpha| (alpha as f64 / r as f64) as f32);
        let (method, p_key) = (self.decomposition_method, key(module, "deft_P"));
        let of_p = || Init::Normal { std: 0.02 };
        let mut params = vec![ParamPlan::new(p_key.clone(), &[out, r], of_p()).full_precision()];
        if !self.para {
            let name = weight.name.clone();
            let unchanged = Init::Made(Box::new(move |base, random| {
                // The first `P` again, which this has to agree with.
                let p =
                    ParamPlan::new(p_key.clone(), &[out, r], Init::Normal { std: 0.02 }).first_value(random, base)?;
                let tape = Tape::off();
                let (_, k) = directions(&tape, &Var::constant(p), method);
                let own = base.weight(&name).map(BaseWeight::to_f32);
                let mut first = Tensor::zeros([r, inputs], DType::F32);
                if let Some(own) = own {
                    matmul::matmul_nn_add(&mut first, 1.0 / scale, &ops::transpose(&tape, &k).value, &own);
                }
                Ok(first)
            }));
            let init = match self.init_weights {
                true => unchanged,
                false => Init::Normal { std: (0.02 * self.init_scale) as f32 },
            };
            params.push(ParamPlan::new(key(module, "deft_R"), &[r, inputs], init));
        }
        let part = Replaced { method, scale, dropout: self.deft_dropout as f32 };
        plan.on_linear(weight, part, params);
    }
}

impl Method for DeftConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (fields, biases) = ((self.fields(), INERT), self.biases()?);
        self.targets.plan_with_biases(METHOD.name, base, Q_AND_V, fields, biases, |plan, weight| {
            self.plan_map(plan, weight);
            Ok(())
        })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// `Q` and `K` of `P`, all `[out, r]`.
fn directions(tape: &Tape, p: &Var, method: Decomposition) -> (Var, Var) {
    match method {
        Decomposition::Relu => (p.clone(), ops::pointwise(tape, p, Pointwise::Relu)),
        Decomposition::Qr => {
            let q = orthonormal(tape, p);
            (q.clone(), q)
        }
    }
}

/// The orthonormal columns of `P` `[out, r]`: each column less what of it lies along those before, twice against rounding,
/// over its length.
fn orthonormal(tape: &Tape, p: &Var) -> Var {
    let signs = householder_signs(&p.value);
    let columns = ops::transpose(tape, p);
    let mut q: Vec<Var> = Vec::with_capacity(signs.len());
    for (at, sign) in signs.into_iter().enumerate() {
        let mut own = ops::rows(tape, &columns, at..at + 1);
        if !q.is_empty() {
            let before = ops::concat_rows(tape, &q);
            for _ in 0..2 {
                let along = ops::product(tape, &ops::product_nt(tape, &own, &before), &before);
                own = ops::add_scaled(tape, &own, &along, -1.0);
            }
        }
        let shorter = ops::pointwise(tape, &ops::row_norms(tape, &own), Pointwise::Reciprocal);
        q.push(ops::scale_rows(tape, &own, &ops::scale(tape, &shorter, sign)));
    }
    ops::transpose(tape, &ops::concat_rows(tape, &q))
}

/// The signs that reflections leave on the diagonal of `T` in `P = Q T`: each is against the sign of the entry that is on the
/// diagonal when its column's turn comes.
fn householder_signs(p: &Tensor) -> Vec<f32> {
    let (out, r) = p.rows_cols();
    let mut m: Vec<f64> = p.as_slice::<f32>().iter().map(|v| f64::from(*v)).collect();
    let mut signs = Vec::with_capacity(r);
    for at in 0..r.min(out) {
        let below: f64 = (at + 1..out).map(|row| m[row * r + at].powi(2)).sum();
        let pivot = m[at * r + at];
        // Nothing left to eliminate: LAPACK leaves the column as it is.
        if below == 0.0 {
            signs.push(if pivot < 0.0 { -1.0 } else { 1.0 });
            continue;
        }
        let length = (below + pivot * pivot).sqrt();
        let diagonal = if pivot < 0.0 { length } else { -length };
        signs.push(diagonal.signum() as f32);
        let mut v: Vec<f64> = (at..out).map(|row| m[row * r + at]).collect();
        v[0] -= diagonal;
        let square: f64 = v.iter().map(|x| x * x).sum();
        for column in at..r {
            let dot: f64 = v.iter().enumerate().map(|(i, x)| x * m[(at + i) * r + column]).sum();
            for (i, x) in v.iter().enumerate() {
                m[(at + i) * r + column] -= 2.0 * dot / square * x;
            }
        }
    }
    signs
}

/// What is taken away and put in at one map. Parameters: `P`, `R` (not for PaRa).
struct Replaced {
    method: Decomposition,
    scale: f32,
    dropout: f32,
}

impl Part for Replaced {
    fn on_linear(&self, at: &At, linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let tape = &at.cx.tape;
        let make = || {
            let (q, k) = directions(tape, &at.values[0], self.method);
            let taken = ops::product_tn(tape, &k, &Var::constant(base_weight(linear)));
            vec![ops::convert(tape, &q, at.cx.dtype), ops::convert(tape, &taken, at.cx.dtype)]
        };
        let [q, taken] = at.once_a_group(at.group, make).try_into().unwrap_or_else(|_| unreachable!("two are made"));
        let mut terms = vec![LowRank { a: taken, b: q.clone(), scale: -at.strength, dropout: None }];
        if let Some(r) = at.values.get(1) {
            let scale = self.scale * at.strength;
            terms.push(LowRank { a: r.clone(), b: q, scale, dropout: dropout(at, self.dropout) });
        }
        LinearEffect::Fused { weight: None, terms }
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let tape = Tape::off();
        let values = merge.constants();
        let (q, k) = directions(&tape, &values[0], self.method);
        let taken = ops::product_tn(&tape, &k, &Var::constant(merge.base()?.clone()));
        let kept = ops::scale(&tape, &taken, -1.0);
        let change = match values.get(1) {
            Some(r) => ops::add_scaled(&tape, &kept, r, self.scale),
            None => kept,
        };
        Ok(merge.with_product(1.0, &q.value, &change.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_orthonormal_and_signed_as_lapack_signs_them() {
        // numpy.linalg.qr([[1, 2], [2, -1], [2, 3]]).
        let p = Tensor::from_slice([3, 2], &[1.0f32, 2.0, 2.0, -1.0, 2.0, 3.0]);
        let q = orthonormal(&Tape::off(), &Var::constant(p)).value.to_vec_f32();
        let expected = [-0.333_333_34f32, 0.421_637, -0.666_666_7, -0.737_864_8, -0.666_666_7, 0.527_046_3];
        for (value, expected) in q.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{q:?}");
        }
    }
}
