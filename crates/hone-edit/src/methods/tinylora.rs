//! TinyLoRA (Morris et al. 2026, "Learning to Reason in 13 Parameters", arXiv 2602.04118): `W + B R A` with `R = Σ_i v_i P_i`,
//! where `A`, `B` are the base weight's own leading singular directions, the `P_i` random, and only `v` is trained.
//!
//! Of `W ≈ U S Vᵀ`, cut to rank `r` (or to the map's smaller side): `A = √S Vᵀ` `[r, in]`, `B = U √S` `[out, r]`; `P`
//! `[u, r, r]` is `N(0, 1/r)`, drawn as PyTorch draws it from `projection_seed` plus the number of the map; `v` `[u]`.
//! With `weight_tying` `t` the `n` maps, in their order in the model, share `max(1, round(n (1 − t)))` vectors: runs of
//! equal length, the last with what is left over. `A` and `B` are always in the file, since the signs of singular vectors
//! are anyone's choice; `P` is with `save_projection`, and made again without. Start: `v = 0`, so the model is unchanged
//! (`init_weights: uniform`: `U(±init_v_bound)`). Parameters: `u` a vector.
//!
//! A fresh edit decomposes every targeted map once, which reads (and expands) the base's values. Embedding tables, which PEFT
//! also takes, are refused.

use std::sync::{Arc, OnceLock};

use hone_engine::{Tape, Tensor, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::decompose::{DecomposeError, svd};
use crate::error::EditError;
use crate::forms::{MadePair, MadePairPart};
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_probability, check_rank, key, wrong};
use crate::torch_random::TorchRandom;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "tinylora",
    peft_type: "TINYLORA",
    family: "low rank",
    summary: "a handful of trained numbers that mix random matrices between a weight's own singular directions",
    paper: "arXiv 2602.04118",
    formula: "W + B (Σ_i v_i P_i) A, of W ≈ B A",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<TinyLoraConfig>(),
};

/// Hugging Face's `TinyLoraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TinyLoraConfig {
    /// Singular directions of a map.
    pub r: usize,
    /// Length of a trained vector.
    pub u: usize,
    /// How far maps share vectors: 0 for one each, 1 for one in all.
    pub weight_tying: f64,
    /// Seed of the random matrices.
    pub projection_seed: u64,
    /// Whether the file holds the random matrices.
    pub save_projection: bool,
    /// Half the width of a vector's first values, with `init_weights: uniform`.
    pub init_v_bound: f64,
    /// `true`: the model is unchanged at the start; `uniform`: it is not.
    pub init_weights: StartOfVector,
    /// Dropout on the input of `A`.
    pub tinylora_dropout: f64,
    /// Which biases are trained: `none`, `all`, `tinylora_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

/// First values of the vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "true, or `uniform`")]
pub enum StartOfVector {
    /// Zeros; `false` is whatever PEFT finds in memory.
    Zeros(bool),
    /// `uniform`.
    Named(String),
}

