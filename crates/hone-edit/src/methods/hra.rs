//! HRA: a chain of Householder reflections of a frozen map's input (Yuan, Liu and Xu 2024, arXiv 2405.17484).
//!
//! `W' = W H`, `H = Π_j (I − 2 u_j u_jᵀ)` over `r` unit vectors, the columns of `U` `[in, r]` divided by their norms. With
//! `apply_GS` they are made orthogonal first (Gram–Schmidt, in order), so that `H = I − 2 Û Ûᵀ`.
//!
//! Neither product is run one reflection at a time. With `V = Uᵀ` (unit rows) and `G = V Vᵀ`, both are `H = I − Vᵀ T V`:
//!
//! - a chain has `T = (I / 2 + strictly upper part of G)⁻¹`, the compact form of Schreiber and Van Loan (1989);
//! - Gram–Schmidt spans what `U` spans, so `Û Ûᵀ = Vᵀ G⁻¹ V` and `T = 2 G⁻¹`.
//!
//! Shapes: `hra_u` `[in, r]`. Parameters: `r in` a map. First value: pairs of equal columns, whose reflections cancel (the
//! identity), for an even `r`; for an odd one, or with `apply_GS` (where equal columns leave nothing to divide by), columns of their
//! own, which is *not* the identity. PEFT has the pairs with `apply_GS` as well and starts from rounding errors.

use std::sync::Arc;

use hone_engine::{DType, RandomKey, Tape, Tensor, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{Applied, InputMap, InputMapPart};
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_rank, key, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "hra",
    peft_type: "HRA",
    family: "orthogonal",
    summary: "reflects the input of each frozen map at r trained hyperplanes",
    paper: "arXiv 2405.17484",
    formula: "W Π (I − 2 u uᵀ)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<HraConfig>(),
};

/// Hugging Face's `HRAConfig`, the honoured fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HraConfig {
    /// Reflections; an even number starts at the identity.
    pub r: usize,
    /// Orthogonal reflections.
    #[serde(rename = "apply_GS")]
    pub apply_gs: bool,
    /// `true`: pairs of equal columns; `false`: all of their own, for tests.
    pub init_weights: bool,
    /// Which biases are trained: `none`, `all`, `hra_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for HraConfig {
    fn default() -> Self {
        HraConfig { r: 8, apply_gs: false, init_weights: true, bias: "none".into(), targets: TargetFields::default() }
    }
}

const INERT: &[Inert] = &[];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[]);
    let hra: HraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    hra.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", hra.r)?;
    hra.biases()?;
    Ok(Arc::new(hra))
}

impl HraConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "hra_only")
    }

    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (inputs, module) = (weight.shape[1], weight.module());
        if self.r > inputs {
            let expected = format!("at most {inputs} reflections, the inputs of `{module}`");
            return Err(wrong(METHOD.name, "r", self.r.to_string(), expected));
        }
        let paired = self.init_weights && !self.apply_gs && self.r.is_multiple_of(2);
        let (r, drawn) = (self.r, if paired { self.r / 2 } else { self.r });
        let init = Init::Drawn(Box::new(move |random: RandomKey| {
            // Kaiming-uniform over the columns drawn, each standing once or twice.
            let bound = 1.0 / (drawn as f32).sqrt();
            let value = |at: usize| {
                let column = (at / r * drawn + at % r * drawn / r) as u64;
                (2.0 * random.uniform(column) - 1.0) * bound
            };
            Tensor::from_slice([inputs, r], &(0..inputs * r).map(value).collect::<Vec<_>>())
        }));
        let param = ParamPlan::new(key(module, "hra_u"), &[inputs, r], init).full_precision().without_decay();
        plan.on_linear(weight, InputMapPart(Reflections { orthogonal: self.apply_gs }), [param]);
        Ok(())
    }
}

impl Method for HraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (config::to_map(self), INERT),
            self.biases()?,
            |plan, weight| self.plan_map(plan, weight),
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// `R = Hᵀ`: what `W H` does to the input. The one value is `U`, `f32`.
struct Reflections {
    orthogonal: bool,
}

