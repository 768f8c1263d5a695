//! OSF, orthogonal subspace fine-tuning (Nayak et al. 2025, "Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for
//! Continual Learning", arXiv 2504.07097): of a weight's singular directions the large ones stay as they are, and the small
//! ones are trained: `W = U_h S_h V_h + U S V`, `U`, `S`, `V` trained from the weight's own.
//!
//! The first `k` directions (`effective_rank`: a number, or a share of the smaller side; half of it if not said) are kept;
//! `U` `[out, m]`, `S` `[m]`, `V` `[m, in]` with `m = min(in, out) − k`. Runs as `W + U S V − U₀ S₀ V₀`, so a quantised base
//! stays quantised. While it is trained, what of the gradients of `U` and `V` points along the kept directions is taken
//! away ([`TrainingRules::gradients`]), so that what is learnt does not overwrite them: `U ← U − η (I − U_h U_hᵀ) ∂U` with
//! plain descent. AdamW, which divides by each entry's own scale, does not keep the step in that space, here as in PEFT.
//!
//! Start: the weight's own values, so the model is unchanged. Parameters: `m (in + out + 1)` a map, many. `U₀`, `S₀`, `V₀` and
//! what the rule needs lie in `hone.safetensors`, and are computed again where that is missing: an adapter of PEFT's own.
//! `target_svd_config`, which PEFT ignores, is refused.

use std::sync::{Arc, OnceLock};

use hone_engine::ops::{self, LowRank};
use hone_engine::{DType, Tape, Tensor, Var, WeightRef, matmul};
use hone_model::Linear;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::config::{self, Inert};
use crate::decompose::{DecomposeError, Svd, svd};
use crate::error::EditError;
use crate::method::{
    At, Edit, Init, LinearEffect, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase,
};
use crate::planning::{Q_AND_V, TargetFields, key, wrong};
use crate::training::{EditGradients, Moment, TrainingRules};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "osf",
    peft_type: "OSF",
    family: "orthogonal and spectral",
    summary: "a weight's small singular directions, trained beside the large ones and not over them",
    paper: "arXiv 2504.07097",
    formula: "U_h S_h V_h + U S V, of W's own directions",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<OsfConfig>(),
};

/// Hugging Face's `OSFConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OsfConfig {
    /// Directions that are kept: a number, or with a decimal point a share of the smaller side, above 0 and up to 1; half of
    /// it if not said.
    pub effective_rank: Option<Value>,
    /// Other numbers or shares by regular expression, found anywhere in a map's path; the first that is counts.
    pub rank_pattern: Option<Map<String, Value>>,
    /// Whether the model is unchanged at the start; `false`: normal numbers, for tests.
    pub init_weights: Option<bool>,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

const INERT: &[Inert] = &[Inert {
    field: "target_svd_config",
    off: &["null"],
    reason: "PEFT ignores it; say the ranks in `effective_rank` and `rank_pattern`",
}];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[]);
    let osf: OsfConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    osf.targets.check(METHOD.name)?;
    if let Some(rank) = &osf.effective_rank {
        kept_of("effective_rank", rank, usize::MAX)?;
    }
    for (pattern, rank) in osf.rank_pattern.iter().flatten() {
        kept_of("rank_pattern", rank, usize::MAX)?;
        compiled(pattern)?;
    }
    Ok(Arc::new(osf))
}

/// How many of `most` directions `rank` keeps.
fn kept_of(field: &str, rank: &Value, most: usize) -> Result<usize, EditError> {
    match (rank.as_u64(), rank.as_f64()) {
        (Some(count @ 1..), _) => Ok((count as usize).min(most)),
        (None, Some(share)) if share > 0.0 && share <= 1.0 => Ok((most as f64 * share) as usize),
        _ => {
            let expected = "a number of 1 or more, or a share above 0.0, up to 1.0";
            Err(wrong(METHOD.name, field, rank.to_string(), expected))
        }
    }
}

fn compiled(pattern: &str) -> Result<Regex, EditError> {
    let builder = regex::RegexBuilder::new(pattern).size_limit(1 << 20).build();
    builder.map_err(|error| {
        let why = error.to_string();
        let expected = format!("regular expressions ({})", why.lines().last().unwrap_or_default().trim());
        wrong(METHOD.name, "rank_pattern", format!("`{pattern}`"), expected)
    })
}

