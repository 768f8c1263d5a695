//! What LoHa and LoKr share: `y = x Wᵀ + b + s · x ΔWᵀ` with `ΔW` put together of small factors, and the dropouts of
//! LyCORIS (Yeh et al. 2023, arXiv 2309.14859), where both come from:
//!
//! - `rank_dropout`: in training each *row* of `ΔW` is left out with this probability (and, where a method says so, the
//!   rows that stay are divided by their share);
//! - `module_dropout`: in training the whole of `ΔW` is left out of a map with this probability.
//!
//! Ranks and scales are Hugging Face's: `s = alpha / r`, `rank_pattern` and `alpha_pattern` by module.

pub mod loha;
pub mod lokr;

use hone_engine::{Tensor, Var, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::BaseWeight;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{Delta, DeltaPart};
use crate::method::{At, Init, Merge, Part};
use crate::planning::{TargetFields, check_probability, check_rank, number_of, rank_of, wrong};

/// The fields both have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LycorisFields {
    /// Rank. Hugging Face's default is 8.
    pub r: usize,
    /// Scale: `alpha / r`. Hugging Face's default is 8.
    #[serde(serialize_with = "config::number")]
    pub alpha: f64,
    /// Probability that a row of `ΔW` is left out, in training.
    pub rank_dropout: f64,
    /// Probability that a map's whole `ΔW` is left out, in training.
    pub module_dropout: f64,
    /// Other ranks by name or regular expression.
    pub rank_pattern: Map<String, Value>,
    /// Other alphas by name or regular expression.
    pub alpha_pattern: Map<String, Value>,
}

impl Default for LycorisFields {
    fn default() -> Self {
        LycorisFields {
            r: 8,
            alpha: 8.0,
            rank_dropout: 0.0,
            module_dropout: 0.0,
            rank_pattern: Map::new(),
            alpha_pattern: Map::new(),
        }
    }
}

/// Fields Hugging Face has for convolutions.
const INERT: &[Inert] = &[Inert {
    field: "use_effective_conv2d",
    off: &["false"],
    reason: "it is for convolutions, which these models lack",
}];

/// A recipe's defaults: every linear map, `alpha` equal to the rank.
fn recommend(fields: &mut Map<String, Value>) {
    let r = fields.entry("r").or_insert(json!(8)).clone();
    fields.entry("alpha").or_insert(r);
    TargetFields::recommend(fields);
}

impl LycorisFields {
    fn check(&self, method: &'static str) -> Result<(), EditError> {
        check_rank(method, "r", self.r)?;
        check_probability(method, "rank_dropout", self.rank_dropout)?;
        check_probability(method, "module_dropout", self.module_dropout)?;
        match self.alpha.is_finite() && self.alpha != 0.0 {
            true => Ok(()),
            false => Err(wrong(method, "alpha", self.alpha.to_string(), "a number other than 0")),
        }
    }

    /// Rank and scale on `weight`.
    fn rank_and_scale(&self, method: &'static str, weight: &BaseWeight) -> Result<(usize, f32), EditError> {
        let rank = rank_of(method, &self.rank_pattern, weight.module(), self.r)?;
        let alpha = number_of((method, "alpha_pattern"), &self.alpha_pattern, weight.module(), self.alpha)?;
        Ok((rank, (alpha / rank as f64) as f32))
    }

    fn part<D: Delta>(&self, delta: D, rescaled: bool) -> LycorisPart<D> {
        let (rows, module) = (self.rank_dropout as f32, self.module_dropout as f32);
        LycorisPart { plain: DeltaPart::new(delta), rows, rescaled, module }
    }
}

/// Kaiming-uniform with `a = √5`: `U(±1/√columns)`.
fn kaiming(columns: usize) -> Init {
    Init::Uniform { bound: 1.0 / (columns.max(1) as f32).sqrt() }
}

/// A [`Delta`] with LyCORIS' dropouts.
struct LycorisPart<D> {
    plain: DeltaPart<D>,
    /// Probability that a row is left out.
    rows: f32,
    /// Whether the rows that stay are divided by their share.
    rescaled: bool,
    /// Probability that all is left out.
    module: f32,
}

impl<D: Delta> LycorisPart<D> {
    /// 0 for the rows of `ΔW` that are left out in this step, or nothing to multiply by.
    fn kept_rows(&self, at: &At, rows: usize) -> Option<Var> {
        if self.rows == 0.0 {
            return None;
        }
        let key = at.cx.key.named("rank dropout").named(at.name);
        let kept: Vec<f32> = (0..rows as u64).map(|row| f32::from(key.uniform(row) > self.rows)).collect();
        let share = match self.rescaled {
            true => kept.iter().sum::<f32>() / rows as f32,
            false => 1.0,
        };
        // Without any row there is nothing to rescale.
        let factor = if share > 0.0 { 1.0 / share } else { 1.0 };
        let kept: Vec<f32> = kept.into_iter().map(|kept| kept * factor).collect();
        Some(Var::constant(Tensor::from_slice([rows], &kept)))
    }
}

impl<D: Delta> Part for LycorisPart<D> {
    fn around_linear(&self, at: &At, linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        if !at.cx.training || (self.rows == 0.0 && self.module == 0.0) {
            return self.plain.around_linear(at, linear, x, next);
        }
        let left_out = self.module > 0.0 && at.cx.key.named("module dropout").named(at.name).uniform(0) <= self.module;
        if left_out {
            return next(x);
        }
        let (tape, mut added) = (&at.cx.tape, self.plain.added(at, linear, x));
        // A row of `ΔW` is a column of what it adds.
        if let Some(kept) = self.kept_rows(at, added.value.rows_cols().1) {
            added = ops::scale_columns(tape, &added, &kept);
        }
        ops::add_scaled(tape, &next(x), &added, at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        self.plain.merge(merge)
    }
}