impl Reflections {
    /// `(V, T)`, `[r, in]` and `[r, r]`.
    fn compact(&self, tape: &Tape, u: &Var) -> (Var, Var) {
        let rows = ops::transpose(tape, u);
        let norms = ops::row_norms(tape, &rows);
        let v = ops::scale_rows(tape, &rows, &ops::pointwise(tape, &norms, ops::Pointwise::Reciprocal));
        let gram = ops::product_nt(tape, &v, &v);
        let r = gram.value.dim(0);
        // `cayley(A) + I = 2 (I + A)⁻¹`: of `A = 2 upper(G)` it is `(I / 2 + upper(G))⁻¹`, of `A = G − I` it is `2 G⁻¹`.
        let shifted = match self.orthogonal {
            true => ops::add_scaled(tape, &gram, &Var::constant(identity(r)), -1.0),
            false => ops::multiply(tape, &gram, &Var::constant(twice_upper(r))),
        };
        let inverse = ops::cayley(tape, &ops::reshape(tape, &shifted, &[1, r, r]));
        let t = ops::add(tape, &ops::reshape(tape, &inverse, &[r, r]), &Var::constant(identity(r)));
        (v, t)
    }
}

impl InputMap for Reflections {
    fn apply(&self, tape: &Tape, values: &[Var], x: &Var, applied: Applied, _noise: Option<RandomKey>) -> Var {
        let (v, t) = self.compact(tape, &values[0]);
        // Forward `x Hᵀ = x − (x Vᵀ) Tᵀ V`; a merged weight is `W H = W − (W Vᵀ) T V`.
        let outer = match applied {
            Applied::Merged => ops::product(tape, &t, &v),
            Applied::Forward | Applied::Unmerged => ops::product_tn(tape, &t, &v),
        };
        let dtype = x.value.dtype();
        let inner = ops::product_nt(tape, x, &ops::convert(tape, &v, dtype));
        let change = ops::product(tape, &inner, &ops::convert(tape, &outer, dtype));
        ops::add_scaled(tape, x, &change, -1.0)
    }
}

fn identity(r: usize) -> Tensor {
    let values: Vec<f32> = (0..r * r).map(|at| f32::from(at / r == at % r)).collect();
    Tensor::from_slice([r, r], &values)
}

/// 2 above the diagonal, 0 elsewhere.
fn twice_upper(r: usize) -> Tensor {
    let mut out = Tensor::zeros([r, r], DType::F32);
    let places = out.as_mut_slice::<f32>().iter_mut().enumerate();
    places.filter(|(at, _)| at % r > at / r).for_each(|(_, v)| *v = 2.0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One reflection after the other, in `f64`: `x H_{r-1} … H_0`, the input's side of `W H`.
    fn reflected(x: &[f32], u: &[f32], r: usize, orthogonal: bool) -> Vec<f64> {
        let inputs = u.len() / r;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut units: Vec<Vec<f64>> = Vec::new();
        for j in 0..r {
            let mut column: Vec<f64> = (0..inputs).map(|i| f64::from(u[i * r + j])).collect();
            for unit in units.iter().filter(|_| orthogonal) {
                let along = dot(unit, &column);
                column.iter_mut().zip(unit).for_each(|(c, u)| *c -= along * u);
            }
            let norm = dot(&column, &column).sqrt();
            units.push(column.iter().map(|c| c / norm).collect());
        }
        let mut x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        for unit in units.iter().rev() {
            let along = dot(unit, &x);
            x.iter_mut().zip(unit).for_each(|(x, u)| *x -= 2.0 * along * u);
        }
        x
    }

    #[test]
    fn the_compact_form_is_the_chain_of_reflections() {
        let random = RandomKey::new(5);
        let (inputs, r) = (12, 5);
        let draw = |n: usize, from: u64| (0..n as u64).map(|i| random.normal(from + i)).collect::<Vec<f32>>();
        let (u, x) = (draw(inputs * r, 0), draw(inputs, 1000));
        for orthogonal in [false, true] {
            let part = Reflections { orthogonal };
            let values = [Var::constant(Tensor::from_slice([inputs, r], &u))];
            let row = Var::constant(Tensor::from_slice([1, inputs], &x));
            let apply = |x: &Var, applied| part.apply(&Tape::off(), &values, x, applied, None);
            let ours = apply(&row, Applied::Forward);
            let theirs = reflected(&x, &u, r, orthogonal);
            let values = ours.value.to_vec_f32();
            let apart = values.iter().zip(&theirs).map(|(a, b)| (f64::from(*a) - b).abs());
            let apart = apart.fold(0.0, f64::max);
            assert!(apart < 1e-5, "{apart}");
            let back = apply(&ours, Applied::Merged).value.to_vec_f32();
            let apart = back.iter().zip(&x).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-5, "{apart}");
        }
    }
}
