//! SHiRA (Bhardwaj et al. 2024, arXiv 2406.13175): a few fixed entries of each weight, chosen at random, are trained:
//! `y = x Wᵀ + x ΔWᵀ` with `ΔW` `[out, in]` zero but at `N = r (in + out)` places, as many numbers as LoRA of rank `r` has.
//!
//! The places are the first `N` of PyTorch's `randperm(out · in)` (seeded with `random_seed`; without one, with the run's own numbers),
//! in row-major order. Start: 0, so the model is unchanged. Fields and keys are PEFT's (`ShiraConfig`): `shira_weight` `[N]`,
//! `shira_indices` `[2, N]`. The product never holds a dense `ΔW`; merged, it is a [`SparseDelta`].

use std::sync::Arc;

use hone_engine::{Tensor, Var, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_rank, key, wrong};
use crate::sparse::SparseDelta;
use crate::torch_random::TorchRandom;

const NAME: &str = "shira";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "SHIRA",
    family: "selective",
    summary: "a few random entries of each weight",
    paper: "arXiv 2406.13175",
    formula: "W + ΔW, ΔW sparse",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<ShiraConfig>(),
};

/// Hugging Face's `ShiraConfig`, the honoured fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ShiraConfig {
    /// `r (in + out)` entries of each weight.
    pub r: usize,
    /// `random`: the only choice of places.
    pub mask_type: String,
    /// Seed of the places.
    pub random_seed: Option<u64>,
    /// Start at 0; `false` starts at normal numbers, for tests.
    pub init_weights: bool,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for ShiraConfig {
    fn default() -> Self {
        ShiraConfig {
            r: 32,
            mask_type: "random".into(),
            random_seed: None,
            init_weights: true,
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
    let config: ShiraConfig = config::read(NAME, &fields, INERT, origin, warnings)?;
    check_rank(NAME, "r", config.r)?;
    if config.mask_type != "random" {
        return Err(wrong(NAME, "mask_type", format!("`{}`", config.mask_type), "`random`"));
    }
    config.targets.check(NAME)?;
    Ok(Arc::new(config))
}

impl ShiraConfig {
    fn on_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (out, inputs) = (weight.shape[0], weight.shape[1]);
        let count = self.r * (out + inputs);
        if count > out * inputs {
            let expected =
                format!("at most {} (`{}` is [{out}, {inputs}])", out * inputs / (out + inputs), weight.module());
            return Err(wrong(NAME, "r", self.r.to_string(), expected));
        }
        let seed = self.random_seed.unwrap_or_else(|| seed_of(weight.module()));
        let places = move |_: &Base| {
            let mut places = TorchRandom::new(seed).permutation(out * inputs);
            places.truncate(count);
            places.sort_unstable();
            let rows = places.iter().map(|place| (place / inputs as u32) as f32);
            let columns = places.iter().map(|place| (place % inputs as u32) as f32);
            Tensor::from_slice([2, count], &rows.chain(columns).collect::<Vec<f32>>())
        };
        let first = if self.init_weights { Init::Zeros } else { Init::Normal { std: 1.0 } };
        let params = [
            ParamPlan::new(key(weight.module(), "shira_weight"), &[count], first),
            ParamPlan::new(key(weight.module(), "shira_indices"), &[2, count], Init::Computed(Box::new(places)))
                .fixed()
                .full_precision()
                .places_below(&[out, inputs]),
        ];
        plan.on_linear(weight, Entries { out, inputs }, params);
        Ok(())
    }
}

/// A seed of a map's own, so that maps of one shape differ (FNV-1a of its path).
fn seed_of(module: &str) -> u64 {
    module.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Method for ShiraConfig {
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

/// The entries of one map. Parameters: values `[N]`, places `[2, N]`.
pub(super) struct Entries {
    pub(super) out: usize,
    pub(super) inputs: usize,
}

/// Rows and columns as whole numbers (they are kept as `f32`, which is exact below 2²⁴).
fn places(indices: &Tensor) -> (Arc<[u32]>, Arc<[u32]>) {
    let all = indices.as_slice::<f32>();
    let whole = |half: &[f32]| half.iter().map(|place| *place as u32).collect::<Arc<[u32]>>();
    let (rows, columns) = all.split_at(all.len() / 2);
    (whole(rows), whole(columns))
}

impl Part for Entries {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let (rows, columns) = places(&at.values[1].value);
        let added = ops::sparse_product(tape, x, &at.values[0], &rows, &columns, self.out);
        ops::add_scaled(tape, &next(x), &ops::convert(tape, &added, at.cx.dtype), at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let (rows, columns) = places(&merge.values[1]);
        let flat = rows.iter().zip(columns.iter()).map(|(row, column)| row * self.inputs as u32 + column);
        let entries = flat.zip(merge.values[0].as_slice::<f32>().iter().copied());
        Ok(merge.with_sparse(&SparseDelta::of_entries(&[self.out, self.inputs], entries)))
    }
}