impl Default for TinyLoraConfig {
    fn default() -> Self {
        TinyLoraConfig {
            r: 2,
            u: 64,
            weight_tying: 0.0,
            projection_seed: 42,
            save_projection: true,
            init_v_bound: 0.02,
            init_weights: StartOfVector::Zeros(true),
            tinylora_dropout: 0.0,
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
    let tinylora: TinyLoraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    tinylora.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", tinylora.r)?;
    check_rank(METHOD.name, "u", tinylora.u)?;
    check_probability(METHOD.name, "tinylora_dropout", tinylora.tinylora_dropout)?;
    if !(0.0..=1.0).contains(&tinylora.weight_tying) {
        return Err(wrong(METHOD.name, "weight_tying", tinylora.weight_tying.to_string(), "a share from 0 to 1"));
    }
    match &tinylora.init_weights {
        StartOfVector::Zeros(true) => {}
        StartOfVector::Named(word) if word == "uniform" => {}
        // Of an adapter that is read, the start does not matter.
        StartOfVector::Zeros(false) if origin == Origin::File => {}
        StartOfVector::Zeros(false) => {
            let expected = "`true` or `uniform`: `false` leaves the start to what lies in memory";
            return Err(wrong(METHOD.name, "init_weights", "`false`", expected));
        }
        StartOfVector::Named(word) => {
            return Err(wrong(METHOD.name, "init_weights", format!("`{word}`"), "`true` or `uniform`"));
        }
    }
    tinylora.biases()?;
    Ok(Arc::new(tinylora))
}

/// `√S Vᵀ` and `U √S` of a weight, found when the first of them is asked for.
#[derive(Clone)]
struct Directions {
    rank: usize,
    weight: String,
    found: Arc<OnceLock<Result<(Tensor, Tensor), DecomposeError>>>,
}

impl Directions {
    fn get(&self, base: &Base) -> Result<&(Tensor, Tensor), EditError> {
        let found = self.found.get_or_init(|| {
            let weight = base.weight(&self.weight).map(BaseWeight::to_f32);
            let mut parts =
                svd(&weight.unwrap_or_else(|| Tensor::from_slice([0, 0], &[0f32; 0])))?.truncated(self.rank);
            let roots: Vec<f32> = parts.s.iter().map(|s| s.sqrt()).collect();
            let (rank, inputs) = (roots.len(), parts.vt.rows_cols().1);
            for row in parts.u.as_mut_slice::<f32>().chunks_exact_mut(rank.max(1)) {
                row.iter_mut().zip(&roots).for_each(|(v, root)| *v *= root);
            }
            let mut a = parts.vt.clone();
            for (row, root) in a.as_mut_slice::<f32>().chunks_exact_mut(inputs.max(1)).zip(&roots) {
                row.iter_mut().for_each(|v| *v *= root);
            }
            Ok((a, parts.u))
        });
        found.as_ref().map_err(|error| error.clone().into())
    }
}

impl TinyLoraConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "tinylora_only")
    }

    /// Which vector each of `maps` maps has.
    fn groups(&self, maps: usize) -> Vec<usize> {
        // Python's rounding, as in PEFT: halves to the even number.
        let groups = ((maps as f64 * (1.0 - self.weight_tying)).round_ties_even() as usize).max(1);
        let length = (maps / groups).max(1);
        (0..maps).map(|map| (map / length).min(groups - 1)).collect()
    }

    fn vector(&self, group: usize) -> ParamPlan {
        let init = match &self.init_weights {
            StartOfVector::Named(_) => Init::Uniform { bound: self.init_v_bound as f32 },
            StartOfVector::Zeros(_) => Init::Zeros,
        };
        ParamPlan::new(format!("base_model.tinylora_v.{group}"), &[self.u], init).full_precision()
    }

    /// The frozen matrices of map `number`: `A`, `B`, `P`.
    fn frozen(&self, weight: &BaseWeight, number: usize) -> [ParamPlan; 3] {
        let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
        let (rank, u) = (self.r.min(out).min(inputs), self.u);
        let directions = Directions { rank, weight: weight.name.clone(), found: Arc::default() };
        let of_b = directions.clone();
        let a = Init::Made(Box::new(move |base, _| Ok(directions.get(base)?.0.clone())));
        let b = Init::Made(Box::new(move |base, _| Ok(of_b.get(base)?.1.clone())));
        let seed = self.projection_seed.wrapping_add(number as u64);
        let deviation = (1.0 / (rank as f64).sqrt()) as f32;
        let p = Init::Computed(Box::new(move |_| {
            Tensor::from_slice([u, rank, rank], &TorchRandom::new(seed).normal(u * rank * rank, deviation))
        }));
        let p = ParamPlan::new(key(module, "tinylora_P"), &[u, rank, rank], p).fixed().full_precision();
        [
            ParamPlan::new(key(module, "tinylora_A"), &[rank, inputs], a).fixed(),
            ParamPlan::new(key(module, "tinylora_B"), &[out, rank], b).fixed(),
            if self.save_projection { p } else { p.not_saved() },
        ]
    }
}

impl Method for TinyLoraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let groups = self.groups(self.targets.modules(METHOD.name, base, Q_AND_V)?.len());
        let (mut number, mut vector) = (0, 0);
        self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (self.fields(), INERT),
            self.biases()?,
            |plan, weight| {
                if number == 0 || groups[number] != groups[number - 1] {
                    vector = plan.params.len();
                    plan.add([self.vector(groups[number])]);
                }
                let part = MadePairPart { made: Mixed, dropout: self.tinylora_dropout as f32 };
                plan.on_linear_sharing(weight, part, vector..vector + 1, self.frozen(weight, number));
                number += 1;
                Ok(())
            },
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// Singular directions with a mixture of random matrices between them.
struct Mixed;

impl MadePair for Mixed {
    fn pair(&self, tape: &Tape, values: &[Var]) -> (Var, Var) {
        let [v, a, b, p] = values else { unreachable!("TinyLoRA plans a vector and three matrices a map") };
        let (u, rank) = (p.value.dim(0), p.value.dim(1));
        let p = ops::reshape(tape, p, &[u, rank * rank]);
        let mixed = ops::product(tape, &ops::reshape(tape, v, &[1, u]), &p);
        let mixed = ops::convert(tape, &ops::reshape(tape, &mixed, &[rank, rank]), a.value.dtype());
        (ops::product(tape, &mixed, a), b.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By PEFT's own arithmetic, `max(1, round(n (1 - t)))` with Python's `round`.
    #[test]
    fn maps_share_vectors_in_runs() {
        let groups =
            |weight_tying: f64, maps: usize| TinyLoraConfig { weight_tying, ..Default::default() }.groups(maps);
        assert_eq!(groups(0.0, 4), [0, 1, 2, 3]);
        assert_eq!(groups(1.0, 4), [0; 4]);
        assert_eq!(groups(0.5, 5), [0, 0, 1, 1, 1], "2.5 is rounded to 2");
        assert_eq!(groups(0.6, 8), [0, 0, 1, 1, 2, 2, 2, 2]);
        assert_eq!(groups(0.25, 2), [0, 1], "1.5 is rounded to 2");
    }
}