impl OsfConfig {
    /// The directions of `weight` that are kept: at least one, and not all.
    fn kept(&self, weight: &BaseWeight) -> Result<usize, EditError> {
        let (module, most) = (weight.module(), weight.shape[0].min(weight.shape[1]));
        let (mut field, mut rank) = ("effective_rank", self.effective_rank.as_ref());
        for (pattern, other) in self.rank_pattern.iter().flatten() {
            if compiled(pattern)?.is_match(module) {
                (field, rank) = ("rank_pattern", Some(other));
                break;
            }
        }
        let kept = rank.map_or(Ok(most / 2), |rank| kept_of(field, rank, most))?;
        if kept == 0 || kept >= most {
            let found = rank.map_or("half".to_string(), Value::to_string);
            let expected = format!("1 to {} directions kept of the {most} that `{module}` has", most.saturating_sub(1));
            return Err(wrong(METHOD.name, field, found, expected));
        }
        Ok(kept)
    }

    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
        let split = Split { name: weight.name.clone(), kept: self.kept(weight)?, found: Arc::default() };
        let trained = out.min(inputs) - split.kept;
        let init = |which: fn(&Halves) -> &Tensor| {
            let split = split.clone();
            Init::Made(Box::new(move |base, _| split.get(base).map(|halves| which(halves).clone())))
        };
        let first = |which: fn(&Halves) -> &Tensor| match self.init_weights {
            Some(false) => Init::Normal { std: 1.0 },
            _ => init(which),
        };
        let own = |name: &str, shape: &[usize], which: fn(&Halves) -> &Tensor| {
            ParamPlan::new(key(module, &format!("osf_svd_params.{name}")), shape, first(which))
        };
        let frozen = |name: &str, shape: &[usize], which: fn(&Halves) -> &Tensor| {
            ParamPlan::new(key(module, name), shape, init(which)).fixed().beside()
        };
        let (u, s, v): (_, _, [fn(&Halves) -> &Tensor; 3]) =
            ([out, trained], [trained], [|h| &h.u, |h| &h.s, |h| &h.v]);
        let shape_v = [trained, inputs];
        let mut params = vec![
            own("U_low", &u, v[0]),
            own("S_low", &s, v[1]),
            own("V_low", &shape_v, v[2]),
            frozen("osf_U_low_init", &u, v[0]),
            frozen("osf_S_low_init", &s, v[1]),
            frozen("osf_V_low_init", &shape_v, v[2]),
        ];
        // On the smaller side the trained directions span all that the kept ones do not.
        match out.cmp(&inputs) {
            std::cmp::Ordering::Greater => params.push(frozen("osf_U_high", &[out, split.kept], |h| &h.u_kept)),
            std::cmp::Ordering::Less => params.push(frozen("osf_V_high", &[split.kept, inputs], |h| &h.v_kept)),
            std::cmp::Ordering::Equal => {}
        }
        plan.on_linear(weight, Directions, params);
        Ok(())
    }
}

/// Singular directions of a weight.
struct Halves {
    u: Tensor,
    s: Tensor,
    v: Tensor,
    u_kept: Tensor,
    v_kept: Tensor,
}

/// Finds them when the first is asked for.
#[derive(Clone)]
struct Split {
    name: String,
    kept: usize,
    found: Arc<OnceLock<Result<Halves, DecomposeError>>>,
}

impl Split {
    fn get(&self, base: &Base) -> Result<&Halves, EditError> {
        let found = self.found.get_or_init(|| {
            let weight = base.weight(&self.name).map(BaseWeight::to_f32);
            Ok(self.halves(&svd(&weight.unwrap_or_else(|| Tensor::zeros([0, 0], DType::F32)))?))
        });
        found.as_ref().map_err(|error| error.clone().into())
    }

    fn halves(&self, all: &Svd) -> Halves {
        let count = all.s.len();
        let kept = self.kept.min(count);
        let columns = |range: std::ops::Range<usize>| {
            let (rows, width) = all.u.rows_cols();
            let values =
                all.u.as_slice::<f32>().chunks_exact(width.max(1)).flat_map(|row| &row[range.clone()]).copied();
            Tensor::from_slice([rows, range.len()], &values.collect::<Vec<f32>>())
        };
        Halves {
            u: columns(kept..count),
            s: Tensor::from_slice([count - kept], &all.s[kept..]),
            v: all.vt.narrow(kept..count),
            u_kept: columns(0..kept),
            v_kept: all.vt.narrow(0..kept),
        }
    }
}

impl Method for OsfConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.targets
            .plan(METHOD.name, base, Q_AND_V, (self.fields(), INERT), |plan, weight| self.plan_map(plan, weight))
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn training(&self, _edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        Some(Box::new(AroundTheKept))
    }
}

/// The trained directions of one map, and what they were. Parameters: `U`, `S`, `V`, `U₀`, `S₀`, `V₀`, and on the longer side
/// the kept ones, which only the rule reads.
struct Directions;

fn scaled(tape: &Tape, u: &Var, s: &Var) -> Var {
    ops::scale_columns(tape, u, s)
}

impl Part for Directions {
    fn on_linear(&self, at: &At, _linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let [u, s, v, u0, s0, v0, ..] = at.values else { unreachable!("OSF plans six parameters a map or more") };
        let tape = &at.cx.tape;
        let term = |u: &Var, s: &Var, v: &Var, scale: f32| LowRank {
            a: v.clone(),
            b: scaled(tape, u, s),
            scale: scale * at.strength,
            dropout: None,
        };
        LinearEffect::Fused { weight: None, terms: vec![term(u, s, v, 1.0), term(u0, s0, v0, -1.0)] }
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let values = merge.constants();
        let [u, s, v, u0, s0, v0, ..] = values.as_slice() else {
            unreachable!("OSF plans six parameters a map or more")
        };
        let tape = Tape::off();
        let mut out = merge.with_product(1.0, &scaled(&tape, u, s).value, &v.value);
        let scale = -merge.direction.sign() * merge.strength;
        matmul::matmul_nn_add(&mut out, scale, &scaled(&tape, u0, s0).value, &v0.value);
        Ok(out)
    }
}

