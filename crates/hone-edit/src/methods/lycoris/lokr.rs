//! LoKr (Edalati et al. 2022, KronA, arXiv 2212.10650; LyCORIS, arXiv 2309.14859): `W + s · w1 ⊗ w2`, a Kronecker product,
//! its second factor (and with `decompose_both` its first) low-rank where that is smaller. `s = alpha / r`, whether or not
//! a factor is.
//!
//! `out = o1 o2` and `in = i1 i2` are split near their square roots (`decompose_factor: -1`) or near the given factor; `w1`
//! is `[o1, i1]`, `w2` `[o2, i2]`. `w1 = w1a w1b` if `decompose_both` and `r < max(o1, i1) / 2`; `w2 = w2a w2b` if `r <
//! max(o2, i2) / 2`. Start: `w1` (or `w1a`) 0, the rest Kaiming-uniform (`U(±1/√columns)`); with `init_weights: lycoris`
//! `w2` (or `w2b`) is 0 instead. Parameters a map: those of the two factors.

use std::sync::Arc;

use hone_engine::{Tape, Tensor, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{INERT, LycorisFields, kaiming, recommend};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::forms::Delta;
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, key, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "lokr",
    peft_type: "LOKR",
    family: "low rank",
    summary: "a Kronecker product of two small matrices beside each map",
    paper: "arXiv 2212.10650, 2309.14859",
    formula: "W + s w1 ⊗ w2",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<LokrConfig>(),
};

/// Hugging Face's `LoKrConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LokrConfig {
    /// Ranks, scales and dropouts.
    #[serde(flatten)]
    pub lycoris: LycorisFields,
    /// Whether rows that `rank_dropout` leaves are divided by their share.
    pub rank_dropout_scale: bool,
    /// Whether the first factor may be low-rank too.
    pub decompose_both: bool,
    /// Near which size the first factor is cut; -1 is the square root.
    pub decompose_factor: i64,
    /// `true`: the first factor starts at 0; `"lycoris"`: the second; `false`: neither, for tests.
    pub init_weights: InitLokr,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

/// Which factor starts at 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "true, false, or `lycoris`")]
pub enum InitLokr {
    /// The first, or none.
    Standard(bool),
    /// A named one: `lycoris`.
    Named(String),
}

impl Default for LokrConfig {
    fn default() -> Self {
        LokrConfig {
            lycoris: LycorisFields::default(),
            rank_dropout_scale: false,
            decompose_both: false,
            decompose_factor: -1,
            init_weights: InitLokr::Standard(true),
            targets: TargetFields::default(),
        }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        recommend(&mut fields);
    }
    let lokr: LokrConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    lokr.lycoris.check(METHOD.name)?;
    lokr.targets.check(METHOD.name)?;
    if lokr.decompose_factor == 0 || lokr.decompose_factor < -1 {
        let found = lokr.decompose_factor.to_string();
        return Err(wrong(METHOD.name, "decompose_factor", found, "-1 or a size of 1 or more"));
    }
    if let InitLokr::Named(word) = &lokr.init_weights
        && word != "lycoris"
    {
        return Err(wrong(METHOD.name, "init_weights", format!("`{word}`"), "`true`, `false` or `lycoris`"));
    }
    Ok(Arc::new(lokr))
}

/// `size` as a product of two: with a `factor` that divides it, that one first; else the largest divisor up to `factor` (or
/// up to the square root) that keeps the sum of the two no larger than `size + 1`, the smaller first. What LyCORIS does.
fn split(size: usize, factor: i64) -> (usize, usize) {
    if factor > 0 && size.is_multiple_of(factor as usize) {
        return (factor as usize, size / factor as usize);
    }
    let most = if factor < 0 { size } else { factor as usize };
    let (mut m, mut n) = (1, size);
    while m < n {
        let Some(next) = (m + 1..=size).find(|d| size.is_multiple_of(*d)) else { break };
        if next > most || next + size / next > size + 1 {
            break;
        }
        (m, n) = (next, size / next);
    }
    (m.min(n), m.max(n))
}

impl LokrConfig {
    /// First values of the factors that start at 0 by one rule or the other, and of all others.
    fn first_values(&self) -> (fn(usize) -> Init, fn(usize) -> Init) {
        let zeros: fn(usize) -> Init = |_| Init::Zeros;
        match &self.init_weights {
            InitLokr::Standard(true) => (zeros, kaiming),
            InitLokr::Standard(false) => (kaiming, kaiming),
            InitLokr::Named(_) => (kaiming, zeros),
        }
    }
}

impl Method for LokrConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.targets.plan(METHOD.name, base, Q_AND_V, (self.fields(), INERT), |plan, weight| {
            let module = weight.module();
            let (r, scale) = self.lycoris.rank_and_scale(METHOD.name, weight)?;
            let (o1, o2) = split(weight.shape[0], self.decompose_factor);
            let (i1, i2) = split(weight.shape[1], self.decompose_factor);
            let (of_first, of_second) = self.first_values();
            let first_whole = !(self.decompose_both && 2 * r < o1.max(i1));
            let second_whole = 2 * r >= o2.max(i2);
            let mut factors = match first_whole {
                true => vec![ParamPlan::new(key(module, "lokr_w1"), &[o1, i1], of_first(i1))],
                false => vec![
                    ParamPlan::new(key(module, "lokr_w1_a"), &[o1, r], of_first(r)),
                    ParamPlan::new(key(module, "lokr_w1_b"), &[r, i1], kaiming(i1)),
                ],
            };
            match second_whole {
                true => factors.push(ParamPlan::new(key(module, "lokr_w2"), &[o2, i2], of_second(i2))),
                false => factors.extend([
                    ParamPlan::new(key(module, "lokr_w2_a"), &[o2, r], kaiming(r)),
                    ParamPlan::new(key(module, "lokr_w2_b"), &[r, i2], of_second(i2)),
                ]),
            }
            let delta = Kronecker { scale, first_whole };
            plan.on_linear(weight, self.lycoris.part(delta, self.rank_dropout_scale), factors);
            Ok(())
        })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// `s w1 ⊗ w2`.
struct Kronecker {
    scale: f32,
    /// Whether the first factor is one matrix.
    first_whole: bool,
}

impl Delta for Kronecker {
    fn delta(&self, tape: &Tape, values: &[Var], _weight: &dyn Fn() -> Tensor) -> Var {
        let whole = |factors: &[Var]| match factors {
            [a, b] => ops::product(tape, a, b),
            factors => factors[0].clone(),
        };
        let (first, second) = values.split_at(if self.first_whole { 1 } else { 2 });
        ops::scale(tape, &ops::kronecker(tape, &whole(first), &whole(second)), self.scale)
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    /// `peft.tuners.lokr.layer.factorization`.
    #[test]
    fn sizes_are_split_as_peft_splits_them() {
        assert_eq!(split(32, -1), (4, 8));
        assert_eq!(split(48, -1), (6, 8));
        assert_eq!(split(16, -1), (4, 4));
        assert_eq!(split(32, 3), (2, 16));
        assert_eq!(split(32, 8), (8, 4));
        assert_eq!(split(7, -1), (1, 7));
        assert_eq!(split(576, -1), (24, 24));
        assert_eq!(split(1536, -1), (32, 48));
    }
}