/// Takes out of gradients what points along the kept directions.
struct AroundTheKept;

/// `(I − H Hᵀ) g`; `kept` is `H`, or if there is none `rest` spans what it does not: `R Rᵀ g`.
fn around_columns(gradient: &Tensor, kept: Option<&Tensor>, rest: &Tensor) -> Tensor {
    let basis = kept.unwrap_or(rest);
    let along = matmul::matmul_tn(basis, gradient, DType::F32);
    match kept {
        None => matmul::matmul_nn(basis, &along, DType::F32),
        Some(_) => {
            let mut around = gradient.clone();
            matmul::matmul_nn_add(&mut around, -1.0, basis, &along);
            around
        }
    }
}

/// `g (I − Hᵀ H)`, or `g Rᵀ R`.
fn around_rows(gradient: &Tensor, kept: Option<&Tensor>, rest: &Tensor) -> Tensor {
    let basis = kept.unwrap_or(rest);
    let along = matmul::matmul_nt(gradient, basis, DType::F32);
    match kept {
        None => matmul::matmul_nn(&along, basis, DType::F32),
        Some(_) => {
            let mut around = gradient.clone();
            matmul::matmul_nn_add(&mut around, -1.0, &along, basis);
            around
        }
    }
}

impl TrainingRules for AroundTheKept {
    fn gradients(&mut self, edit: &Edit, gradients: &mut EditGradients, _moment: &Moment) {
        for placed in &edit.placed {
            let [u, _, v, u0, _, v0, high @ ..] = placed.params.as_slice() else { continue };
            if !edit.params[*u].key.ends_with("osf_svd_params.U_low") {
                continue;
            }
            let kept = |name: &str| {
                let param = high.first().map(|high| &edit.params[*high]);
                param.filter(|param| param.key.ends_with(name)).map(|param| &param.value)
            };
            if let Some(gradient) = gradients.get_mut(*u) {
                *gradient = around_columns(gradient, kept("osf_U_high"), &edit.params[*u0].value);
            }
            if let Some(gradient) = gradients.get_mut(*v) {
                *gradient = around_rows(gradient, kept("osf_V_high"), &edit.params[*v0].value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hone_engine::RandomKey;

    use super::*;

    fn normal(name: &str, shape: [usize; 2]) -> Tensor {
        let key = RandomKey::new(4).named(name);
        let values: Vec<f32> = (0..(shape[0] * shape[1]) as u64).map(|i| key.normal(i)).collect();
        Tensor::from_slice(shape, &values)
    }

    fn largest(tensor: &Tensor) -> f32 {
        tensor.as_slice::<f32>().iter().fold(0.0, |most, v| v.abs().max(most))
    }

    /// Of both sides of a `[7, 5]` matrix: what is left is orthogonal to the kept directions, stays what it is when it is
    /// taken again, and is the same by the kept directions and by the others where those span the rest.
    #[test]
    fn gradients_lose_what_points_along_the_kept_directions() {
        let split = Split { name: String::new(), kept: 2, found: Arc::default() };
        let halves = split.halves(&svd(&normal("weight", [7, 5])).unwrap());
        let (du, dv) = (normal("u", [7, 3]), normal("v", [3, 5]));
        let u = around_columns(&du, Some(&halves.u_kept), &halves.u);
        assert!(largest(&matmul::matmul_tn(&halves.u_kept, &u, DType::F32)) < 1e-5);
        assert!(largest(&matmul::matmul_tn(&halves.u_kept, &du, DType::F32)) > 0.1);
        let by_kept = around_rows(&dv, Some(&halves.v_kept), &halves.v);
        let by_rest = around_rows(&dv, None, &halves.v);
        let again = around_rows(&by_kept, None, &halves.v);
        for other in [by_rest, again] {
            let apart = by_kept.as_slice::<f32>().iter().zip(other.as_slice::<f32>()).map(|(a, b)| (a - b).abs());
            assert!(apart.fold(0.0, f32::max) < 1e-5);
        }
        assert!(largest(&matmul::matmul_nt(&by_kept, &halves.v_kept, DType::F32)) < 1e-5);
    }

    #[test]
    fn ranks_are_numbers_or_shares() {
        let kept = |rank: Value, most: usize| kept_of("effective_rank", &rank, most).ok();
        assert_eq!(kept(4.into(), 16), Some(4));
        assert_eq!(kept(0.3.into(), 16), Some(4));
        assert_eq!(kept(1.into(), 16), Some(1));
        assert_eq!(kept(1.0.into(), 16), Some(16));
        assert_eq!(kept(0.into(), 16), None);
        assert_eq!(kept(1.5.into(), 16), None);
    }
}
